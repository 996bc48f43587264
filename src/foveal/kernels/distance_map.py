"""Exact Euclidean distance of every pixel in some rows to the nearest pixel of a mask.

Two passes, the second by the lower envelope of parabolas: P. Felzenszwalb and D. Huttenlocher, "Distance
transforms of sampled functions", Theory of Computing 8, 2012. SciPy's map computes the nearest pixel as well
and is several times slower; where a mean over the image is wanted, a part of its rows is enough.
"""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled


def distance_map(mask: np.ndarray, *, every: int = 1) -> np.ndarray:
    """Distance of each pixel to the nearest True pixel, centre to centre, in every n-th row.

    Args:
        mask: (H, W) bool with at least one True pixel.
        every: 1 for all rows, 2 for rows 0, 2, 4, ...

    Returns:
        (ceil(H / every), W) float32 distances in pixels; 0 on the mask.

    Raises:
        ValueError: `mask` is not two-dimensional or has no True pixel, or `every` is less than 1.
    """
    return _distance_map(_validated(mask, every).view(np.uint8), every)


def distance_map_reference(mask: np.ndarray, *, every: int = 1) -> np.ndarray:
    """The same from SciPy's distance map; see `distance_map`."""
    return ndimage.distance_transform_edt(~_validated(mask, every))[::every].astype(np.float32)


def _validated(mask: np.ndarray, every: int) -> np.ndarray:
    mask = np.ascontiguousarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise ValueError(f"mask must be two-dimensional (H, W), got shape {mask.shape}")
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    if not mask.any():
        raise ValueError("mask has no True pixel to measure the distance to")
    return mask


@compiled
def _distance_map(mask, every):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    far = height + width
    vertical = np.empty((height, width), np.int32)
    for column in range(width):
        vertical[0, column] = 0 if mask[0, column] else far
    for row in range(1, height):
        for column in range(width):
            vertical[row, column] = 0 if mask[row, column] else vertical[row - 1, column] + 1
    for row in range(height - 2, -1, -1):
        for column in range(width):
            vertical[row, column] = min(vertical[row, column], vertical[row + 1, column] + 1)

    result = np.empty(((height + every - 1) // every, width), np.float32)
    seat = np.empty(width, np.int64)  # column of each parabola of the envelope
    start = np.empty(width + 1, np.float64)  # where it becomes the lowest
    for row in range(0, height, every):
        top = -1
        for column in range(width):
            if vertical[row, column] >= far:
                continue
            low = np.int64(vertical[row, column])
            here = float(low * low + column * column)
            begin = -1.0
            while top >= 0:
                q = seat[top]
                there = np.int64(vertical[row, q])
                begin = (here - float(there * there + q * q)) / (2.0 * (column - q))
                if begin > start[top]:
                    break
                top -= 1
            top += 1
            seat[top] = column
            start[top] = begin if top > 0 else -1.0
        parabola = 0
        for column in range(width):
            while parabola < top and start[parabola + 1] < column:
                parabola += 1
            low = np.int64(vertical[row, seat[parabola]])
            offset = column - seat[parabola]
            result[row // every, column] = np.sqrt(float(low * low + offset * offset))
    return result
