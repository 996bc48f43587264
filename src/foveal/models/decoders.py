"""Dense decoders over any encoder's pyramid: U-Net and U-Net++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.convolution import ConvNormAct, ResidualBlock
from foveal.encoders.base import Encoder

DecoderName = Literal["unet", "unet++"]


def _merge(deep: Tensor, skips: Sequence[Tensor]) -> Tensor:
    """`deep` brought to the skips' size and joined with them along the channels."""
    deep = F.interpolate(deep, size=skips[0].shape[-2:], mode="nearest")
    return torch.cat([deep, *skips], dim=1)


class UNetDecoder(nn.Module):
    """Coarse to fine with skip connections (Ronneberger et al., arXiv 1505.04597).

    Args:
        channels: of the pyramid, finest first.
        widths: output channels at each level, finest first; one fewer than `channels`.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        deeper = [*widths[1:], channels[-1]]
        self.blocks = nn.ModuleList(
            ResidualBlock(deep + skip, out)
            for deep, skip, out in zip(deeper, channels[:-1], widths, strict=True)
        )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Pyramid maps, finest first, to one map of `widths[0]` channels at the finest stride."""
        x = pyramid[-1]
        for block, skip in zip(reversed(self.blocks), reversed(pyramid[:-1]), strict=True):
            x = block(_merge(x, [skip]))
        return x


class UNetPlusPlusDecoder(nn.Module):
    """Nested dense skip paths (Zhou et al., arXiv 1807.10165): node (i, j) sees (i, 0..j-1), (i+1, j-1)."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        depth = len(channels) - 1
        sizes = [*widths, channels[-1]]
        self.depth = depth
        self.nodes = nn.ModuleDict()
        for j in range(1, depth + 1):
            for i in range(depth + 1 - j):
                below = sizes[i + 1] if j > 1 and i + 1 < depth else channels[i + 1]
                inputs = below + channels[i] + (j - 1) * widths[i]
                self.nodes[f"{i}-{j}"] = nn.Sequential(
                    ConvNormAct(inputs, widths[i]), ConvNormAct(widths[i], widths[i])
                )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Pyramid maps, finest first, to one map of `widths[0]` channels at the finest stride."""
        grid: dict[tuple[int, int], Tensor] = {(i, 0): x for i, x in enumerate(pyramid)}
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                skips = [grid[i, k] for k in range(j)]
                grid[i, j] = self.nodes[f"{i}-{j}"](_merge(grid[i + 1, j - 1], skips))
        return grid[0, self.depth]


class DenseHead(nn.Module):
    """A map at stride s to logits at the input's size: 1x1 convolution, then s x s pixels unfolded."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.project = nn.Conv2d(inputs, outputs * stride**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, s H, s W)."""
        return F.pixel_shuffle(self.project(x), self.stride)


class EncoderDecoder(nn.Module):
    """Any encoder with a pyramid, a U-Net family decoder and a dense head: images to logits.

    Args:
        encoder: must have a pyramid.
        decoder: which decoder.
        outputs: channels of the logits.
        widths: of the decoder's levels; by default half the pyramid's channels, at least 16.

    Raises:
        ValueError: the encoder has no pyramid of at least two levels, or `widths` does not fit it.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        decoder: DecoderName = "unet",
        outputs: int = 1,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        channels = encoder.pyramid_channels
        if len(channels) < 2:
            raise ValueError(
                f"{type(encoder).__name__} has a pyramid of {len(channels)} levels; a decoder wants 2 or more"
            )
        widths = list(widths) if widths is not None else [max(16, c // 2) for c in channels[:-1]]
        if len(widths) != len(channels) - 1:
            raise ValueError(f"decoder widths {widths}: {len(channels) - 1} values are wanted")
        self.encoder = encoder
        make = UNetDecoder if decoder == "unet" else UNetPlusPlusDecoder
        self.decoder = make(channels, widths)
        self.head = DenseHead(widths[0], outputs, encoder.pyramid_strides[0])

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, outputs, H, W)."""
        return self.head(self.decoder(self.encoder(images).pyramid))
