"""Chamfer distance transform with the 5x5 mask (Borgefors, 1986): two raster passes, within 2% of Euclid."""

from __future__ import annotations

import numpy as np
from numba import njit

# Least-squares optimal steps for a side, a diagonal and a knight's move.
_SIDE, _DIAGONAL, _KNIGHT = np.float32(1.0), np.float32(1.4), np.float32(2.1969)


def chamfer_distance(mask: np.ndarray) -> np.ndarray:
    """Chamfer-5 distance of every True pixel to the nearest False one.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) float32; 0 where the mask is False, infinite where it has no False pixel at all.
    """
    return _two_passes(np.ascontiguousarray(mask, dtype=np.bool_))


@njit(cache=True, nogil=True)
def _two_passes(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    # A frame of two pixels that are infinitely far keeps the passes free of border cases.
    d = np.full((height + 4, width + 4), np.inf, dtype=np.float32)
    for i in range(height):
        for j in range(width):
            if not mask[i, j]:
                d[i + 2, j + 2] = 0.0
    for sweep in range(2):
        for a in range(height):
            for b in range(width):
                # The second sweep runs backwards and looks the other way.
                s = 1 if sweep == 0 else -1
                i = (a if sweep == 0 else height - 1 - a) + 2
                j = (b if sweep == 0 else width - 1 - b) + 2
                best = d[i, j]
                if best > 0:
                    best = min(best, d[i, j - s] + _SIDE, d[i - s, j] + _SIDE)
                    best = min(best, d[i - s, j - 1] + _DIAGONAL, d[i - s, j + 1] + _DIAGONAL)
                    best = min(best, d[i - s, j - 2] + _KNIGHT, d[i - s, j + 2] + _KNIGHT)
                    best = min(best, d[i - 2 * s, j - 1] + _KNIGHT, d[i - 2 * s, j + 1] + _KNIGHT)
                    d[i, j] = best
    return d[2:-2, 2:-2].copy()
