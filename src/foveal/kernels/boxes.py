"""Dyadic box counting of binary images."""

import numpy as np

from foveal.kernels.compiled import compiled


def box_counts(mask: np.ndarray) -> np.ndarray:
    """Number of occupied boxes at every dyadic size, on a grid that starts at the first pixel.

    The image is continued with background to the next power of two, so that no box is cut.

    Args:
        mask: (H, W) bool.

    Returns:
        (K + 1,) int64: entry k counts the boxes of side 2^k that hold a pixel of the mask; 2^K is the
        smallest power of two that covers the longer side.

    Raises:
        ValueError: `mask` is not two-dimensional or has no pixel.
    """
    return _count(_validated(mask).view(np.uint8))


def box_counts_reference(mask: np.ndarray) -> np.ndarray:
    """The same by repeated halving of the padded image; see `box_counts`."""
    mask = _validated(mask)
    side = 1 << (max(mask.shape) - 1).bit_length()
    level = np.pad(mask, ((0, side - mask.shape[0]), (0, side - mask.shape[1])))
    counts = [level.sum()]
    while len(level) > 1:
        level = level[::2, ::2] | level[1::2, ::2] | level[::2, 1::2] | level[1::2, 1::2]
        counts.append(level.sum())
    return np.array(counts, np.int64)


def _validated(mask: np.ndarray) -> np.ndarray:
    mask = np.ascontiguousarray(mask, dtype=bool)
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"mask must be a non-empty (H, W) array, got shape {mask.shape}")
    return mask


@compiled
def _count(mask):  # type: ignore[no-untyped-def]
    height, width = mask.shape
    levels = 0
    while (1 << levels) < max(height, width):
        levels += 1
    counts = np.zeros(levels + 1, np.int64)
    # In place on a copy: each level is read from, and written to, its first rows and columns.
    level = np.empty((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            level[row, column] = mask[row, column]
            counts[0] += mask[row, column]
    for k in range(1, levels + 1):
        halved_height, halved_width = (height + 1) >> 1, (width + 1) >> 1
        for row in range(halved_height):
            below = min(2 * row + 1, height - 1)
            for column in range(halved_width):
                right = min(2 * column + 1, width - 1)
                occupied = (
                    level[2 * row, 2 * column]
                    | level[2 * row, right]
                    | level[below, 2 * column]
                    | level[below, right]
                )
                level[row, column] = occupied
                counts[k] += occupied
        height, width = halved_height, halved_width
    return counts
