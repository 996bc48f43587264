"""For each pixel of a mask the nearest of many seeds, found along the mask."""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled


def nearest_seed(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Number of the seed nearest to each pixel of a mask.

    Seeds spread over the mask ring by ring, each pixel keeping the nearest of the seeds that its eight
    neighbours hand on: what lies beyond a gap in the mask is not reached, however near. Within a vessel that
    is the nearest seed in a straight line, but for rare ties of less than a pixel.

    Args:
        mask: (H, W) bool.
        seeds: (N, 2) integer row and column; those off the mask are ignored.

    Returns:
        (H, W) int32 number of a seed; -1 off the mask, and where no seed is reached.

    Raises:
        ValueError: `mask` is not two-dimensional.
    """
    mask, seeds = _validated(mask, seeds)
    return _spread(mask.view(np.uint8), seeds)


def nearest_seed_reference(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The nearest seed in a straight line, from SciPy, in the parts of the mask that hold a seed."""
    mask, seeds = _validated(mask, seeds)
    number = np.full(mask.shape, -1, np.int32)
    inside = ((seeds >= 0) & (seeds < mask.shape)).all(axis=1)
    for index in np.flatnonzero(inside)[::-1]:
        if mask[tuple(seeds[index])]:
            number[tuple(seeds[index])] = index
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    result = np.full(mask.shape, -1, np.int32)
    for part in range(1, count + 1):
        here = parts == part
        own = np.where(here, number, -1)
        if (own >= 0).any():
            _, nearest = ndimage.distance_transform_edt(own < 0, return_indices=True)
            result[here] = own[tuple(nearest)][here]
    return result


def _validated(mask: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ascontiguousarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise ValueError(f"mask must be two-dimensional (H, W), got shape {mask.shape}")
    return mask, np.ascontiguousarray(seeds, dtype=np.int64).reshape(-1, 2)


@compiled
def _spread(mask, seeds):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    nearest = np.full((height, width), -1, np.int32)
    front = np.empty(2 * mask.size + len(seeds) + 1, np.int64)
    filled = 0
    for index in range(len(seeds)):
        row, column = seeds[index, 0], seeds[index, 1]
        if 0 <= row < height and 0 <= column < width and mask[row, column] and nearest[row, column] < 0:
            nearest[row, column] = index
            front[filled] = row * width + column
            filled += 1
    done = 0
    while done < filled:
        row, column = front[done] // width, front[done] % width
        done += 1
        seed = nearest[row, column]
        for down in range(-1, 2):
            for right in range(-1, 2):
                i, j = row + down, column + right
                if not (0 <= i < height and 0 <= j < width) or not mask[i, j]:
                    continue
                known = nearest[i, j]
                far = (i - seeds[seed, 0]) ** 2 + (j - seeds[seed, 1]) ** 2
                if known < 0 or far < (i - seeds[known, 0]) ** 2 + (j - seeds[known, 1]) ** 2:
                    nearest[i, j] = seed
                    if filled < len(front):
                        front[filled] = i * width + j
                        filled += 1
    return nearest
