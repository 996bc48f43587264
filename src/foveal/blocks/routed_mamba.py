"""Mamba's mixer along any routes over a grid, as in SegMamba (arXiv 2401.13560), and scans in 32 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.mamba import CausalConv, SelectiveScan, scan_along
from foveal.blocks.scan_routes import count_routes, routes_of
from foveal.blocks.ss2d import check_channels_last, positive, scan_route
from foveal.settings import unknown_name


def in_full_precision(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer on x in 32 bits or more, whatever autocast is on: long scans of 16 bits end in NaN."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(torch.promote_types(x.dtype, torch.float32)))


def channels_first(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of channels-last maps on a map (B, C, *grid), in full precision."""
    return in_full_precision(layer, x.movedim(1, -1)).movedim(-1, 1)


class ChannelsFirst(nn.Module):
    """A layer of channels-last maps as one of maps (B, C, *grid), in full precision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return channels_first(self.layer, x)


class Way(nn.Module):
    """Convolution and gated scan along one route: inputs and gates (B, L, 2 E) to (B, L, E)."""

    def __init__(self, width: int, *, states: int, kernel_size: int, rank: int) -> None:
        super().__init__()
        self.conv1d = CausalConv(width, kernel_size=kernel_size)
        self.scan = SelectiveScan(width, states=states, rank=rank)

    def forward(self, xz: Tensor, *, order: Tensor | None = None) -> Tensor:
        """Scan rows as they lie, or in `order` (L,); results lie where their rows lie."""
        x, z = xz.chunk(2, dim=-1)
        return scan_along(self.conv1d, self.scan, x, z, "forward" if order is None else order)


class RoutedMamba(nn.Module):
    """Mix the cells of a grid along K routes: (B, *grid, D) to the same; all routes share the projections.

    Each route has a causal convolution and a scan, by default of its own. Along one raster ("row") it is
    `MambaMixer`; along "tri-orientated", summed, SegMamba's mixer; along "bidirectional", as a mean, Vim's.

    Args:
        dim: D.
        routes: a scan of `foveal.blocks.scan_routes`, or several.
        route_options: of the scan, e.g. {"window": 4}.
        dimensions: axes of the grid, 1 to 3.
        states: N of each channel.
        kernel_size: of the causal convolutions.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
        merge: "sum" or "mean" of the routes, before the projection out.
        shared: one convolution and one scan for all routes.

    Raises:
        ValueError: an option outside what is allowed, or a scan that is not known.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str] = "row",
        route_options: Mapping[str, Any] | None = None,
        dimensions: int = 2,
        states: int = 16,
        kernel_size: int = 4,
        expand: float = 2,
        rank: int | None = None,
        merge: Literal["sum", "mean"] = "sum",
        shared: bool = False,
    ) -> None:
        super().__init__()
        if merge not in ("sum", "mean"):
            raise ValueError(unknown_name("merge", merge, ("sum", "mean")))
        self.dim, self.dimensions, self.merge = dim, dimensions, merge
        self.routes, self.route_options = routes, dict(route_options or {})
        width, rank = int(expand * dim), rank or math.ceil(dim / 16)
        self.count = count_routes(routes, dimensions=dimensions, **self.route_options)
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.ways = nn.ModuleList(
            Way(width, states=positive(states), kernel_size=kernel_size, rank=rank)
            for _ in range(1 if shared else self.count)
        )
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, or a grid that the scan does not fit.
        """
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        routes = routes_of(self.routes, *x.shape[1:-1], **self.route_options)
        xz = self.in_proj(x.flatten(1, -2))
        y = scan_route(self.ways[0], xz, routes, 0)
        for k in range(1, self.count):
            y = y + scan_route(self.ways[k % len(self.ways)], xz, routes, k)
        return self.out_proj(y / self.count if self.merge == "mean" else y).view(x.shape)
