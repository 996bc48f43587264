"""Exact Euclidean distance to the background at chosen pixels, without a whole distance map.

The first pass is that of Meijster, Roerdink and Hesselink, "A general algorithm for computing distance
transforms in linear time" (2000), and is done once for a mask; the second visits only the pixels that are
asked for, so that its cost follows the vessel tree and not the photograph.
"""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled


class BackgroundDistance:
    """Distances to the background of one mask, prepared once and asked for many times.

    All that lies outside the array counts as background.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: `mask` is not two-dimensional.
    """

    def __init__(self, mask: np.ndarray) -> None:
        self._vertical = _vertical_distance(_validated(mask).view(np.uint8))

    def at(self, pixels: np.ndarray) -> np.ndarray:
        """Distance of pixels to the nearest background pixel, centre to centre.

        Args:
            pixels: (N, 2) integer row and column of the pixels, all inside the array.

        Returns:
            (N,) float64 distances in pixels; 0 for a pixel that is background itself.

        Raises:
            ValueError: a pixel lies outside the array.
        """
        return _distance_at(self._vertical, _pixels_within(self._vertical.shape, pixels))


def distance_to_background(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Distance of pixels to the nearest background pixel, for a mask that is asked once.

    See `BackgroundDistance` for the mask, and `BackgroundDistance.at` for the pixels, the result and errors.
    """
    return BackgroundDistance(mask).at(pixels)


def distance_to_background_reference(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The same from SciPy's distance map of the whole mask; see `distance_to_background`."""
    mask = _validated(mask)
    pixels = _pixels_within(mask.shape, pixels)
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))
    return distance[pixels[:, 0] + 1, pixels[:, 1] + 1]


def _validated(mask: np.ndarray) -> np.ndarray:
    mask = np.ascontiguousarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise ValueError(f"mask must be two-dimensional (H, W), got shape {mask.shape}")
    return mask


def _pixels_within(shape: tuple[int, ...], pixels: np.ndarray) -> np.ndarray:
    pixels = np.ascontiguousarray(pixels, dtype=np.int64).reshape(-1, 2)
    if len(pixels) and ((pixels < 0).any() or (pixels >= shape).any()):
        extent = f"{pixels.min(0)} to {pixels.max(0)}"
        raise ValueError(f"pixels must lie inside the {shape} mask, got {extent}")
    return pixels


@compiled
def _vertical_distance(mask):  # type: ignore[no-untyped-def]
    """(H, W) int32 distance to the nearest background pixel of the same column."""
    height, width = mask.shape
    vertical = np.empty((height, width), np.int32)
    if height == 0:
        return vertical
    for column in range(width):
        vertical[0, column] = mask[0, column]
    for row in range(1, height):
        for column in range(width):
            vertical[row, column] = (vertical[row - 1, column] + 1) * mask[row, column]
    for column in range(width):
        vertical[height - 1, column] = min(vertical[height - 1, column], 1)
    for row in range(height - 2, -1, -1):
        for column in range(width):
            vertical[row, column] = min(vertical[row, column], vertical[row + 1, column] + 1)
    return vertical


@compiled
def _distance_at(vertical, pixels):  # type: ignore[no-untyped-def]
    width = vertical.shape[1]
    distance = np.empty(len(pixels), np.float64)
    for i in range(len(pixels)):
        row, column = pixels[i, 0], pixels[i, 1]
        best = np.int64(vertical[row, column]) ** 2
        offset = np.int64(1)
        while offset * offset < best:
            for other in (column - offset, column + offset):
                height_there = np.int64(vertical[row, other]) if 0 <= other < width else np.int64(0)
                best = min(best, offset * offset + height_there * height_there)
            offset += 1
        distance[i] = np.sqrt(best)
    return distance
