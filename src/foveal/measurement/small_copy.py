"""A photograph's field at reduced resolution, and the way back: where landmarks are looked for."""

from dataclasses import dataclass
from functools import cached_property
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
        share: (h, w) float32, share of each pixel that is inside the field.
        inside: (H', W') bool, the field's mask within its box, at the photograph's size.
        diameter: of the field, pixels of the copy.
        origin: row and column of the photograph at which the box begins.
        step: pixels of the photograph, (down, across), that a pixel of the copy averages.
    """

    share: np.ndarray
    inside: np.ndarray
    diameter: float
    origin: tuple[int, int]
    step: tuple[float, float]

    @cached_property
    def field(self) -> np.ndarray:
        """(h, w) bool: pixels that are at least half inside the field."""
        return self.share > 0.5

    def shrink(self, values: np.ndarray) -> np.ndarray:
        """The mean of (H, W) values over each pixel's part inside the field.

        Args:
            values: (H, W) bool, uint8 or float32, of the photograph.

        Returns:
            (h, w) float32 in the units of the values, 0 outside the field.
        """
        top, left = self.origin
        part = values[top : top + self.inside.shape[0], left : left + self.inside.shape[1]]
        inside = _shrink(np.where(self.inside, part, values.dtype.type(0)), self.share.shape)
        return np.where(self.field, inside / np.maximum(self.share, 0.5), np.float32(0))

    def keep_inside(self, means: np.ndarray) -> np.ndarray:
        """(h, w) means over whole pixels, as of a map that was made small otherwise, 0 outside the field."""
        return np.where(self.field, means, np.float32(0))

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
    inside = field.mask[top:bottom, left:right]
    return SmallCopy(_shrink(inside, shape), inside, DIAMETER, (top, left), step)


def _shrink(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Means of (H, W) values over (h, w) equal parts, float32."""
    as_bytes = values.dtype == bool
    image = Image.fromarray(values.view(np.uint8) * np.uint8(255) if as_bytes else values)
    method = Image.Resampling.BOX if shape[0] < values.shape[0] else Image.Resampling.BILINEAR
    small = np.asarray(image.resize((shape[1], shape[0]), method, reducing_gap=3.0), dtype=np.float32)
    return small / np.float32(255) if as_bytes else small
