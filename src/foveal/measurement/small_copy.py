"""A photograph's field at reduced resolution, and the way back: where landmarks are looked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

DIAMETER = 256  # pixels that the field's diameter has in the copy: an optic disc's has 25 to 65


@dataclass(frozen=True)
class SmallCopy:
    """The box of a field, resampled by averaging.

    Attributes:
        field: (h, w) bool.
        diameter: of the field, pixels of the copy.
        origin: row and column of the photograph at which the box begins.
        step: pixels of the photograph, (down, across), that a pixel of the copy averages.
    """

    field: np.ndarray
    diameter: float
    origin: tuple[int, int]
    step: tuple[float, float]

    def shrink(self, values: np.ndarray) -> np.ndarray:
        """The part of (H, W) values in the box: (h, w) float32, in the units of the values.

        Args:
            values: (H, W) bool, uint8 or float32, of the photograph.
        """
        height, width = self.field.shape
        return _shrink(values, self.origin, self.step, (height, width))

    def shrink_inside(self, values: np.ndarray, field: "FieldOfView") -> np.ndarray:
        """As `shrink`, averaged over pixels inside the field alone; (h, w) float32, 0 outside it."""
        share = self.shrink(field.mask)
        inside = self.shrink(np.where(field.mask, values, values.dtype.type(0)))
        return np.where(self.field, inside / np.maximum(share, 0.5), np.float32(0))

    def blur(self, values: np.ndarray, sigma: float, weight: np.ndarray | None = None) -> np.ndarray:
        """Gaussian mean of (h, w) values over the field, 0 outside it.

        Args:
            values: (h, w) float32.
            sigma: pixels of the copy.
            weight: (h, w), at least 0; None weighs all of the field alike.
        """
        counted = self.field.astype(np.float32) if weight is None else np.where(self.field, weight, 0)
        total = gaussian_filter(counted.astype(np.float32), sigma, mode="constant", truncate=3)
        mean = gaussian_filter(values * counted, sigma, mode="constant", truncate=3)
        return np.where(self.field, mean / np.maximum(total, 1e-6), 0).astype(np.float32)

    def to_photograph(self, points: np.ndarray) -> np.ndarray:
        """Carry (..., 2) row and column positions on the copy to the photograph."""
        return (points + 0.5) * self.step - 0.5 + self.origin

    def to_copy(self, points: np.ndarray) -> np.ndarray:
        """Carry (..., 2) row and column positions on the photograph to the copy."""
        return (np.asarray(points) + 0.5 - self.origin) / self.step - 0.5

    @property
    def mean_step(self) -> float:
        """Pixels of the photograph that a pixel of the copy is long, on average over directions."""
        return float(np.sqrt(self.step[0] * self.step[1]))


def small_copy(field: "FieldOfView") -> SmallCopy:
    """Lay out the copy of a field; its pixels are square to within the rounding of its sides.

    Args:
        field: a field of view; one smaller than the copy is enlarged.
    """
    top, left, bottom, right = field.box
    scale = DIAMETER / field.diameter
    shape = max(round((bottom - top) * scale), 1), max(round((right - left) * scale), 1)
    step = (bottom - top) / shape[0], (right - left) / shape[1]
    mask = _shrink(field.mask, (top, left), step, shape) > 0.5
    return SmallCopy(mask, DIAMETER, (top, left), step)


def _shrink(
    values: np.ndarray, origin: tuple[int, int], step: tuple[float, float], shape: tuple[int, int]
) -> np.ndarray:
    ends = [round(o + s * n) for o, s, n in zip(origin, step, shape, strict=True)]
    part = values[origin[0] : ends[0], origin[1] : ends[1]]
    as_bytes = part.dtype == bool
    if as_bytes:
        part = part.view(np.uint8) * np.uint8(255)
    image = Image.fromarray(np.ascontiguousarray(part))
    method = Image.Resampling.BOX if min(step) > 1 else Image.Resampling.BILINEAR
    small = np.asarray(image.resize((shape[1], shape[0]), method), dtype=np.float32)
    return small / np.float32(255) if as_bytes else small
