"""Mamba's mixer along any routes over a grid, as in SegMamba (arXiv 2401.13560), and scans in 32 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.mamba import CausalConv, SelectiveScan, scan_along
from foveal.blocks.scan_routes import count_routes, routes_of
from foveal.blocks.ss2d import check_channels_last, positive, scan_route
from foveal.settings import unknown_name


def in_full_precision(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer on x in 32 bits or more where autocast is on, whose long scans of 16 bits end in NaN."""
    if not torch.is_autocast_enabled(x.device.type):
        return layer(x)
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
        # Rows that are walked as they lie are read faster than by their numbers.
        as_they_lie = order is None or torch.equal(order, torch.arange(len(order), device=order.device))
        return scan_along(self.conv1d, self.scan, x, z, "forward" if order is None or as_they_lie else order)


class RoutedMamba(nn.Module):
    """Mix the cells of a grid along K routes: (B, *grid, D) to the same; all routes share the projections.

    Each route has a causal convolution and a scan, by default of its own. Along one raster ("row") it is
    `MambaMixer`; along "tri-orientated", summed, SegMamba's mixer; along "bidirectional", as a mean, Vim's.
    With `merge="search"` routes are weighted by a softmax of learned numbers, for LocalMamba's search of
    routes layer by layer: train, ask `best_routes`, and build anew with these `numbers`.

    Args:
        dim: D.
        routes: a scan of `foveal.blocks.scan_routes`, or several.
        route_options: of the scan, e.g. {"window": 4}.
        dimensions: axes of the grid, 1 to 3.
        states: N of each channel.
        kernel_size: of the causal convolutions.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
        merge: "sum" or "mean" of the routes, before the projection out, or "search".
        shared: one convolution and one scan for all routes.
        numbers: which routes of the scan are walked; all by default. One a layer in turn, of "zigzag", is
            ZigMa's way.

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
        merge: Literal["sum", "mean", "search"] = "sum",
        shared: bool = False,
        numbers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if merge not in ("sum", "mean", "search"):
            raise ValueError(unknown_name("merge", merge, ("sum", "mean", "search")))
        self.dim, self.dimensions, self.merge = dim, dimensions, merge
        self.routes, self.route_options = routes, dict(route_options or {})
        width, rank = int(expand * dim), rank or math.ceil(dim / 16)
        count = count_routes(routes, dimensions=dimensions, **self.route_options)
        self.numbers = tuple(range(count) if numbers is None else numbers)
        if not self.numbers or not 0 <= min(self.numbers) <= max(self.numbers) < count:
            raise ValueError(f"numbers is {self.numbers}; allowed: one or more of 0 to {count - 1}")
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.ways = nn.ModuleList(
            Way(width, states=positive(states), kernel_size=kernel_size, rank=rank)
            for _ in range(1 if shared else len(self.numbers))
        )
        self.logits = nn.Parameter(torch.zeros(len(self.numbers))) if merge == "search" else None
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, or a grid that the scan does not fit.
        """
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        routes = routes_of(self.routes, *x.shape[1:-1], **self.route_options)
        xz = self.in_proj(x.flatten(1, -2))
        shares = None if self.logits is None else self.logits.softmax(dim=0)
        scanned = []
        for k, number in enumerate(self.numbers):
            y = scan_route(self.ways[k % len(self.ways)], xz, routes, number)
            scanned.append(y if shares is None else y * shares[k])
        y = reduce(add, scanned)
        if self.merge == "mean":
            y = y / len(self.numbers)
        return self.out_proj(y).view(x.shape)

    def best_routes(self, count: int) -> tuple[int, ...]:
        """Numbers of the `count` routes of the largest weights, in their order.

        Raises:
            ValueError: routes that are not searched, or more than there are.
        """
        if self.logits is None or not 1 <= count <= len(self.numbers):
            raise ValueError(
                f"{count} routes of {len(self.numbers)} with merge={self.merge!r}; allowed: as many as there "
                "are, with merge='search'"
            )
        found = self.logits.detach().topk(count).indices.tolist()
        return tuple(sorted(self.numbers[k] for k in found))
