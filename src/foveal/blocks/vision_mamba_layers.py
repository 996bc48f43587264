"""Mamba layers of U-shaped networks: U-Mamba, PVM, RVM (arXiv 2401.04722, 2403.20035, 2403.05246).

All take and give channels-first maps (B, C, H, W) or (B, C, T, H, W) and scan in 32 bits under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.grid_layers import check_dimensions, separable_convolution
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.routed_mamba import RoutedMamba, channels_first, in_full_precision


class UMambaLayer(nn.Module):
    """Mamba of the normalised cells, without a residual: (B, C, *grid) to the same.

    With a `grid` of no more cells than channels the channels are the tokens, and the cells their features,
    as in U-Mamba; such a layer fits that grid alone.

    Args:
        dim: C.
        dimensions: axes of the grid.
        grid: cells along each axis; None for a layer that takes any grid, whose tokens are always the cells.
        routes: scan of the cells; the channels are scanned from the first to the last.
        **options: of `RoutedMamba`; of `MambaMixer` where channels are tokens.

    Raises:
        ValueError: a scan that is not known, or a grid of another number of axes.
    """

    def __init__(
        self,
        dim: int,
        *,
        dimensions: int = 2,
        grid: Sequence[int] | None = None,
        routes: str | Sequence[str] = "row",
        **options: Any,
    ) -> None:
        super().__init__()
        check_dimensions(dimensions)
        if grid is not None and len(grid) != dimensions:
            raise ValueError(f"a grid of {tuple(grid)} for {dimensions} axes; give a size for each")
        self.grid = tuple(grid) if grid is not None and prod(grid) <= dim else None
        width = dim if self.grid is None else prod(self.grid)
        self.norm = nn.LayerNorm(width)
        self.mixer: nn.Module
        if self.grid is None:
            self.mixer = RoutedMamba(dim, routes=routes, dimensions=dimensions, **options)
        else:
            kept = {
                key: options[key] for key in ("states", "kernel_size", "expand", "rank") if key in options
            }
            self.mixer = MambaMixer(width, **kept)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Raises:
            ValueError: channels are tokens, and the grid is not that of the constructor.
        """
        if self.grid is None:
            return channels_first(lambda cells: self.mixer(self.norm(cells)), x)
        if tuple(x.shape[2:]) != self.grid:
            raise ValueError(
                f"a map of {tuple(x.shape[2:])} cells, the layer's channel tokens were made for {self.grid}; "
                "build the network with the size of its images, or cut them into patches of that size"
            )
        return in_full_precision(lambda rows: self.mixer(self.norm(rows)), x.flatten(2)).view(x.shape)


class PVM(nn.Module):
    """Parallel vision Mamba: (B, C, *grid) to (B, O, *grid).

    Parts of C / `parts` channels pass one shared Mamba, m = Mamba(x) + s x with s learned from 1; joined,
    they pass the norm of the input once more and a linear layer.

    Args:
        inputs: C, a multiple of `parts`.
        outputs: O; C by default.
        dimensions: axes of the grid.
        parts: 4 in UltraLight VM-UNet.
        **options: of `RoutedMamba`.

    Raises:
        ValueError: channels that do not divide into parts.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int | None = None,
        *,
        dimensions: int = 2,
        parts: int = 4,
        **options: Any,
    ) -> None:
        super().__init__()
        if parts < 1 or inputs % parts or inputs < parts:
            raise ValueError(
                f"{inputs} channels do not divide into {parts} equal parts; allowed: multiples of {parts}"
            )
        self.parts = parts
        self.norm = nn.LayerNorm(inputs)
        self.mixer = RoutedMamba(inputs // parts, dimensions=check_dimensions(dimensions), **options)
        self.scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(inputs, outputs or inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return channels_first(self._mix, x)

    def _mix(self, x: Tensor) -> Tensor:
        # One batch of all parts: the mixer is the same.
        parts = torch.cat(self.norm(x).chunk(self.parts, dim=-1))
        mixed = self.mixer(parts) + self.scale * parts
        return self.proj(self.norm(torch.cat(mixed.chunk(self.parts), dim=-1)))


class RVM(nn.Module):
    """Residual vision Mamba: Linear(LN(Mamba(LN(x)) + s x)), both norms the same; s is learned from 1.

    (B, C, *grid) to (B, O, *grid).

    Args:
        inputs: C.
        outputs: O; C by default.
        dimensions: axes of the grid.
        **options: of `RoutedMamba`.
    """

    def __init__(
        self, inputs: int, outputs: int | None = None, *, dimensions: int = 2, **options: Any
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.mixer = RoutedMamba(inputs, dimensions=check_dimensions(dimensions), **options)
        self.scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(inputs, outputs or inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return channels_first(
            lambda cells: self.proj(self.norm(self.mixer(self.norm(cells)) + self.scale * cells)), x
        )


class ResidualRVM(nn.Module):
    """Twice group norm, ReLU and `RVM`, beside an identity: (B, C, *grid) to the same (LightM-UNet).

    Args:
        dim: C, a multiple of `groups`.
        dimensions: axes of the grid.
        groups: of the norms.
        **options: of `RoutedMamba`.
    """

    def __init__(self, dim: int, *, dimensions: int = 2, groups: int = 8, **options: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(group_norm(dim, groups), nn.ReLU(), RVM(dim, dimensions=dimensions, **options))
                for _ in range(2)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.layers(x)


class ScaledConvBlock(nn.Module):
    """Norm, ReLU, separable convolution + s x, norm, ReLU: a block of LightM-UNet's decoder.

    Args:
        dim: C, a multiple of `groups`.
        dimensions: axes of the grid.
        groups: of the norms.
    """

    def __init__(self, dim: int, *, dimensions: int = 2, groups: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(dim, groups), group_norm(dim, groups)
        self.conv = separable_convolution(dim, dim, dimensions=dimensions)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.relu(self.norm2(self.conv(F.relu(self.norm1(x))) + self.scale * x))


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Normalisation of groups of channels.

    Raises:
        ValueError: channels that do not divide into the groups.
    """
    if channels % groups:
        raise ValueError(f"{channels} channels do not divide into {groups} groups; choose a multiple")
    return nn.GroupNorm(groups, channels)
