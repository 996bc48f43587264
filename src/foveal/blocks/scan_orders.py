"""The scans of a grid by name: functions from its sizes to the paths that visit its cells, 1-D to 3-D.

Those of vision state-space models (catalogue of arXiv 2410.02362), each of one path or several;
`foveal.blocks.scan_routes` makes routes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations, product
from math import prod
from typing import TypeAlias

import numpy as np
import torch

Grid: TypeAlias = tuple[int, ...]
# One route: the cells as they are visited; a list where the scan begins anew with each of its runs.
Path: TypeAlias = np.ndarray | list[np.ndarray]
Scan: TypeAlias = Callable[..., list[Path]]

SCANS: dict[str, Scan] = {}


def _scan(name: str) -> Callable[[Scan], Scan]:
    def register(function: Scan) -> Scan:
        SCANS[name] = function
        return function

    return register


def _cells(grid: Grid) -> np.ndarray:
    return np.arange(prod(grid)).reshape(grid)


def reversed_path(path: Path) -> Path:
    """A path from its last cell to its first; runs stay runs."""
    return [run[::-1] for run in path[::-1]] if isinstance(path, list) else path[::-1]


def _both_ways(*paths: Path) -> list[Path]:
    return [way for path in paths for way in (path, reversed_path(path))]


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{option} is {value}; allowed: 1 or more")
    return value


@_scan("row")
def _row(grid: Grid) -> list[Path]:
    """Raster: the last axis fastest."""
    return [_cells(grid).ravel()]


@_scan("col")
def _column(grid: Grid) -> list[Path]:
    """Raster of the transposed grid: the first axis fastest."""
    return [_cells(grid).T.ravel()]


@_scan("bidirectional")
def _bidirectional(grid: Grid) -> list[Path]:
    """Raster and its reverse (Vim)."""
    return _both_ways(*_row(grid))


@_scan("cross")
def _cross(grid: Grid) -> list[Path]:
    """Rows, columns, and the reverses of both (VMamba)."""
    forward = _row(grid) + _column(grid)
    return forward + [reversed_path(path) for path in forward]


@_scan("Z")
def _raster(grid: Grid) -> list[Path]:
    """Rows, columns, each followed by its reverse (MHS-VM)."""
    return _both_ways(*_row(grid), *_column(grid))


def _snake(cells: np.ndarray) -> np.ndarray:
    if cells.ndim == 1:
        return cells
    return np.concatenate([_snake(part)[:: -1 if i % 2 else 1] for i, part in enumerate(cells)])


@_scan("snake")
def _snake_rows(grid: Grid) -> list[Path]:
    """Rows in turn from left and from right, so that each step is to a neighbour."""
    return [_snake(_cells(grid))]


@_scan("C")
def _continuous(grid: Grid) -> list[Path]:
    """Snake along rows and along columns, each both ways (PlainMamba, MHS-VM)."""
    return _both_ways(_snake(_cells(grid)), _snake(_cells(grid).T))


@_scan("zigzag")
def _zigzag(grid: Grid, variant: int | None = None) -> list[Path]:
    """Snakes from every corner along every order of axes: 8 in two dimensions; `variant` takes one (ZigMa).

    ZigMa's layer number n takes variant n modulo 8.
    """
    cells = _cells(grid)
    paths: list[Path] = [
        _snake(cells[tuple(slice(None, None, step) for step in steps)].transpose(axes))
        for axes in permutations(range(len(grid)))
        for steps in product((1, -1), repeat=len(grid))
    ]
    if variant is None:
        return paths
    if not 0 <= variant < len(paths):
        raise ValueError(f"variant is {variant}; allowed: 0 to {len(paths) - 1}")
    return [paths[variant]]


def _diagonals(cells: np.ndarray) -> np.ndarray:
    planes = cells.reshape((1,) * (3 - cells.ndim) + cells.shape)
    depth, height, width = planes.shape
    runs, backward = [], True
    for k in range(depth + height + width - 2):
        slices = range(max(0, k - height - width + 2), min(k, depth - 1) + 1)
        for i in slices if k % 2 else reversed(slices):
            j = np.arange(max(0, k - i - width + 1), min(k - i, height - 1) + 1)
            run = planes[i, j, k - i - j]
            runs.append(run[::-1] if backward else run)
            backward = not backward
    return np.concatenate(runs)


@_scan("X")
def _diagonal(grid: Grid) -> list[Path]:
    """Anti-diagonals to and fro, and those of the mirrored grid, each both ways (MHS-VM)."""
    cells = _cells(grid)
    return _both_ways(_diagonals(cells), _diagonals(cells[..., ::-1]))


def _inwards(cells: np.ndarray) -> np.ndarray:
    if cells.ndim > 2:
        return np.concatenate([_inwards(part)[:: -1 if i % 2 else 1] for i, part in enumerate(cells)])
    rest, runs = np.atleast_2d(cells), []
    while rest.size:
        runs.append(rest[0])
        rest = np.rot90(rest[1:])
    return np.concatenate(runs)


@_scan("S")
def _spiral(grid: Grid) -> list[Path]:
    """Clockwise spiral from the corner inwards, and that of the grid upside down, each both ways (MHS-VM)."""
    cells = _cells(grid)
    return _both_ways(_inwards(cells), _inwards(np.flip(cells, axis=max(0, cells.ndim - 2))))


def _windows(grid: Grid, window: int, *, columns: bool) -> list[np.ndarray]:
    side, cells = _at_least_one("window", window), _cells(grid)
    corners = product(*(range(0, size, side) for size in grid))
    parts = [cells[tuple(slice(start, start + side) for start in corner)] for corner in corners]
    return [(part.T if columns else part).ravel() for part in parts]


@_scan("window")
def _local(grid: Grid, window: int = 7) -> list[Path]:
    """Raster inside windows, windows in raster order; rows and columns, each both ways (LocalMamba)."""
    return _both_ways(*(np.concatenate(_windows(grid, window, columns=turned)) for turned in (False, True)))


@_scan("pixel")
def _pixel(grid: Grid, window: int = 7) -> list[Path]:
    """Raster inside windows, begun anew in each, both ways (the pixel-wise scan of LKM-UNet)."""
    return _both_ways(_windows(grid, window, columns=False))


@_scan("atrous")
def _atrous(grid: Grid, stride: int = 2) -> list[Path]:
    """The sub-grids of every `stride`-th cell, one after another, begun anew in each (EfficientVMamba)."""
    step, cells = _at_least_one("stride", stride), _cells(grid)
    phases = product(*(range(min(step, size)) for size in grid))
    return [[cells[tuple(slice(start, None, step) for start in phase)].ravel() for phase in phases]]


@_scan("strips")
def _strips(grid: Grid, width: int = 4) -> list[Path]:
    """Strips of `width` rows walked across their width, then of columns, each both ways (SliceMamba)."""
    _at_least_one("width", width)
    paths: list[Path] = []
    for axis, size in enumerate(grid):
        cells = np.moveaxis(_cells(grid), axis, 0)
        runs = [np.moveaxis(cells[start : start + width], 0, -1).ravel() for start in range(0, size, width)]
        paths += _both_ways(np.concatenate(runs))
    return paths


@_scan("hilbert")
def _hilbert(grid: Grid) -> list[Path]:
    """Hilbert's curve of the enclosing cube of side 2^b, cells outside left out (Skilling, 2004)."""
    x = np.indices(grid).reshape(len(grid), -1)
    count, bits = len(grid), max(1, (max(grid) - 1).bit_length())
    for q in (1 << b for b in range(bits - 1, 0, -1)):
        for i in range(count):
            inside = (x[i] & q) != 0
            swapped = (x[0] ^ x[i]) & (q - 1)
            x[i] ^= np.where(inside, 0, swapped)
            x[0] ^= np.where(inside, q - 1, swapped)
    for i in range(1, count):
        x[i] ^= x[i - 1]
    turn = np.zeros_like(x[0])
    for q in (1 << b for b in range(bits - 1, 0, -1)):
        turn ^= np.where(x[-1] & q, q - 1, 0)
    x ^= turn
    places = sum((x[i] >> b & 1) << (b * count + count - 1 - i) for b in range(bits) for i in range(count))
    return [np.argsort(places)]


@_scan("shuffle")
def _shuffle(grid: Grid, seed: int = 0) -> list[Path]:
    """A random order, the same for the same seed."""
    return [torch.randperm(prod(grid), generator=torch.Generator().manual_seed(seed)).numpy()]


@_scan("multi-path")
def _multi_path(grid: Grid, seed: int = 0) -> list[Path]:
    """Raster, its reverse and a random order (RSMamba)."""
    return _both_ways(*_row(grid)) + _shuffle(grid, seed)


@_scan("inter-slice")
def _inter_slice(grid: Grid, nslices: int | None = None) -> list[Path]:
    """Token p of all slices, then p + 1 of all; `nslices` equal slices, or the first axis (SegMamba)."""
    count, cells = grid[0] if nslices is None else nslices, prod(grid)
    if count < 1 or cells % count:
        raise ValueError(f"nslices is {count}; allowed: a divisor of the {cells} tokens of a grid of {grid}")
    return [np.arange(cells).reshape(count, -1).T.ravel()]


@_scan("tri-orientated")
def _tri_orientated(grid: Grid, nslices: int | None = None) -> list[Path]:
    """Raster, its reverse and inter-slice (SegMamba)."""
    return _both_ways(*_row(grid)) + _inter_slice(grid, nslices)


@_scan("axes")
def _axes(grid: Grid) -> list[Path]:
    """Rasters of every order of axes, each both ways: 12 in three dimensions."""
    return _both_ways(*(_cells(grid).transpose(axes).ravel() for axes in permutations(range(len(grid)))))


@_scan("triplet")
def _triplet(grid: Grid) -> list[Path]:
    """Rasters of the turned grid, each axis once the slowest (TM-UNet, on a grid of (H, W, C))."""
    turns = [[(k + i) % len(grid) for i in range(len(grid))] for k in range(len(grid))]
    return [_cells(grid).transpose(axes).ravel() for axes in turns]


@_scan("spatio-temporal")
def _spatio_temporal(grid: Grid) -> list[Path]:
    """Frame by frame, and all moments of a place in turn, both ways (Vivim, on a (T, H, W) grid)."""
    return _both_ways(*_row(grid), np.moveaxis(_cells(grid), 0, -1).ravel())


@_scan("hierarchical")
def _hierarchical(grid: Grid, segments: Sequence[int] = (1, 2, 4)) -> list[Path]:
    """Rasters cut into so many segments, one count a route, begun anew in each."""
    if not segments or min(segments) < 1 or max(segments) > prod(grid):
        raise ValueError(f"segments are {tuple(segments)}; allowed: counts from 1 to {prod(grid)}")
    return [list(np.array_split(_cells(grid).ravel(), count)) for count in segments]


@_scan("multi-scale")
def _multi_scale(grid: Grid) -> list[Path]:
    """The three routes of MSVMamba's map of half resolution; rows are the fourth, of the full map."""
    return [reversed_path(_row(grid)[0]), *_both_ways(*_column(grid))]
