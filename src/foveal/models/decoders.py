"""Dense decoders over any encoder: U-Net and U-Net++ over a pyramid, a linear head on one map."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
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

    @torch.no_grad()
    def begin_at(self, shares: Sequence[float]) -> None:
        """Let every pixel begin at these probabilities, one an output, in (0, 1).

        Structures that cover next to nothing are found earlier so (Lin et al., arXiv 1708.02002): the first
        steps need not teach that nearly everything is background.
        """
        nn.init.zeros_(self.project.weight)
        assert self.project.bias is not None
        self.project.bias.copy_(torch.tensor(shares).logit().repeat_interleave(self.stride**2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) to (B, O, s H, s W)."""
        return F.pixel_shuffle(self.project(x), self.stride)


class EncoderDecoder(nn.Module):
    """Any encoder, a U-Net family decoder over its pyramid, and a dense head: images to logits.

    An encoder with one map (a plain transformer or Mamba, whose map is its patch grid) gets the dense head
    alone: a linear layer on each patch token tells the pixels of its patch. Images whose sides are no
    multiples of the encoder's coarsest stride are padded with zeros below and at the right, as the black
    surround of a fundus photograph is, and the logits are cropped.

    Args:
        encoder: with a pyramid of one level or more.
        decoder: which decoder; an encoder with one map has no use for it.
        outputs: channels of the logits.
        widths: of the decoder's levels; by default half the pyramid's channels, at least 16. None for
            one map.

    Raises:
        ValueError: the encoder has no pyramid, `widths` does not fit it.
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
        channels, strides = encoder.pyramid_channels, encoder.pyramid_strides
        if not channels:
            raise ValueError(
                f"{type(encoder).__name__} has a pyramid of 0 levels; a dense head wants 1, a decoder more"
            )
        widths = list(widths) if widths is not None else [max(16, c // 2) for c in channels[:-1]]
        if len(widths) != len(channels) - 1:
            raise ValueError(f"decoder widths {widths}: {len(channels) - 1} values are wanted")
        self.encoder = encoder
        self.decoder: nn.Module | None = None
        if widths:
            make = UNetDecoder if decoder == "unet" else UNetPlusPlusDecoder
            self.decoder = make(channels, widths)
        self.head = DenseHead(widths[0] if widths else channels[0], outputs, strides[0])
        self.multiple = lcm(*strides, encoder.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, outputs, H, W), for any H and W."""
        height, width = images.shape[-2:]
        missing = (-height % self.multiple, -width % self.multiple)
        if any(missing):
            images = F.pad(images, (0, missing[1], 0, missing[0]))
        pyramid = self.encoder(images).pyramid
        logits = self.head(self.decoder(pyramid) if self.decoder is not None else pyramid[0])
        if logits.shape[-2:] != images.shape[-2:]:  # old networks without padding, such as Inception
            logits = F.interpolate(logits, size=images.shape[-2:], mode="bilinear")
        return logits[..., :height, :width]
