"""Multifractal dimensions as PVBM has them: boxes on the rotated image, the best of several rotations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveal.kernels.rotated_boxes import framed_clearance, rotated_box_masses, rotated_shape

SIZES = 20
SMALLEST_BOX = 5  # pixels
LARGEST_BOX = 0.6  # of the shorter side of the rotated image
FALLBACK_OCCUPANCY = (0.001, 1.0)


@dataclass(frozen=True)
class Pvbm3Fractals:
    """Multifractal dimensions; all NaN where the package stops with an error.

    Attributes:
        d0: capacity dimension.
        d1: information dimension.
        d2: correlation dimension.
        singularity_length: width of the range of singularity strengths between the moments -10 and 10.
        rotation: of the image in degrees, at which these were found.
    """

    d0: float
    d1: float
    d2: float
    singularity_length: float
    rotation: float


def measure_fractals(
    mask: np.ndarray,
    *,
    rotations: int = 25,
    occupancy: tuple[float, float] = (0.01, 0.98),
    moment: float = 10,
) -> Pvbm3Fractals:
    """D0, D1, D2 and singularity length as `FractalAnalysis.MultifractalVBMs.compute_multifractals` has them.

    The image is rotated by equal steps from 0 to 360 degrees. At each rotation it is divided into boxes of 20
    sizes from 5 pixels to 0.6 of the shorter side, and the boxes whose occupancy lies within the limits give
    the shares P of the mass. The slopes over ln size are the dimensions. Of the rotations with D0 > D1 > D2
    the one with the greatest D0 is taken, of all where there is none.

    What to know before comparing with other measures:
        - 0 and 360 degrees are the same turn: with 25 rotations there are 24.
        - Bilinear rotation blurs the mask, so that masses are fractions.
        - Boxes at the lower and right edge are cut but divided by the area of a whole box: a filled square
          has 1.90 to 1.95 rather than 2.
        - Sizes are fixed numbers of pixels at the small end: dimensions depend on the resolution.
        - The paper's examples use the occupancy limits (0.0001, 0.9999), the package's default is another.

    Args:
        mask: (H, W) bool, True on vessels.
        rotations: number of rotations; 1 for the image as it is (`optimize=False` in the package).
        occupancy: lower and upper limit of the occupancy of boxes that count, inclusive; where none does,
            0.001 to 1.
        moment: the positive moment of the singularity length, and its negative.

    Returns:
        The dimensions; NaN for an empty or full mask, for one so thin that no pixel of a rotated image is
        1, and for one so small that its boxes have one size or none has mass within the limits.

    Raises:
        ValueError: `mask` is not a bool array (H, W), or `rotations` is less than 1.

    Source:
        Fhima et al., "PVBM: A Python Vasculature Biomarker Toolbox Based On Retinal Blood Vessel
        Segmentation", ECCV Workshops 2022, arXiv 2208.00392; package pvbm 3.0.1; A. Chhabra and R. V.
        Jensen, "Direct determination of the f(alpha) singularity spectrum", Phys. Rev. Lett. 62, 1989.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask must be a bool array (H, W), got {mask.dtype} of shape {mask.shape}")
    if rotations < 1:
        raise ValueError(f"rotations must be 1 or more, got {rotations}")
    missing = Pvbm3Fractals(*[float("nan")] * 5)
    if not mask.any() or mask.all():
        return missing
    found = []
    clearance = framed_clearance(mask)
    for degrees in np.linspace(0, 360, rotations):
        slopes = _slopes_at(clearance, float(degrees), occupancy, moment)
        if slopes is None:
            return missing
        found.append(Pvbm3Fractals(*slopes, float(degrees)))
    ordered = [one for one in found if one.d0 > one.d1 > one.d2]
    return max(ordered or found, key=lambda one: one.d0)  # of equals the first


def _slopes_at(
    clearance: np.ndarray, degrees: float, occupancy: tuple[float, float], moment: float
) -> tuple[float, float, float, float] | None:
    """D0, D1, D2 and singularity length at one rotation; None where the package stops."""
    shorter = min(rotated_shape((clearance.shape[0] - 2, clearance.shape[1] - 2), degrees))
    sizes = np.linspace(SMALLEST_BOX, int(LARGEST_BOX * shorter), SIZES).astype(np.int64)
    if sizes[0] == sizes[-1] or sizes[-1] < 1:
        return None
    rotated = rotated_box_masses(clearance, degrees, sizes)
    if rotated.highest != 1 or rotated.lowest != 0:
        return None
    terms = []
    for size, masses in zip(sizes, rotated.masses, strict=True):
        shares = _shares(masses.ravel(), size, (occupancy, FALLBACK_OCCUPANCY))
        if shares is None:
            return None
        terms.append(_moments(shares, moment))
    d0, d1, d2, weakest, strongest = np.array(terms).T
    logs = np.log(sizes)
    width = abs(_slope(logs, weakest) - _slope(logs, strongest))
    return _slope(-logs, d0), _slope(-logs, d1), _slope(-logs, d2), width


def _shares(masses: np.ndarray, size: int, limits: Sequence[tuple[float, float]]) -> np.ndarray | None:
    """Shares of the mass in the boxes within the first limits that any box is within; None for none."""
    filling = masses / size**2
    for low, high in limits:
        kept = masses[(filling >= low) & (filling <= high)]
        total = kept.sum()
        if total > 0:
            shares = kept / total
            return shares[shares > 0]
    return None


def _moments(shares: np.ndarray, moment: float) -> tuple[float, float, float, float, float]:
    """What D0, D1, D2 and the singularity strengths at -moment and moment are slopes of."""
    logs = np.log(shares)
    strengths = []
    for q in (-moment, moment):
        # P^q over its largest value: the same weights, and no overflow.
        weights = np.exp(q * (logs - (logs.max() if q > 0 else logs.min())))
        strengths.append((weights * logs).sum() / weights.sum())
    return (
        np.log(len(shares)),
        -(shares * logs).sum(),
        -np.log((shares**2).sum()),
        strengths[0],
        strengths[1],
    )


def _slope(abscissae: np.ndarray, ordinates: np.ndarray) -> float:
    """Slope of the least-squares line."""
    covariance = np.cov(abscissae, ordinates, bias=True)
    return float(covariance[0, 1] / covariance[0, 0])
