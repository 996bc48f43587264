"""Scans that know their direction, and routes found by search: PlainMamba and LocalMamba.

arXiv 2403.17695 and 2403.09338.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.scan_routes import Routes, routes_of
from foveal.blocks.ss2d import SS2D, check_channels_last, depthwise, over_grid, positive, scan_route
from foveal.kernels.selective_scan import selective_scan


class DirectionAwareScan(SelectiveScan):
    """A selective scan whose input weights B depend on the direction of the step to a token, too.

    A vector of N learnt for each direction is added to B; all begin at 0, as a plain scan.

    Args:
        width: channels E.
        states: N of each channel.
        rank: of the steps.
        dimensions: axes of the grid; two directions an axis, and one more for jumps.
    """

    def __init__(self, width: int, *, states: int = 16, rank: int, dimensions: int = 2) -> None:
        super().__init__(width, states=states, rank=rank)
        self.directions = nn.Parameter(torch.zeros(1 + 2 * dimensions, states))

    def forward_along(self, x: Tensor, routes: Routes, k: int) -> Tensor:
        """Scan x (B, L, E) along the k-th route; rows of the result lie where theirs lie."""
        u, dt, A, B, C, D = self._weights(x)
        B = B + self.directions[routes.arrivals[k].to(x.device)]
        return selective_scan(u, dt, A, B, C, D, dt_bias=self.dt_proj.bias, order=routes.order[k])


class DirectionAwareMixer(nn.Module):
    """PlainMamba's mixer: (B, *grid, D) to the same; one scan walks all snakes, and knows where each goes.

    Args:
        dim: D.
        routes: a scan of `foveal.blocks.scan_routes`, or several, that never begin anew.
        route_options: of the scan.
        dimensions: axes of the grid, 2 or 3.
        states: N of each channel.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
        kernel_size: of the depthwise convolution, odd.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str] = "C",
        route_options: Mapping[str, Any] | None = None,
        dimensions: int = 2,
        states: int = 16,
        expand: float = 2,
        rank: int | None = None,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.dim, self.dimensions = dim, dimensions
        self.routes, self.route_options = routes, dict(route_options or {})
        width = int(expand * dim)
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.conv = depthwise(width, kernel_size=kernel_size, dimensions=dimensions)
        self.scan = DirectionAwareScan(
            width, states=positive(states), rank=rank or math.ceil(dim / 16), dimensions=dimensions
        )
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, a grid that the scan does not fit, or routes with runs.
        """
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        routes = routes_of(self.routes, *x.shape[1:-1], **self.route_options)
        if any(len(runs) > 1 for runs in routes.runs):
            raise ValueError(f"routes {self.routes!r} begin anew on the way; allowed: those of one run each")
        x, z = self.in_proj(x).chunk(2, dim=-1)
        tokens = F.silu(over_grid(self.conv, x)).flatten(1, -2).contiguous()
        y = self.scan.forward_along(tokens, routes, 0)
        for k in range(1, len(routes.order)):
            y = y + self.scan.forward_along(tokens, routes, k)
        return self.out_proj(y.view(z.shape) * F.silu(z))


class SearchedSS2D(SS2D):
    """SS2D over more routes than it will keep, each weighted by a softmax of learnt scores.

    Train, then call `prune`: the routes of the largest weights stay, and their results are summed as in
    `SS2D`. LocalMamba searches each layer so, and keeps four.

    Args:
        dim: D.
        routes: candidates, scans of `foveal.blocks.scan_routes`.
        **options: of `SS2D`.
    """

    kept: Tensor

    def __init__(
        self, dim: int, *, routes: str | Sequence[str] = ("cross", "window"), **options: Any
    ) -> None:
        super().__init__(dim, routes=routes, **options)
        self.scores: nn.Parameter | None = nn.Parameter(torch.zeros(len(self.scans)))
        self.register_buffer("kept", torch.arange(len(self.scans)))

    def scan(self, x: Tensor) -> Tensor:
        """The scans, weighted while searching, else merged as those of `SS2D`."""
        routes = routes_of(self.routes, *x.shape[1:-1], **self.route_options)
        tokens = x.flatten(1, -2).contiguous()
        # As many times the mean as there are routes, so that a search begins as the sum that it ends in.
        weights = None if self.scores is None else self.scores.softmax(0) * len(self.scores)
        y = tokens.new_zeros(())
        for place, k in enumerate(cast(list[int], self.kept.tolist())):
            found = scan_route(self.scans[place], tokens, routes, k)
            y = y + (found if weights is None else found * weights[place])
        return (y / len(self.scans) if self.merge == "mean" else y).view(x.shape)

    @torch.no_grad()
    def prune(self, keep: int = 4) -> list[int]:
        """Keep the routes of the largest weights, in their order, and end the search.

        Returns:
            Their numbers among the candidates.

        Raises:
            ValueError: the search has ended already, or `keep` is not from 1 to the number of candidates.
        """
        if self.scores is None:
            raise ValueError(f"the search has ended, with routes {self.kept.tolist()}")
        if not 1 <= keep <= len(self.scans):
            raise ValueError(f"keep is {keep}; allowed: 1 to {len(self.scans)}")
        best = sorted(self.scores.topk(keep).indices.tolist())
        self.scans = nn.ModuleList(self.scans[k] for k in best)
        self.kept, self.scores = self.kept[best], None
        return best
