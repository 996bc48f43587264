"""Generalised (multifractal) dimensions of a vessel mask, by dyadic boxes that are never cut."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from foveal.kernels.boxes import box_areas

FINEST = 7  # the finest boxes are 1 / 2^FINEST of the square around the vessels
COARSEST = 3  # and at least 1 / 2^COARSEST: a line through fewer sizes says little
SMALLEST_BOX = 2  # pixels; below it a box sees pixels, not vessels
TRIMMED = 0.02  # of the area: the emptiest boxes that hold no more than this together do not count
MOMENT = 10  # the singularity strengths are taken at the moments -MOMENT and MOMENT


@dataclass(frozen=True)
class FractalDimensions:
    """Dimensions of a vessel mask and the straight lines that they are the slopes of.

    Attributes:
        d0: capacity (box-counting) dimension, 0 to 2.
        d1: information dimension, 0 to d0.
        d2: correlation dimension, 0 to d1.
        singularity_length: alpha(-10) - alpha(10), the width of the multifractal spectrum; 0 for a filled
            square. It is below 0 where the sparsest boxes grow more slowly with their size than the densest,
            as on the edge of a filled shape.
        log2_sizes: (K,) log2 of the side of the boxes in pixels, descending.
        entropies: (3, K) Renyi entropies of orders 0, 1 and 2, in bits.
        strengths: (2, K) mean log2 of the share of the mask in a box, under the moments -10 and 10.
        slopes: (5,) of the lines through `entropies`, then `strengths`, over `log2_sizes`, by least squares
            each on its own: -D0, -D1, -D2, alpha(-10), alpha(10), before the dimensions are put in order.
    """

    d0: float
    d1: float
    d2: float
    singularity_length: float
    log2_sizes: np.ndarray
    entropies: np.ndarray
    strengths: np.ndarray
    slopes: np.ndarray

    @property
    def fits(self) -> np.ndarray:
        """(5, K) values on the lines through `entropies` and `strengths`, with the dimensions in order."""
        slopes = np.concatenate([[-self.d0, -self.d1, -self.d2], self.slopes[3:]])
        observed = np.concatenate([self.entropies, self.strengths])
        offsets = self.log2_sizes - self.log2_sizes.mean()
        return observed.mean(axis=1, keepdims=True) + np.outer(slopes, offsets)


def fractal_dimensions(mask: np.ndarray) -> FractalDimensions:
    """D0, D1, D2 and the singularity length of a vessel mask.

    Boxes: the square around the vessels, of side L pixels, is divided into 2^k x 2^k boxes for k = 1 to 7,
    fewer where a box would be smaller than 2 pixels. No box is cut, and a pixel on the border of two boxes
    is shared out by area, so that a filled square has exactly 2 whatever its size. The boxes are fractions
    of the square, not numbers of pixels: thus the dimensions hardly depend on the resolution of the image,
    and describe how vessels branch rather than the inside of vessels, which is a plane at any finer size.
    Where the bounding box is not square, the square is laid at its one end and at its other, and what is
    regressed is averaged.

    Which boxes count: those with half a pixel of vessel or more, without the emptiest ones that hold at most
    2% of the area together. Otherwise every box that the tip of a vessel just enters, or a speck, would
    count as much as a full one in D0, and almost alone in the moment -10.

    Dimensions: D_q is the slope over log2(2^k) of the Renyi entropy H_q of the shares P of the area in the
    boxes: H_0 = log2 of the number of boxes, H_1 = -sum P log2 P, H_2 = -log2 sum P^2. At each size
    H_0 >= H_1 >= H_2, but the slopes of three lines fitted each on its own need not be in that order. The
    lines are therefore fitted together, by least squares under D0 >= D1 >= D2. As all three share the
    abscissae, the sum of squares is a constant plus a multiple of the squared distance from the three free
    slopes, and the constrained fit is their isotonic regression: slopes in order stay as they are, others
    are pooled into their mean.

    Singularity length: alpha(q) is the slope of sum mu log2 P over log2 of the box size, where mu = P^q /
    sum P^q (Chhabra and Jensen). Here the boxes slide over the square in steps of a quarter of their side (a
    half, for the finest), so that the extreme boxes do not hang on one grid.

    Args:
        mask: (H, W) bool, True on vessels.

    Returns:
        The dimensions with what they were fitted to. Quarter turns, mirror images and shifts of the mask
        change no bit of them. A one-pixel line of 300 pixels or more has 1 exactly along an axis, to within
        0.07 at 19 of 20 angles, and to within 0.21 at the worst ones, less than a degree off the diagonal,
        where the coarsest boxes see the diagonal only and the finer ones see its neighbours too.

    Raises:
        ValueError: the mask is not bool (H, W), is empty, or its vessels extend over less than 16 pixels.

    Source:
        Chhabra and Jensen, Phys. Rev. Lett. 62, 1327, 1989; the quantities are those of Fhima et al., PVBM,
        ECCV Workshops 2022, arXiv 2208.00392.
    """
    cropped = _cropped(mask)
    side = max(cropped.shape)
    levels = min(FINEST, (side // SMALLEST_BOX).bit_length() - 1)
    if levels < COARSEST:
        least = SMALLEST_BOX << COARSEST
        raise ValueError(f"the vessels extend over {side} pixels, too few for box counting ({least})")
    observed = np.mean([_observed(grids) for grids in _placements(cropped, levels)], axis=0)
    log2_sizes = np.log2(side) - np.arange(1, levels + 1)
    # From whole numbers, so that the slopes do not depend on the unit of length by a rounding.
    steps = np.arange(levels) - (levels - 1) / 2
    slopes = -(observed * steps).sum(axis=1) / (steps**2).sum()
    # One more halving adds 0 to 2 bits; the clip is for rounding and for the boxes that do not count.
    d0, d1, d2 = np.clip(isotonic_regression(-slopes[:3], increasing=False).x, 0, 2)
    return FractalDimensions(
        d0=float(d0),
        d1=float(d1),
        d2=float(d2),
        singularity_length=float(slopes[3] - slopes[4]),
        log2_sizes=log2_sizes,
        entropies=observed[:3],
        strengths=observed[3:],
        slopes=slopes,
    )


def _cropped(mask: np.ndarray) -> np.ndarray:
    """The bounding box of the vessels."""
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(f"mask must be a bool array (H, W), got {mask.dtype} of shape {mask.shape}")
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("the mask is empty: there is nothing to count boxes of")
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _placements(mask: np.ndarray, levels: int) -> list[list[np.ndarray]]:
    """Areas in 2^k x 2^k boxes, k = 0 to levels + 1, with the square at either end of the bounding box."""
    height, width = mask.shape
    side = max(height, width)
    # The longer side fills the square, so there are two placements at most.
    corners = sorted({(0, 0), (height - side, width - side)})
    placements = []
    for corner in corners:
        grids = [box_areas(mask, 2 << levels, corner=corner, side=side)]
        while len(grids[-1]) > 1:
            rows = grids[-1][::2] + grids[-1][1::2]
            grids.append(rows[:, ::2] + rows[:, 1::2])
        placements.append(grids[::-1])
    return placements


def _observed(grids: list[np.ndarray]) -> np.ndarray:
    """(5, K) entropies of order 0, 1, 2 and strengths at the moments -10 and 10 for k = 1 to K."""
    finest = len(grids) - 1
    total = int(grids[0][0, 0])
    half_pixel = (1 << 2 * finest) // 2
    columns = []
    for level in range(1, finest):
        finer = grids[min(level + 2, finest)]
        sliding = _sliding_sums(finer, len(finer) >> level)
        columns.append(
            _entropies(_counted(grids[level], half_pixel)) + _strengths(_counted(sliding, half_pixel) / total)
        )
    return np.array(columns).T


def _sliding_sums(grid: np.ndarray, width: int) -> np.ndarray:
    """Sum over the width x width cells from each cell on, where they all lie in the grid."""
    while width > 1:  # each turn doubles what a cell has summed up, so `width` is a power of two
        step = width // 2
        grid = grid[step:] + grid[:-step]
        grid = grid[:, step:] + grid[:, :-step]
        width = step
    return grid


def _counted(areas: np.ndarray, half_pixel: int) -> np.ndarray:
    """Areas of the boxes that count, ascending, so that no sum depends on how the image lies."""
    ascending = np.sort(areas[areas >= min(half_pixel, areas.max())])
    cumulated = ascending.cumsum()
    emptiest = ascending[np.searchsorted(cumulated, TRIMMED * cumulated[-1], side="right")]
    return ascending[np.searchsorted(ascending, emptiest) :]  # equals stay together


def _entropies(areas: np.ndarray) -> list[float]:
    """Renyi entropies of orders 0, 1 and 2, in bits."""
    shares = areas / areas.sum()
    return [np.log2(len(shares)), -(shares * np.log2(shares)).sum(), -np.log2((shares**2).sum())]


def _strengths(shares: np.ndarray) -> list[float]:
    """Mean log2 share under the moments -10 and 10; of shares in ascending order."""
    means = []
    for extreme, moment in ((shares[0], -MOMENT), (shares[-1], MOMENT)):
        # Weights are 1 at the extreme, so that nothing overflows, and below 2^-50 from 2^5 times on.
        near = slice(*np.searchsorted(shares, (extreme / 32, extreme * 32)))
        logs = np.log2(shares[near])
        weights = np.exp2(moment * (logs - np.log2(extreme)))
        means.append((weights * logs).sum() / weights.sum())
    return means
