"""Mixers that walk channels, turned axes and pooled windows: VmambaIR, TM-UNet and LKM-UNet.

arXiv 2403.11423, 2403.17701 and 2403.07332.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.bidirectional import BidirectionalMamba
from foveal.blocks.mamba import MambaMixer
from foveal.blocks.ss2d import SS2D, check_channels_last


class ChannelMixer(nn.Module):
    """Mix channels, one token each, from the first to the last and back: (B, *grid, D) to the same.

    The token of a channel is its mean over the grid; what the two scans make of it is added to all cells.

    Args:
        width: of a channel's token.
        states: N of the scans.
    """

    def __init__(self, *, width: int = 8, states: int = 16) -> None:
        super().__init__()
        self.widen = nn.Linear(1, width)
        self.mixer = BidirectionalMamba(width, states=states, fuse="sum")
        self.narrow = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to a channels-last map: (B, 1, .., 1, D)."""
        tokens = self.widen(x.flatten(1, -2).mean(dim=1)[..., None])  # (B, D, width)
        mixed = self.narrow(self.mixer(tokens))[..., 0]
        return mixed.view(len(x), *(1,) * (x.ndim - 2), -1)


class OmnidirectionalMixer(nn.Module):
    """Six scans summed: rows, columns, and channels, each both ways: (B, *grid, D) to the same (VmambaIR).

    Args:
        dim: D.
        channel_width: of a channel's token.
        states: N of all scans.
        **options: of `SS2D`, which walks the cells.
    """

    def __init__(self, dim: int, *, channel_width: int = 8, states: int = 16, **options: Any) -> None:
        super().__init__()
        self.cells = SS2D(dim, **{"routes": "cross", "states": states, **options})
        self.channels = ChannelMixer(width=channel_width, states=states)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map."""
        return self.cells(x) + self.channels(x)


class TripletMixer(nn.Module):
    """Mamba along the three turns of a map, averaged: (B, H, W, D) to the same (TM-UNet).

    Once the cells of (H, W) are the tokens, once those of (W, D) with H values each, once those of (D, H)
    with W values each; so the grid is fixed.

    Args:
        dim: D.
        grid: (H, W).
        **options: of `MambaMixer`.
    """

    def __init__(self, dim: int, *, grid: Sequence[int], **options: Any) -> None:
        super().__init__()
        self.dim, self.grid = dim, tuple(grid)
        height, width = self.grid
        self.mixers = nn.ModuleList(MambaMixer(size, **options) for size in (dim, height, width))

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last, or another grid than that of the constructor.
        """
        check_channels_last(x, self.dim)
        height, width = self.grid
        if tuple(x.shape[1:-1]) != self.grid:
            found = f"{x.shape[1]} x {x.shape[2]}"
            raise ValueError(f"a grid of {found} cells; allowed: {height} x {width}, that it was made for")
        over_cells, over_columns, over_rows = self.mixers
        cells = rearrange(over_cells(rearrange(x, "b h w d -> b (h w) d")), "b (h w) d -> b h w d", h=height)
        columns = over_columns(rearrange(x, "b h w d -> b (w d) h"))
        rows = over_rows(rearrange(x, "b h w d -> b (d h) w"))
        turned = rearrange(columns, "b (w d) h -> b h w d", w=width)
        return (cells + turned + rearrange(rows, "b (d h) w -> b h w d", h=height)) / 3


class PooledWindows(nn.Module):
    """Mix windows as tokens: means of window x window cells, mixed both ways, and laid out again.

    (B, *grid, D) to the same: the patch-wise part (PaM) of LKM-UNet; its pixel-wise part is the scan "pixel".
    Windows at the border have the cells that are there.

    Args:
        dim: D.
        window: cells along each side.
        dimensions: axes of the grid, 1 to 3.
        **options: of `BidirectionalMamba`.

    Raises:
        ValueError: a window of less than one cell.
    """

    def __init__(self, dim: int, *, window: int = 7, dimensions: int = 2, **options: Any) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window is {window}; allowed: 1 or more")
        self.dim, self.window, self.dimensions = dim, window, dimensions
        self.mixer = BidirectionalMamba(dim, **{"fuse": "sum", **options})

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map."""
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        maps = x.movedim(-1, 1)
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.dimensions - 1]
        sides = [min(self.window, size) for size in maps.shape[2:]]
        pooled = pool(maps, sides, ceil_mode=True, count_include_pad=False)
        mixed = self.mixer(pooled.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(pooled.shape)
        for axis, size in enumerate(maps.shape[2:], start=2):
            mixed = mixed.repeat_interleave(self.window, dim=axis).narrow(axis, 0, size)
        return mixed.movedim(1, -1)


class LargeWindowMixer(nn.Module):
    """LKM-UNet's mixer: cells inside windows, and windows as tokens, summed: (B, *grid, D) to the same.

    Args:
        dim: D.
        window: cells along each side.
        dimensions: axes of the grid, 2 or 3.
        states: N of all scans.
    """

    def __init__(self, dim: int, *, window: int = 7, dimensions: int = 2, states: int = 16) -> None:
        super().__init__()
        self.inside = SS2D(
            dim, routes="pixel", route_options={"window": window}, dimensions=dimensions, states=states
        )
        self.between = PooledWindows(dim, window=window, dimensions=dimensions, states=states)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map."""
        return self.inside(x) + self.between(x)
