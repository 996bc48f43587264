"""Routes over the cells of a grid: permutations with exact inverses, 1-D to 3-D, and measures of them.

The routes of the scans in `foveal.blocks.scan_orders`; how near consecutive cells of an order lie, and how
much of the grid a cell reaches.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foveal.blocks.scan_orders import SCANS, Grid, Path, Scan, reversed_path
from foveal.settings import unknown_name


@dataclass(frozen=True)
class Routes:
    """K routes over the L cells of a grid.

    Attributes:
        grid: sizes of its axes; cell (i, j) of (h, w) has the number i * w + j.
        order: (K, L) int64, the cell that each route visits at each place.
        inverse: (K, L) int64, the place of each cell in each route: inverse[k][order[k]] = 0 .. L - 1.
        runs: for each route, lengths of the pieces that a scan begins anew; (L,) where it never does.
    """

    grid: Grid
    order: Tensor
    inverse: Tensor
    runs: tuple[tuple[int, ...], ...]

    def gather(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, ...) of the grid as each route visits them: (B, K, L, ...)."""
        if tokens.ndim < 2 or tokens.shape[1] != self.order.shape[1]:
            wanted = f"(B, {self.order.shape[1]}, ...); make routes for the grid at hand"
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)} on a grid of {self.grid}; allowed: {wanted}"
            )
        return tokens[:, self.order.to(tokens.device)]

    def restore(self, sequences: Tensor) -> Tensor:
        """Sequences (B, K, L, ...) of the routes back at their cells: (B, K, L, ...)."""
        if sequences.ndim < 3 or tuple(sequences.shape[1:3]) != tuple(self.order.shape):
            wanted = f"(B, {', '.join(map(str, self.order.shape))}, ...)"
            raise ValueError(
                f"sequences of shape {tuple(sequences.shape)} for these routes; allowed: {wanted}"
            )
        index = self.inverse.to(sequences.device)
        return sequences[:, torch.arange(len(index), device=index.device)[:, None], index]


def routes_of(name: str | Sequence[str], *grid: int, **options: Any) -> Routes:
    """The routes of a scan, or of several after one another, over a grid; cached.

    Args:
        name: one of `list_scans()`, or several; "_r" behind a name reverses its routes.
        grid: sizes of one to three axes, slowest first.
        **options: of the scans, such as `window=7`; each goes to the scans that take it.

    Raises:
        ValueError: the name or an option is not known, or the grid does not suit the scan.
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    return _routes(names, tuple(int(side) for side in grid), tuple(sorted(options.items())))


def scan_routes(name: str | Sequence[str], *grid: int, **options: Any) -> tuple[Tensor, ...]:
    """The orders (L,) int64 of a scan over a grid, one a route: see `routes_of`."""
    return tuple(routes_of(name, *grid, **options).order)


def count_routes(name: str | Sequence[str], *, dimensions: int = 2, **options: Any) -> int:
    """How many routes a scan has on grids of so many axes."""
    # Nothing but the number of axes and the options tells it; the sides suit any number of slices.
    side = int(options.get("nslices") or 8)
    return len(routes_of(name, *(side,) * dimensions, **options).order)


def list_scans() -> list[str]:
    """Names of all scans, sorted."""
    return sorted(SCANS)


@lru_cache(maxsize=512)
def _routes(names: tuple[str, ...], grid: Grid, options: tuple[tuple[str, Any], ...]) -> Routes:
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"a grid of {grid}; allowed: one to three sizes, each 1 or more")
    if not names:
        raise ValueError(f"no scan is named; allowed: {', '.join(list_scans())}")
    unused = dict(options)
    paths: list[Path] = []
    for name in names:
        scan, backward = _find(name)
        taken = inspect.signature(scan).parameters
        own = {key: value for key, value in options if key in taken}
        for key in own:
            unused.pop(key, None)
        found = scan(grid, **own)
        paths += [reversed_path(path) for path in found] if backward else found
    if unused:
        raise ValueError(f"{', '.join(sorted(unused))}: no option of the scan {' + '.join(names)}")
    runs = [path if isinstance(path, list) else [path] for path in paths]
    with torch.inference_mode(False):  # kept, and so perhaps trained with later
        order = torch.from_numpy(np.stack([np.concatenate(run) for run in runs]).astype(np.int64))
        places = torch.arange(order.shape[1], device=order.device)  # not that of a context, such as "meta"
        inverse = torch.empty_like(order).scatter_(1, order, places.expand_as(order))
    return Routes(grid, order, inverse, tuple(tuple(len(piece) for piece in run) for run in runs))


def _find(name: str) -> tuple[Scan, bool]:
    if name in SCANS:
        return SCANS[name], False
    if name.removesuffix("_r") in SCANS:
        return SCANS[name.removesuffix("_r")], True
    raise ValueError(unknown_name("scan", name, list_scans()) + ", or one with _r for its reverse")


def steps(order: Tensor, grid: Sequence[int]) -> Tensor:
    """Moves (L - 1, axes) of an order from each cell to the next."""
    places = np.stack(np.unravel_index(order.numpy(), tuple(grid)), axis=-1)
    return torch.from_numpy(places).diff(dim=0)


def locality(
    order: Tensor, grid: Sequence[int], *, metric: Literal["manhattan", "chebyshev"] = "manhattan"
) -> float:
    """Mean distance on the grid of consecutive cells of an order: 1 or more; 0 for a single cell."""
    moves = steps(order, grid).abs()
    far = moves.sum(dim=-1) if metric == "manhattan" else moves.amax(dim=-1)
    return float(far.double().mean()) if len(far) else 0.0


def neighbour_gap(order: Tensor, grid: Sequence[int], *, axis: int) -> float:
    """Mean distance in an order of neighbours along an axis of the grid; 0 without neighbours."""
    places = torch.argsort(order).reshape(tuple(grid))
    gaps = places.diff(dim=axis).abs()
    return float(gaps.double().mean()) if gaps.numel() else 0.0


def reach(routes: Routes) -> float:
    """Mean fraction of the cells whose output a cell influences by at least one route, itself too."""
    length = routes.order.shape[1]
    seen = torch.zeros(length, length, dtype=torch.bool)
    for inverse, runs in zip(routes.inverse, routes.runs, strict=True):
        run = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor(runs))[inverse]
        seen |= (inverse[:, None] <= inverse) & (run[:, None] == run)
    return float(seen.double().mean())
