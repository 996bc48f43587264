"""Drawing tapered tubes: an exact mask and a soft optical density from centre lines and calibres."""

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

_SAMPLES_AT_ONCE = 1_500_000


@dataclass(frozen=True)
class Tubes:
    """What `draw_tubes` returns, each (H, W).

    Attributes:
        mask: bool; pixel centres within half a calibre of a centre line.
        density: float32, at least 0; blurred optical density, `strength` on the axis of a wide tube.
    """

    mask: np.ndarray
    density: np.ndarray


def draw_tubes(
    shape: tuple[int, int],
    starts: np.ndarray,
    ends: np.ndarray,
    widths: np.ndarray,
    *,
    strength: np.ndarray,
    reflex: float = 0.0,
    blur: float = 0.6,
) -> Tubes:
    """Draw straight tapered pieces of tube.

    Args:
        shape: (H, W) of the picture.
        starts, ends: (E, 2) row and column of the ends of every piece, pixels (centres at whole numbers).
        widths: (E, 2) calibre at the start and at the end, pixels.
        strength: (E,) optical density on the axis.
        reflex: share of the density that the light reflex takes away on the axis of a wide tube, 0 to 1.
        blur: standard deviation of the optical blur, pixels.

    Returns:
        The mask and the density; where pieces overlap the denser one counts.
    """
    mask = np.zeros(shape, bool)
    density = np.zeros(shape, np.float32)
    if len(starts) == 0:
        return Tubes(mask, density)
    middle = np.rint((starts + ends) / 2).astype(np.int64)
    extent = np.abs(ends - starts).max(1) / 2 + widths.max(1) / 2 + 3 * blur + 1
    half = 2 * np.ceil(extent / 2).astype(np.int64)  # even half-windows only: few sizes, few batches
    for size in np.unique(half):
        offsets = np.arange(-size, size + 1)
        pieces = np.flatnonzero(half == size)
        batch = max(1, _SAMPLES_AT_ONCE // len(offsets) ** 2)
        for first in range(0, len(pieces), batch):
            chosen = pieces[first : first + batch]
            _draw_batch(
                mask,
                density,
                offsets,
                middle[chosen],
                starts[chosen],
                ends[chosen],
                widths[chosen],
                strength[chosen],
                reflex,
                blur,
            )
    return Tubes(mask, density)


def _draw_batch(
    mask: np.ndarray,
    density: np.ndarray,
    offsets: np.ndarray,
    middle: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    widths: np.ndarray,
    strength: np.ndarray,
    reflex: float,
    blur: float,
) -> None:
    height, width = mask.shape
    rows = middle[:, 0, None, None] + offsets[None, :, None]
    columns = middle[:, 1, None, None] + offsets[None, None, :]
    along = (ends - starts)[:, :, None, None]
    squared = np.maximum((along**2).sum(1), 1e-12)
    off_row, off_column = rows - starts[:, 0, None, None], columns - starts[:, 1, None, None]
    place = np.clip((off_row * along[:, 0] + off_column * along[:, 1]) / squared, 0, 1)
    distance = np.hypot(off_row - place * along[:, 0], off_column - place * along[:, 1])
    radius = (widths[:, 0, None, None] + place * (widths[:, 1] - widths[:, 0])[:, None, None]) / 2
    visible = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    visible &= distance <= radius + 3 * blur
    index = (rows * width + columns)[visible]
    distance, radius = distance[visible], radius[visible]
    mask.flat[index[distance <= radius]] = True
    # A strip of uniform density seen through a Gaussian, rounded off like the chord of a cylinder.
    spread = np.sqrt(2) * blur
    profile = 0.5 * (erf((radius - distance) / spread) + erf((radius + distance) / spread))
    profile *= np.sqrt(np.clip(1 - 0.6 * (distance / (radius + 2 * blur)) ** 2, 0.1, 1))
    if reflex > 0:
        seen = reflex * np.clip((radius - 1.0) / 1.5, 0, 1)
        profile *= 1 - seen * np.exp(-((distance / (0.38 * radius + 0.2)) ** 2))
    value = (profile * np.broadcast_to(strength[:, None, None], visible.shape)[visible]).astype(np.float32)
    np.maximum.at(density.reshape(-1), index, value)
