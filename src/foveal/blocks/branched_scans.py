"""Scans beside other branches: MedMamba, nnMamba, P-Mamba, LKM-UNet, VmambaIR, TM-UNet (arXiv 2410.02362).

Blocks of channels-first maps (B, C, H, W) or (B, C, T, H, W) to the same, which scan in 32 bits under
autocast; but the maps of `SSConvSSM` are channels-last, as those of VMamba's pyramid are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.grid_layers import batch_norm, convolution, instance_norm, mean_pool
from foveal.blocks.routed_mamba import RoutedMamba, channels_first, in_full_precision
from foveal.blocks.ss2d import SS2D, over_grid


class SSConvSSM(nn.Module):
    """Half of the channels convolved, half scanned, shuffled, beside an identity (MedMamba, 2403.03849).

    (B, *grid, C) to the same. One half passes norm, conv3, norm, ReLU, conv3, norm, ReLU, conv1, ReLU; the
    other DropPath(SS2D(LN(x))).

    Args:
        dim: C, even.
        dimensions: axes of the grid.
        routes: scan of the second half.
        drop_path: chance to drop the scanned half.
        **options: of `SS2D`.

    Raises:
        ValueError: an odd number of channels, or a scan that is not known.
    """

    def __init__(
        self,
        dim: int,
        *,
        dimensions: int = 2,
        routes: str | Sequence[str] = "cross",
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"{dim} channels do not divide into two halves; allowed: even numbers")
        half = dim // 2

        def norm() -> nn.Module:
            return batch_norm(half, dimensions=dimensions)

        self.convolved = nn.Sequential(
            norm(),
            convolution(half, half, dimensions=dimensions),
            norm(),
            nn.ReLU(),
            convolution(half, half, dimensions=dimensions),
            norm(),
            nn.ReLU(),
            convolution(half, half, 1, dimensions=dimensions),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(half, eps=1e-6)
        self.scanned = SS2D(half, routes=routes, dimensions=dimensions, **options)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        left, right = x.chunk(2, dim=-1)
        left = over_grid(self.convolved, left)
        right = self.drop_path(in_full_precision(lambda half: self.scanned(self.norm(half)), right))
        # Channels of both halves in turn: a shuffle of two groups.
        return x + torch.stack([left, right], dim=-1).flatten(-2)


class SiameseMamba(nn.Module):
    """x + norm(conv3(x)) + SSM(LN(x)), one scan shared by all its routes (nnMamba, arXiv 2402.03526).

    The routes are every order of axes and its reverse, their mean taken. How the released code joins the
    three terms is unconfirmed.

    Args:
        dim: C.
        dimensions: axes of the grid.
        routes: of the shared scan.
        drop_path: chance to drop the scan.
        **options: of `RoutedMamba`.
    """

    def __init__(
        self,
        dim: int,
        *,
        dimensions: int = 2,
        routes: str | Sequence[str] = "axes",
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            convolution(dim, dim, dimensions=dimensions), instance_norm(dim, dimensions=dimensions)
        )
        self.norm = nn.LayerNorm(dim)
        chosen: dict[str, Any] = {"shared": True, "merge": "mean"} | options
        self.mixer = RoutedMamba(dim, routes=routes, dimensions=dimensions, **chosen)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        scanned = channels_first(lambda cells: self.mixer(self.norm(cells)), x)
        return x + self.conv(x) + self.drop_path(scanned)


class PeronaMalik(nn.Module):
    """Diffusion that stops at edges: I + step div(c(|grad I|) grad I), c(g) = exp(-(g / k)^2).

    (B, C, *grid) to the same; c is taken of the difference along each axis, and nothing flows over the
    border, so that the sum of each channel is kept, and its range too. k is learned, one a channel.

    Args:
        dim: C.
        dimensions: axes of the grid.
        steps: how often.
        step: at most 1 / (2 `dimensions`), above which the range is not kept.
        edge: k at first.

    Raises:
        ValueError: an option outside what is allowed.
    """

    def __init__(
        self, dim: int, *, dimensions: int = 2, steps: int = 2, step: float = 0.15, edge: float = 1.0
    ) -> None:
        super().__init__()
        if steps < 1 or not 0 < step <= 1 / (2 * dimensions) or edge <= 0:
            raise ValueError(
                f"steps={steps}, step={step}, edge={edge}; allowed: 1 step or more, of up to "
                f"{1 / (2 * dimensions):.3g}, and an edge above 0"
            )
        self.steps, self.step, self.dimensions = steps, step, dimensions
        self.log_edge = nn.Parameter(torch.full((dim, *(1,) * dimensions), edge).log())

    def forward(self, x: Tensor) -> Tensor:
        """Diffuse."""
        for _ in range(self.steps):
            x = x + self.step * sum(self._divergence(x, axis) for axis in range(2, x.ndim))
        return x

    def _divergence(self, x: Tensor, axis: int) -> Tensor:
        gradient = x.diff(dim=axis)
        flow = gradient * torch.exp(-(gradient / self.log_edge.exp()).square())
        shape = list(x.shape)
        shape[axis] = 1
        border = x.new_zeros(shape)
        return torch.cat([border, flow, border], dim=axis).diff(dim=axis)


class DiffusedMamba(nn.Module):
    """x + conv1(diffusion of x) + SSM(LN(x)) (P-Mamba, arXiv 2402.08506; how branches join is unconfirmed).

    Args:
        dim: C.
        dimensions: axes of the grid.
        routes: of the scan.
        drop_path: chance to drop the scan.
        diffusion: settings of `PeronaMalik`.
        **options: of `RoutedMamba`.
    """

    def __init__(
        self,
        dim: int,
        *,
        dimensions: int = 2,
        routes: str | Sequence[str] = "bidirectional",
        drop_path: float = 0.0,
        diffusion: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.diffusion = PeronaMalik(dim, dimensions=dimensions, **dict(diffusion or {}))
        self.proj = convolution(dim, dim, 1, dimensions=dimensions)
        self.norm = nn.LayerNorm(dim)
        self.mixer = RoutedMamba(dim, routes=routes, dimensions=dimensions, **options)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        scanned = channels_first(lambda cells: self.mixer(self.norm(cells)), x)
        return x + self.proj(self.diffusion(x)) + self.drop_path(scanned)


class PixelPatchMamba(nn.Module):
    """Scans within large windows, then of the windows' means (LKM-UNet, arXiv 2403.07332).

    x + PiM(LN(x)), then x + PaM(LN(windows' means)) at each of their cells; both there and back, summed.

    Args:
        dim: C.
        dimensions: axes of the grid.
        window: cells along each axis; windows at the end of an axis may be smaller.
        drop_path: chance to drop a branch.
        **options: of `RoutedMamba`.
    """

    def __init__(
        self, dim: int, *, dimensions: int = 2, window: int = 8, drop_path: float = 0.0, **options: Any
    ) -> None:
        super().__init__()
        self.window = window
        self.pixel_norm, self.patch_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.pixel = RoutedMamba(
            dim, routes="pixel", route_options={"window": window}, dimensions=dimensions, **options
        )
        self.patch = RoutedMamba(dim, routes="bidirectional", dimensions=dimensions, **options)
        self.pool = mean_pool(window, dimensions=dimensions)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = x + self.drop_path(channels_first(lambda cells: self.pixel(self.pixel_norm(cells)), x))
        sizes = x.shape[2:]
        # Means of whole windows alone: the last cells are repeated.
        ends = [pad for size in reversed(sizes) for pad in (0, -size % self.window)]
        means = self.pool(F.pad(x, ends, mode="replicate"))
        scanned = channels_first(lambda cells: self.patch(self.patch_norm(cells)), means)
        for axis in range(2, x.ndim):
            scanned = scanned.repeat_interleave(self.window, dim=axis).narrow(axis, 0, sizes[axis - 2])
        return x + self.drop_path(scanned)


class OmnidirectionalMamba(nn.Module):
    """Scans of the cells and of the channels, six in two dimensions, summed (VmambaIR, arXiv 2403.11423).

    x + SS2D(LN(x)) + w, where w are the means of the channels, one token a channel, scanned both ways. How
    the released code joins the channels' scan is unconfirmed.

    Args:
        dim: C.
        dimensions: axes of the grid.
        routes: of the cells' scan.
        drop_path: chance to drop the scans.
        width: of a channel's token.
        **options: of `SS2D`.
    """

    def __init__(
        self,
        dim: int,
        *,
        dimensions: int = 2,
        routes: str | Sequence[str] = "cross",
        drop_path: float = 0.0,
        width: int = 4,
        **options: Any,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.cells = SS2D(dim, routes=routes, dimensions=dimensions, **options)
        self.widen, self.narrow = nn.Linear(1, width), nn.Linear(width, 1)
        self.channels = RoutedMamba(width, routes="bidirectional", dimensions=1)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.drop_path(channels_first(self._mix, x))

    def _mix(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        means = x.flatten(1, -2).mean(dim=1)
        told = self.narrow(self.channels(self.widen(means[..., None])))
        return self.cells(x) + told.view(len(x), *(1,) * (x.ndim - 2), -1)


class TripletMamba(nn.Module):
    """Each axis of (H, W, C) in turn the features of the tokens that the others span (TM-UNet).

    x + the sum of three scans, of LN(x) turned as H W C, W C H and C H W and turned back; it fits one grid.
    How the released code joins them is unconfirmed.

    Args:
        dim: C.
        grid: (H, W).
        routes: of each scan, over the first two of its axes.
        drop_path: chance to drop the scans.
        **options: of `RoutedMamba`.

    Raises:
        ValueError: no grid of two axes.
    """

    turns = ("b c h w -> b h w c", "b c h w -> b w c h", "b c h w -> b c h w")

    def __init__(
        self,
        dim: int,
        *,
        grid: Sequence[int] | None,
        routes: str | Sequence[str] = "row",
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if grid is None or len(grid) != 2:
            raise ValueError(f"grid is {grid}; allowed: (H, W), so build the network with image_size=(H, W)")
        self.grid = tuple(grid)
        widths = (dim, self.grid[0], self.grid[1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.mixers = nn.ModuleList(RoutedMamba(width, routes=routes, **options) for width in widths)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Raises:
            ValueError: a map of another grid.
        """
        if tuple(x.shape[2:]) != self.grid:
            raise ValueError(f"a map of {tuple(x.shape[2:])} cells, the layer was made for {self.grid}")
        return x + self.drop_path(in_full_precision(self._mix, x))

    def _mix(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for turn, norm, mixer in zip(self.turns, self.norms, self.mixers, strict=True):
            there, back = turn, " -> ".join(reversed(turn.split(" -> ")))
            total = total + rearrange(mixer(norm(rearrange(x, there))), back)
        return total
