"""Layers of channels-first maps of two or three axes that networks of both share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def convolution(
    inputs: int,
    outputs: int,
    kernel_size: int = 3,
    *,
    dimensions: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """A convolution that keeps the grid at stride 1 (odd kernels), and else takes every `stride`-th cell."""
    padding = dilation * (kernel_size // 2) if kernel_size % 2 else 0
    make = nn.Conv2d if check_dimensions(dimensions) == 2 else nn.Conv3d
    return make(inputs, outputs, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=bias)


def separable_convolution(inputs: int, outputs: int, *, dimensions: int) -> nn.Sequential:
    """A depthwise convolution over three cells and a pointwise one, neither with a bias."""
    return nn.Sequential(
        convolution(inputs, inputs, dimensions=dimensions, groups=inputs, bias=False),
        convolution(inputs, outputs, 1, dimensions=dimensions, bias=False),
    )


def widening(inputs: int, outputs: int, *, dimensions: int) -> nn.Module:
    """A transposed convolution of kernel and stride 2: each cell to 2 x 2 (x 2)."""
    make = nn.ConvTranspose2d if check_dimensions(dimensions) == 2 else nn.ConvTranspose3d
    return make(inputs, outputs, 2, 2)


def instance_norm(channels: int, *, dimensions: int) -> nn.Module:
    """Normalisation of each channel of each image, with a learned scale and shift."""
    make = nn.InstanceNorm2d if check_dimensions(dimensions) == 2 else nn.InstanceNorm3d
    return make(channels, affine=True)


def batch_norm(channels: int, *, dimensions: int) -> nn.Module:
    """Normalisation of each channel over the batch."""
    return (nn.BatchNorm2d if check_dimensions(dimensions) == 2 else nn.BatchNorm3d)(channels)


def max_pool(*, dimensions: int) -> nn.Module:
    """Largest of each 2 x 2 (x 2) cells."""
    return (nn.MaxPool2d if check_dimensions(dimensions) == 2 else nn.MaxPool3d)(2)


def mean_pool(size: int, *, dimensions: int) -> nn.Module:
    """Means of windows of `size` cells along each axis."""
    return (nn.AvgPool2d if check_dimensions(dimensions) == 2 else nn.AvgPool3d)(size)


def upsample(x: Tensor, **options: Any) -> Tensor:
    """Twice the grid, linearly between cells; `options` of torch's `interpolate`, such as `size`."""
    if "size" not in options:
        options["scale_factor"] = 2
    return F.interpolate(x, mode="bilinear" if x.ndim == 4 else "trilinear", **options)


def check_dimensions(dimensions: int) -> int:
    """`dimensions`, 2 or 3.

    Raises:
        ValueError: it is neither.
    """
    if dimensions not in (2, 3):
        raise ValueError(f"spatial_dims is {dimensions}; allowed: 2 (images) or 3 (volumes)")
    return dimensions


class ResidualConv(nn.Module):
    """nnU-Net's residual block: conv3, norm, LeakyReLU, conv3, norm, beside a shortcut, LeakyReLU.

    (B, I, *grid) to (B, O, *grid / stride); the shortcut is a 1 x 1 convolution where shapes differ.

    Args:
        inputs: I.
        outputs: O.
        dimensions: axes of the grid.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, *, dimensions: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(inputs, outputs, dimensions=dimensions, stride=stride),
            instance_norm(outputs, dimensions=dimensions),
            nn.LeakyReLU(inplace=True),
            convolution(outputs, outputs, dimensions=dimensions),
            instance_norm(outputs, dimensions=dimensions),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.shortcut = convolution(inputs, outputs, 1, dimensions=dimensions, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.leaky_relu(self.layers(x) + self.shortcut(x))
