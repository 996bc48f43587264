"""Convolutional blocks that encoders and decoders share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU; keeps the grid."""

    def __init__(self, inputs: int, outputs: int, *, kernel_size: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (1x1 where the width changes): (B, I, H, W) to (B, O, H, W).

    After He et al., "Deep residual learning" (arXiv 1512.03385), without stride.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.relu(self.norm(self.second(self.first(x))) + self.shortcut(x), inplace=True)

    def merge_batch_norms(self) -> None:
        """Let the second convolution do its normalisation as well."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.second = fuse_conv_bn_eval(self.second, self.norm)
            self.norm = nn.Identity()
