"""SegMamba: tri-orientated Mamba stages under a UNETR decoder (arXiv 2401.13560)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from foveal.blocks.grid_layers import convolution, instance_norm
from foveal.blocks.tri_orientated import ChannelMlp, TriOrientatedStage
from foveal.models.networks.base import register_network
from foveal.models.networks.frame import PaddedNetwork
from foveal.models.networks.unet_parts import norm_conv
from foveal.models.networks.unetr_decoder import UnetrDecoder


@register_network("segmamba")
class SegMamba(PaddedNetwork):
    """Volumes (B, C, T, H, W), or images (B, C, H, W), to logits of the same size.

    Args:
        outputs: logits of each voxel.
        in_channels: C, by default 3 for images and 1 for volumes.
        spatial_dims: 2 or 3.
        dims: channels of the stages, at strides 2, 4, 8, 16.
        depths: tri-orientated layers of each stage.
        hidden: channels of the decoder's coarsest map.
        scan: in place of "tri-orientated", of `foveal.blocks.scan_routes`.
        nslices: slices of each stage, each a divisor of the cells of its map; by default as many as its map
            has along the first axis, whatever the size of the volume.
        **options: of `TriOrientatedStage` and `RoutedMamba`, such as `fuse` or `states`.

    Raises:
        ValueError: numbers of stages that differ, or a scan that is not known.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        in_channels: int | None = None,
        spatial_dims: int = 2,
        dims: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden: int = 768,
        scan: str | Sequence[str] = "tri-orientated",
        nslices: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        slices: Sequence[int | None] = (None,) * len(dims) if nslices is None else nslices
        if not len(dims) == len(depths) == len(slices) > 0 or min(depths) < 1:
            raise ValueError(
                f"dims {tuple(dims)}, depths {tuple(depths)}, nslices {nslices}; allowed: as many of each, "
                "and depths of 1 or more"
            )
        super().__init__(in_channels=in_channels, spatial_dims=spatial_dims, multiple=2 ** len(dims))
        axes: dict[str, Any] = {"dimensions": spatial_dims}
        self.downs = nn.ModuleList([convolution(self.in_channels, dims[0], 7, stride=2, **axes)])
        self.downs.extend(norm_conv(*pair, **axes) for pair in pairwise(dims))
        self.stages = nn.ModuleList(
            TriOrientatedStage(dim, depth=depth, routes=scan, nslices=count, **axes, **options)
            for dim, depth, count in zip(dims, depths, slices, strict=True)
        )
        self.tells = nn.ModuleList(
            nn.Sequential(instance_norm(dim, **axes), ChannelMlp(dim, **axes)) for dim in dims
        )
        self.decoder = UnetrDecoder([self.in_channels, *dims], [*dims, hidden], outputs=outputs, **axes)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of padded volumes."""
        x, maps = images, [images]
        for down, stage, tell in zip(self.downs, self.stages, self.tells, strict=True):
            x = stage(down(x))
            maps.append(tell(x))
        return self.decoder(maps)
