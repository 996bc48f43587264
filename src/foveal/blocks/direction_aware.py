"""Continuous scans that know the direction of each step (PlainMamba, arXiv 2403.17695)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.scan_routes import Routes, routes_of, steps
from foveal.blocks.ss2d import check_channels_last, depthwise, over_grid, positive
from foveal.kernels.selective_scan import selective_scan


class DirectionAwareScan(SelectiveScan):
    """A scan to whose input weights B a learned vector is added, one a direction of the step to a cell.

    Args:
        width: channels E.
        states: N of each channel.
        rank: of the steps.
        directions: how many there are, that of the first cell too.
    """

    def __init__(self, width: int, *, states: int, rank: int, directions: int) -> None:
        super().__init__(width, states=states, rank=rank)
        self.directions = nn.Parameter(nn.init.trunc_normal_(torch.empty(directions, states), std=0.02))

    def forward(
        self, x: Tensor, *, z: Tensor | None = None, order: Tensor | None = None, moves: Tensor | None = None
    ) -> Tensor:
        """Scan rows of x (B, L, E); `moves` (L,) tells how each is reached, without it nothing is added."""
        if moves is None:
            return super().forward(x, z=z, order=order)
        x, dt, A, B, C, D = self._weights(x)
        return selective_scan(
            x, dt, A, B + self.directions[moves], C, D, z=z, dt_bias=self.dt_proj.bias, order=order
        )


class DirectionAwareMamba(nn.Module):
    """Mix the cells of a grid by continuous scans: (B, *grid, D) to the same.

    Projection in, depthwise convolution, one scan along all routes, gated, summed and projected out. That the
    routes share the scan is unconfirmed.

    Args:
        dim: D.
        routes: a scan of `foveal.blocks.scan_routes` each of whose steps is to a neighbour, such as "C" or
            "hilbert".
        dimensions: axes of the grid.
        states: N of each channel.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
        kernel_size: of the convolution, odd.

    Raises:
        ValueError: an option outside what is allowed.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str] = "C",
        dimensions: int = 2,
        states: int = 16,
        expand: float = 2,
        rank: int | None = None,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        width = int(expand * dim)
        self.dim, self.dimensions, self.routes = dim, dimensions, routes
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.conv = depthwise(width, kernel_size=kernel_size, dimensions=dimensions)
        self.scan = DirectionAwareScan(
            width,
            states=positive(states),
            rank=rank or math.ceil(dim / 16),
            directions=2 * dimensions + 1,
        )
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, or a scan with a step to a cell that is no neighbour.
        """
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        routes = routes_of(self.routes, *x.shape[1:-1])
        moves = _moves(self.routes if isinstance(self.routes, str) else tuple(self.routes), routes.grid)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, z = F.silu(over_grid(self.conv, u)).flatten(1, -2), z.flatten(1, -2)
        y = torch.zeros_like(u)
        for order, move in zip(routes.order, moves, strict=True):
            y = y + self.scan(u, z=z, order=order, moves=move.to(x.device))
        return self.out_proj(y).view(x.shape)


@lru_cache(maxsize=256)
def _moves(name: str | tuple[str, ...], grid: tuple[int, ...]) -> Tensor:
    return directions_of(routes_of(name, *grid))


def directions_of(routes: Routes) -> Tensor:
    """How each route comes to each cell, (K, L): 0 to its first; along axis a 1 + 2 a forward, 2 + 2 a back.

    Raises:
        ValueError: a step to a cell that is no neighbour.
    """
    found = torch.zeros_like(routes.order)
    for k, order in enumerate(routes.order):
        moves = steps(order, routes.grid)
        if len(moves) and int(moves.abs().sum(dim=-1).max()) > 1:
            raise ValueError(
                "a route with a step to a cell that is no neighbour; allowed: continuous scans, such as 'C', "
                "'snake' or 'zigzag'"
            )
        axis = moves.abs().argmax(dim=-1)
        back = moves.gather(1, axis[:, None])[:, 0] < 0
        found[k, order[1:]] = 1 + 2 * axis + back.long()
    return found
