"""Filling of small holes in a mask, by looks at the places where a hole can begin."""

import numpy as np
from scipy import ndimage

from foveal.kernels.compiled import compiled


def fill_holes(mask: np.ndarray, largest: int) -> np.ndarray:
    """Fill the holes of at most this many pixels.

    A hole is background that is connected by sides and does not reach the border of the array.

    Args:
        mask: (H, W) bool.
        largest: area of the largest hole that is filled, in pixels; 0 fills none.

    Returns:
        (H, W) bool, a new array.

    Raises:
        ValueError: `mask` is not two-dimensional, or `largest` is negative.
    """
    mask = _validated(mask, largest)
    return _fill(mask.view(np.uint8), int(min(largest, mask.size))).view(bool)


def fill_holes_reference(mask: np.ndarray, largest: int) -> np.ndarray:
    """The same by labelling the whole background; see `fill_holes`."""
    mask = _validated(mask, largest)
    labels, count = ndimage.label(~mask)
    small = np.bincount(labels.ravel(), minlength=count + 1) <= largest
    small[0] = False
    for border in (labels[:1], labels[-1:], labels[:, :1], labels[:, -1:]):
        small[border] = False
    return mask | small[labels]


def _validated(mask: np.ndarray, largest: int) -> np.ndarray:
    if mask.ndim != 2:
        raise ValueError(f"mask must be two-dimensional (H, W), got shape {mask.shape}")
    if not largest >= 0:
        raise ValueError(f"largest must be 0 or more, got {largest}")
    return np.ascontiguousarray(mask, dtype=bool)


@compiled
def _fill(mask, largest):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    filled = mask.copy()
    # The first pixel of a hole in reading order has the mask above it and to its left. From there the hole
    # is followed until it is too large, or reaches the border or pixels (2) that were followed before and
    # belong to no small hole: so each pixel is followed at most once.
    hole = np.empty((largest + 1, 2), np.int64)
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            if mask[row, column] or not (mask[row - 1, column] and mask[row, column - 1]):
                continue
            if filled[row, column]:
                continue
            hole[0, 0], hole[0, 1] = row, column
            filled[row, column] = 1
            done, size, small = 0, 1, largest > 0
            while small and done < size:
                r, c = hole[done, 0], hole[done, 1]
                done += 1
                if r == 0 or c == 0 or r == height - 1 or c == width - 1:
                    small = False
                    break
                for step in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                    i, j = r + step[0], c + step[1]
                    if filled[i, j] == 2:
                        small = False
                    elif filled[i, j] == 0:
                        if size == largest:
                            small = False
                            break
                        filled[i, j] = 1
                        hole[size, 0], hole[size, 1] = i, j
                        size += 1
            if not small:
                for k in range(size):
                    filled[hole[k, 0], hole[k, 1]] = 2
    for row in range(height):
        for column in range(width):
            filled[row, column] &= 1
    return filled
