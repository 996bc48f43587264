"""UNETR's convolutional decoder over maps of strides 1, 2, 4 and so on (arXiv 2103.10504)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class UnetrDecoder(nn.Module):
    """A residual block on each skip, transposed convolutions with residual blocks upwards, logits.

    Args:
        channels: of the skips, finest first; the first is the image itself, each next one of half the size.
        widths: of the blocks on them, as many; one fewer leaves the coarsest map as it is.
        outputs: logits of each pixel.
        dimensions: axes of the maps.

    Raises:
        ValueError: another number of widths.
    """

    def __init__(
        self, channels: Sequence[int], widths: Sequence[int], *, outputs: int, dimensions: int
    ) -> None:
        # Seconds, which networks without them need not wait.
        from monai.networks.blocks.dynunet_block import UnetOutBlock
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock

        super().__init__()
        if len(channels) - len(widths) not in (0, 1):
            raise ValueError(
                f"widths {tuple(widths)} for {len(channels)} maps; allowed: as many, or one fewer"
            )
        self.skips = nn.ModuleList(
            UnetrBasicBlock(dimensions, inputs, width, 3, 1, "instance", res_block=True)
            for inputs, width in zip(channels, widths, strict=False)
        )
        self.ups = nn.ModuleList(
            UnetrUpBlock(dimensions, coarse, fine, 3, 2, "instance", res_block=True)
            for fine, coarse in pairwise([*widths, *channels[len(widths) :]])
        )
        self.last = UnetrBasicBlock(dimensions, widths[0], widths[0], 3, 1, "instance", res_block=True)
        self.head = UnetOutBlock(dimensions, widths[0], outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits at the size of the first map."""
        blocks = [*self.skips, *[nn.Identity()] * (len(maps) - len(self.skips))]
        skips = [block(x) for block, x in zip(blocks, maps, strict=True)]
        x = skips[-1]
        for up, skip in zip(reversed(self.ups), reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return self.head(self.last(x))
