"""Stems, steps down and up, and skips of `SSMUNet`, each by name; all of maps (B, C, *grid)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from foveal.blocks.grid_layers import (
    ResidualConv,
    convolution,
    instance_norm,
    max_pool,
    upsample,
    widening,
)
from foveal.blocks.routed_mamba import ChannelsFirst

# From channels in and out to a layer; keyword `dimensions`.
MakeStep = Callable[..., nn.Module]


def _normed(layer: nn.Module, channels: int, dimensions: int) -> nn.Sequential:
    return nn.Sequential(layer, instance_norm(channels, dimensions=dimensions), nn.LeakyReLU(inplace=True))


def conv_stem(inputs: int, outputs: int, *, dimensions: int, stride: int = 1) -> nn.Module:
    """Convolution of 3 cells (of 7 where it has a stride), norm, LeakyReLU."""
    layer = convolution(inputs, outputs, 3 if stride == 1 else 7, dimensions=dimensions, stride=stride)
    return _normed(layer, outputs, dimensions)


def patch_stem(inputs: int, outputs: int, *, dimensions: int, stride: int = 4) -> nn.Module:
    """Patches of `stride` pixels a side, projected and normalised."""
    layer = convolution(inputs, outputs, stride, dimensions=dimensions, stride=stride)
    return nn.Sequential(layer, ChannelsFirst(nn.LayerNorm(outputs)))


def residual_stem(inputs: int, outputs: int, *, dimensions: int, stride: int = 1) -> nn.Module:
    """nnU-Net's residual block."""
    return ResidualConv(inputs, outputs, dimensions=dimensions, stride=stride)


def strided_conv(inputs: int, outputs: int, *, dimensions: int) -> nn.Module:
    """Convolution of 3 cells and stride 2, norm, LeakyReLU."""
    return _normed(convolution(inputs, outputs, dimensions=dimensions, stride=2), outputs, dimensions)


def norm_conv(inputs: int, outputs: int, *, dimensions: int) -> nn.Module:
    """Norm, then a convolution of kernel and stride 2 (SegMamba)."""
    return nn.Sequential(
        instance_norm(inputs, dimensions=dimensions),
        convolution(inputs, outputs, 2, dimensions=dimensions, stride=2),
    )


def strided_residual(inputs: int, outputs: int, *, dimensions: int) -> nn.Module:
    """nnU-Net's residual block of stride 2."""
    return ResidualConv(inputs, outputs, dimensions=dimensions, stride=2)


def pooled(inputs: int, outputs: int, *, dimensions: int) -> nn.Module:
    """Largest of 2 x 2 cells, then a 1 x 1 convolution."""
    return nn.Sequential(
        max_pool(dimensions=dimensions), convolution(inputs, outputs, 1, dimensions=dimensions)
    )


class CellMerging(nn.Module):
    """2 x 2 (x 2) cells side by side, normalised and projected, as Swin's patch merging."""

    def __init__(self, inputs: int, outputs: int, *, dimensions: int) -> None:
        super().__init__()
        gathered = inputs * 2**dimensions
        self.layer = ChannelsFirst(
            nn.Sequential(nn.LayerNorm(gathered), nn.Linear(gathered, outputs, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve the grid."""
        for axis in range(2, x.ndim):
            x = torch.cat(x.unflatten(axis, (-1, 2)).unbind(axis + 1), dim=1)
        return self.layer(x)


class CellExpanding(nn.Module):
    """Each cell to factor x factor (x factor) cells by a linear layer, normalised: what undoes a merging."""

    def __init__(self, inputs: int, outputs: int, *, dimensions: int, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.expand = convolution(inputs, outputs * factor**dimensions, 1, dimensions=dimensions, bias=False)
        self.norm = ChannelsFirst(nn.LayerNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Widen the grid."""
        x = self.expand(x)
        for axis in range(x.ndim - 1, 1, -1):
            parts = x.chunk(self.factor, dim=1)
            x = torch.stack(parts, dim=axis + 1).flatten(axis, axis + 1)
        return self.norm(x)


def transposed(inputs: int, outputs: int, *, dimensions: int) -> nn.Module:
    """Transposed convolution of kernel and stride 2."""
    return widening(inputs, outputs, dimensions=dimensions)


class LinearWidening(nn.Module):
    """A 1 x 1 convolution, then twice the grid, linearly between cells."""

    def __init__(self, inputs: int, outputs: int, *, dimensions: int) -> None:
        super().__init__()
        self.layer = convolution(inputs, outputs, 1, dimensions=dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Widen the grid."""
        return upsample(self.layer(x))


class ConcatSkip(nn.Module):
    """Skip and what comes up side by side, to C channels by `fuse`; a 1 x 1 convolution by default."""

    def __init__(self, channels: int, *, dimensions: int, fuse: nn.Module | None = None) -> None:
        super().__init__()
        self.fuse = fuse or convolution(2 * channels, channels, 1, dimensions=dimensions)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join."""
        return self.fuse(torch.cat([x, skip], dim=1))


class AddSkip(nn.Module):
    """The sum."""

    def __init__(self, channels: int, *, dimensions: int, fuse: nn.Module | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join."""
        return x + skip


class AttentionSkip(nn.Module):
    """The skip through the gate of Attention U-Net (arXiv 1804.03999), then as `ConcatSkip`."""

    def __init__(self, channels: int, *, dimensions: int, fuse: nn.Module | None = None) -> None:
        from monai.networks.nets.attentionunet import AttentionBlock  # seconds, for this part alone

        super().__init__()
        self.gate = AttentionBlock(dimensions, f_int=max(1, channels // 2), f_g=channels, f_l=channels)
        self.concat = ConcatSkip(channels, dimensions=dimensions, fuse=fuse)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join."""
        return self.concat(x, self.gate(x, skip))


STEMS: dict[str, MakeStep] = {"conv": conv_stem, "patch": patch_stem, "residual": residual_stem}
DOWNS: dict[str, MakeStep] = {
    "conv": strided_conv,
    "max-pool": pooled,
    "merge": CellMerging,
    "norm-conv": norm_conv,
    "residual": strided_residual,
}
UPS: dict[str, MakeStep] = {"expand": CellExpanding, "linear": LinearWidening, "transposed": transposed}
SKIPS: dict[str, MakeStep] = {"add": AddSkip, "attention": AttentionSkip, "concat": ConcatSkip}
