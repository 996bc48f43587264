"""Locally enhanced feed-forward block: depthwise between 1x1 convolutions (LocalViT, arXiv 2104.05707)."""

from __future__ import annotations

from timm.layers import SqueezeExcite
from torch import Tensor, nn


class LocalFeedForward(nn.Module):
    """x + project(gate(depthwise(expand(x)))): (B, C, H, W) to the same.

    Each convolution is followed by batch normalisation, the first two by h-swish too; the gate is
    squeeze-and-excitation with ReLU and h-sigmoid.

    Args:
        dim: C.
        expand: hidden channels over C.
        kernel_size: of the depthwise convolution.
        gate_width: hidden channels of the gate. MedViTV2 has as few as `expand`: nearly a scalar gate.
    """

    def __init__(
        self, dim: int, *, expand: int = 3, kernel_size: int = 3, gate_width: int | None = None
    ) -> None:
        super().__init__()
        hidden = dim * expand
        self.layers = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, kernel_size, padding=kernel_size // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            SqueezeExcite(
                hidden, rd_channels=gate_width or expand, act_layer=nn.ReLU, gate_layer="hard_sigmoid"
            ),
            nn.Conv2d(hidden, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, its own residual included."""
        return x + self.layers(x)
