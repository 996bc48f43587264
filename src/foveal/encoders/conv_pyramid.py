"""A small residual convolutional pyramid that starts from folded pixels: the shipped models' encoder."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.convolution import ResidualBlock
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features


@register_encoder("conv-pyramid")
class ConvPyramid(Encoder):
    """Fold `fold` x `fold` pixels into channels, then residual stages that halve the grid.

    Folding keeps every pixel and takes the costly full-resolution layers away: on a CPU a stage on
    the folded grid costs a quarter of the same stage on the image.

    Args:
        widths: channels of each stage; stage i works at stride `fold * 2**i`.
        fold: pixels folded along each axis (1 = none).
        in_channels: channels of the input images.

    The sides of the images must be divisible by `patch_size` = `fold * 2**(len(widths) - 1)`.
    """

    def __init__(
        self, *, widths: Sequence[int] = (24, 48, 80, 112), fold: int = 2, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.fold, self.in_channels, self.dim = fold, in_channels, widths[-1]
        self.pyramid_channels = tuple(widths)
        self.pyramid_strides = tuple(fold * 2**level for level in range(len(widths)))
        self.patch_size = self.pyramid_strides[-1]
        inputs = [in_channels * fold**2, *widths[:-1]]
        self.stages = nn.ModuleList(ResidualBlock(i, o) for i, o in zip(inputs, widths, strict=True))

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features.

        Raises:
            ValueError: a side of the images is not divisible by `patch_size`.
        """
        if any(side % self.patch_size for side in images.shape[-2:]):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} px: "
                f"sides must be multiples of {self.patch_size}"
            )
        x = F.pixel_unshuffle(images, self.fold)
        maps = []
        for level, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if level else x)
            maps.append(x)
        patches = rearrange(x, "b d h w -> b (h w) d")
        return Features(patches, tuple(x.shape[-2:]), pooled=patches.mean(dim=1), pyramid=tuple(maps))
