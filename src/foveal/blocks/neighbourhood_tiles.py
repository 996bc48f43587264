"""Which positions see which in neighbourhood attention, and tiles of queries with the keys they share."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

TILES = (5, 6, 7, 8)
"""Sides that a tile of queries may have, in positions of one residue class."""


class AxisTiles(NamedTuple):
    """Queries of one axis in T tiles of Q, and the U keys that the queries of a tile see between them.

    Attributes:
        queries: (T, Q) positions; the last tile of a class repeats its last position.
        keys: (T, U) positions; a class shorter than U repeats its last position.
        offsets: (T, Q, U) s + t - j + k - 1 in 0..2k - 2 where the query sees the key, else -1.
        home: (n,) where in `queries`, flattened, each position lies.
    """

    queries: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray
    home: np.ndarray


def fit_neighbourhood(length: int, kernel: int, dilation: int) -> tuple[int, int]:
    """Kernel and dilation that an axis of `length` has room for: the dilation is reduced before the kernel.

    Example:
        >>> fit_neighbourhood(20, 7, 4), fit_neighbourhood(6, 7, 2)
        ((7, 2), (5, 1))
    """
    dilation = max(1, min(dilation, length // kernel))
    if length < kernel:
        kernel = length if length % 2 else length - 1
    return max(kernel, 1), dilation


@lru_cache(maxsize=256)
def neighbours(length: int, kernel: int, dilation: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, k) that each position of an axis sees, and the entries (n, k) of the bias.

    Raises:
        ValueError: fewer than kernel x dilation positions, or an even kernel.
    """
    if kernel % 2 == 0 or kernel < 1 or dilation < 1:
        raise ValueError(
            f"kernel {kernel}, dilation {dilation}; allowed: an odd kernel, a dilation from 1 on"
        )
    if length < kernel * dilation:
        raise ValueError(
            f"{length} positions are fewer than kernel {kernel} x dilation {dilation}; "
            f"`fit_neighbourhood` reduces them to {fit_neighbourhood(length, kernel, dilation)}"
        )
    position = np.arange(length)
    group, rank = position % dilation, position // dilation
    size = -((group - length) // dilation)  # ceil((n - g) / e)
    seen = np.clip(rank - kernel // 2, 0, size - kernel)[:, None] + np.arange(kernel)
    return group[:, None] + dilation * seen, seen - rank[:, None] + kernel - 1


@lru_cache(maxsize=256)
def axis_tiles(length: int, kernel: int, dilation: int, tile: int) -> AxisTiles:
    """The tiles of an axis: `tile` neighbouring positions of one residue class each."""
    seen, entries = neighbours(length, kernel, dilation)
    reach = min(-(-length // dilation), tile + kernel - 1)
    queries: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    home = np.empty(length, dtype=np.int64)
    for group in range(dilation):
        members = np.arange(group, length, dilation)
        for start in range(0, len(members), tile):
            rows = members[np.minimum(np.arange(start, start + tile), len(members) - 1)]
            first = min(max(int(seen[rows[0], 0]) // dilation, 0), max(len(members) - reach, 0))
            numbers = first + np.arange(reach)
            columns = members[np.minimum(numbers, len(members) - 1)]
            there = numbers < len(members)
            table = np.full((tile, reach), -1)
            number = seen[rows] // dilation - first  # (Q, k) places in `columns`
            np.put_along_axis(table, number, entries[rows], axis=1)
            table[:, ~there] = -1
            count = min(tile, len(members) - start)
            home[rows[:count]] = len(queries) * tile + np.arange(count)
            queries.append(rows)
            keys.append(columns)
            offsets.append(table)
    return AxisTiles(np.stack(queries), np.stack(keys), np.stack(offsets), home)


def tile_side(length: int, dilation: int) -> int:
    """The side that leaves the fewest places empty; of equals the largest."""
    size = -(-length // dilation)
    return min(size, min(TILES, key=lambda side: (-(-size // side) * side, -side)))


@lru_cache(maxsize=256)
def axis_entries(length: int, kernel: int, dilation: int) -> np.ndarray:
    """(n, n) entry of the bias for each pair of positions, -1 where the first does not see the second."""
    seen, entries = neighbours(length, kernel, dilation)
    table = np.full((length, length), -1)
    np.put_along_axis(table, seen, entries, axis=1)
    return table
