"""SS2D, the selective scan of a grid along several routes (VMamba, arXiv 2401.10166), and its block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.scan_routes import Routes, count_routes, routes_of
from foveal.settings import unknown_name


class SS2D(nn.Module):
    """Mix the cells of a grid by scans along K routes: (B, H, W, D) to (B, H, W, D), or (B, T, H, W, D).

    Projection in, depthwise convolution, K scans with weights of their own, merged, normalised, gated and
    projected out. The map is never gathered nor turned over: each scan walks it where it lies.

    Args:
        dim: D.
        routes: a scan of `foveal.blocks.scan_routes`, or several.
        route_options: of the scan, e.g. {"window": 4}.
        states: N of each channel.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
        kernel_size: of the convolution, odd.
        gate: multiply by silu of a second projection.
        merge: "sum" or "mean" of the routes.
        dimensions: axes of the grid, 2 or 3.

    Raises:
        ValueError: an option outside what is allowed, or a scan that is not known.
    """

    def __init__(
        self,
        dim: int,
        *,
        routes: str | Sequence[str] = "cross",
        route_options: Mapping[str, Any] | None = None,
        states: int = 16,
        expand: float = 2,
        rank: int | None = None,
        kernel_size: int = 3,
        gate: bool = True,
        merge: Literal["sum", "mean"] = "sum",
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        if merge not in ("sum", "mean"):
            raise ValueError(unknown_name("merge", merge, ("sum", "mean")))
        self.dim, self.gate, self.merge, self.dimensions = dim, gate, merge, dimensions
        self.routes, self.route_options = routes, dict(route_options or {})
        width = int(expand * dim)
        self.in_proj = nn.Linear(dim, width * (2 if gate else 1), bias=False)
        self.conv2d = depthwise(width, kernel_size=kernel_size, dimensions=dimensions)
        count = count_routes(routes, dimensions=dimensions, **self.route_options)
        self.scans = nn.ModuleList(
            SelectiveScan(width, states=positive(states), rank=rank or math.ceil(dim / 16))
            for _ in range(count)
        )
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, or a grid that the scan does not fit.
        """
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        x, z = self.in_proj(x).chunk(2, dim=-1) if self.gate else (self.in_proj(x), None)
        y = self.out_norm(self.scan(F.silu(over_grid(self.conv2d, x))))
        return self.out_proj(y if z is None else y * F.silu(z))

    def scan(self, x: Tensor) -> Tensor:
        """The scans alone, merged: (B, H, W, E) to (B, H, W, E)."""
        routes = routes_of(self.routes, *x.shape[1:-1], **self.route_options)
        tokens = x.flatten(1, -2).contiguous()
        y = scan_route(self.scans[0], tokens, routes, 0)
        for k in range(1, len(self.scans)):
            y = y + scan_route(self.scans[k], tokens, routes, k)
        if self.merge == "mean":
            y = y / len(self.scans)
        return y.view(x.shape)


class ScanBlock(nn.Module):
    """Normalised mixer beside a shortcut, then a normalised feed-forward where there is one.

    x + DropPath(mixer(LN(x))), then x + DropPath(mlp(LN(x))), of channels-last maps.

    Args:
        dim: channels.
        mixer: from maps to maps of the same shape, such as `SS2D`.
        mlp: the same; none by default, as in VMamba's first version and VM-UNet.
        drop_path: probability of leaving a branch out for an image in training.
        eps: of the normalisations.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        *,
        mlp: nn.Module | None = None,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim, eps=eps) if mlp is not None else None
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = x + self.drop_path(self.mixer(self.norm(x)))
        if self.mlp is None or self.norm2 is None:
            return x
        return x + self.drop_path(self.mlp(self.norm2(x)))


def scan_route(scan: nn.Module, tokens: Tensor, routes: Routes, k: int) -> Tensor:
    """Scan tokens (B, L, E) of a grid along the k-th route; rows of the result lie where theirs lay.

    Runs of a route are sequences of their own; those of one length are scanned together.
    """
    order, runs = routes.order[k], routes.runs[k]
    if len(runs) == 1:
        return scan(tokens, order=order)
    by_length: dict[int, list[Tensor]] = {}
    for cells in order.to(tokens.device).split(list(runs)):
        by_length.setdefault(len(cells), []).append(cells)
    visited = [torch.stack(cells) for cells in by_length.values()]
    scanned = [
        rearrange(scan(tokens[:, cells].flatten(0, 1)), "(b n) l e -> b (n l) e", b=len(tokens))
        for cells in visited
    ]
    return torch.cat(scanned, dim=1)[:, torch.cat([cells.flatten() for cells in visited]).argsort()]


def depthwise(
    width: int, *, kernel_size: int = 3, stride: int = 1, dimensions: int = 2
) -> nn.Conv2d | nn.Conv3d:
    """A depthwise convolution that keeps the grid, or takes every `stride`-th cell of it.

    Raises:
        ValueError: an even kernel, which has no middle, or a grid of other than 2 or 3 axes.
    """
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ValueError(f"kernel_size is {kernel_size}; allowed: odd numbers, so that it has a middle")
    if dimensions not in (2, 3):
        raise ValueError(f"dimensions is {dimensions}; allowed: 2 or 3")
    make = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return make(width, width, kernel_size, stride, kernel_size // 2, groups=width)


def over_grid(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of channels-first maps on a channels-last one; convolutions take the view without a copy."""
    return layer(x.movedim(-1, 1)).movedim(1, -1)


def check_channels_last(x: Tensor, dim: int, *, dimensions: int = 2) -> None:
    """Refuse a map that is not (B, *grid, dim).

    Raises:
        ValueError: it is not; says so where the channels are first.
    """
    if x.ndim == dimensions + 2 and x.shape[-1] == dim:
        return
    hint = "; its channels are first, move them to the end" if x.ndim > 1 and x.shape[1] == dim else ""
    axes = "H, W" if dimensions == 2 else "T, H, W"
    raise ValueError(f"a map of shape {tuple(x.shape)}; allowed: (B, {axes}, {dim}){hint}")


def positive(states: int) -> int:
    """`states`, at least 1.

    Raises:
        ValueError: less.
    """
    if states < 1:
        raise ValueError(f"states is {states}; allowed: 1 or more for each channel")
    return states
