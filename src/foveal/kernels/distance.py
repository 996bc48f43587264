"""Exact Euclidean distance to the background at chosen pixels, without a whole distance map.

The first pass is that of Meijster, Roerdink and Hesselink, "A general algorithm for computing distance
transforms in linear time" (2000); the second visits only the pixels that were asked for, so that its cost
follows the vessel tree and not the photograph.
"""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled


def distance_to_background(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Distance of pixels to the nearest background pixel, centre to centre.

    All that lies outside the array counts as background.

    Args:
        mask: (H, W) bool.
        pixels: (N, 2) integer row and column of the pixels, all inside the array.

    Returns:
        (N,) float64 distances in pixels; 0 for a pixel that is background itself.

    Raises:
        ValueError: `mask` is not two-dimensional, or a pixel lies outside it.
    """
    mask, pixels = _validated(mask, pixels)
    return _distance_at(mask.view(np.uint8), pixels)


def distance_to_background_reference(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The same from SciPy's distance map of the whole mask; see `distance_to_background`."""
    mask, pixels = _validated(mask, pixels)
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))
    return distance[pixels[:, 0] + 1, pixels[:, 1] + 1]


def _validated(mask: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ascontiguousarray(mask, dtype=bool)
    pixels = np.ascontiguousarray(pixels, dtype=np.int64).reshape(-1, 2)
    if mask.ndim != 2:
        raise ValueError(f"mask must be two-dimensional (H, W), got shape {mask.shape}")
    if len(pixels) and ((pixels < 0).any() or (pixels >= mask.shape).any()):
        extent = f"{pixels.min(0)} to {pixels.max(0)}"
        raise ValueError(f"pixels must lie inside the {mask.shape} mask, got {extent}")
    return mask, pixels


@compiled
def _distance_at(mask, pixels):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    vertical = np.empty((height, width), np.int32)
    for column in range(width):
        vertical[0, column] = mask[0, column]
    for row in range(1, height):
        for column in range(width):
            vertical[row, column] = (vertical[row - 1, column] + 1) if mask[row, column] else 0
    for column in range(width):
        vertical[height - 1, column] = min(vertical[height - 1, column], 1)
    for row in range(height - 2, -1, -1):
        for column in range(width):
            vertical[row, column] = min(vertical[row, column], vertical[row + 1, column] + 1)

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
