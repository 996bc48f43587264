"""LightM-UNet: residual vision Mamba layers below, separable convolutions above (arXiv 2403.05246)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveal.blocks.grid_layers import convolution, max_pool, separable_convolution
from foveal.blocks.vision_mamba_layers import RVM, ResidualRVM, ScaledConvBlock, group_norm
from foveal.models.networks.base import register_network
from foveal.models.networks.frame import PaddedNetwork
from foveal.models.networks.unet_parts import LinearWidening


@register_network("lightm-unet")
class LightMUNet(PaddedNetwork):
    """Images (B, C, *sizes) to logits (B, outputs, *sizes); skips are added.

    Args:
        outputs: logits of each pixel.
        in_channels: C, by default 3 for images and 1 for volumes.
        spatial_dims: 2 or 3.
        filters: channels of the first stage, a multiple of 8; 8 in the code, 32 in the paper. With 32 the
            network has 5.01 M parameters, as users count them in the released code; the paper tells 1.09 M
            for images and 1.87 M for volumes, which no filters give both (8: 0.38 M, 16: 1.34 M).
        blocks_down: residual blocks of the encoder's stages, finest first.
        blocks_up: blocks of the decoder's stages, coarsest first; one fewer.
        scan: of `foveal.blocks.scan_routes`.
        **options: of `RoutedMamba`, such as `states`.

    Raises:
        ValueError: numbers of stages that do not fit, channels that the norms do not divide, or a scan that
            is not known.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        in_channels: int | None = None,
        spatial_dims: int = 2,
        filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        scan: str | Sequence[str] = "row",
        **options: Any,
    ) -> None:
        if len(blocks_down) != len(blocks_up) + 1 or min(*blocks_down, *blocks_up) < 1:
            raise ValueError(
                f"blocks_down {tuple(blocks_down)}, blocks_up {tuple(blocks_up)}; allowed: one fewer up than "
                "down, each 1 or more"
            )
        super().__init__(
            in_channels=in_channels, spatial_dims=spatial_dims, multiple=2 ** (len(blocks_down) - 1)
        )
        axes: dict[str, Any] = {"dimensions": spatial_dims}
        options = {"routes": scan} | axes | options
        self.stem = separable_convolution(self.in_channels, filters, **axes)
        self.encoder = nn.ModuleList()
        for level, count in enumerate(blocks_down):
            dim = filters * 2**level
            entry = [RVM(dim // 2, dim, **options), max_pool(**axes)] if level else []
            self.encoder.append(nn.Sequential(*entry, *(ResidualRVM(dim, **options) for _ in range(count))))
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, count in zip(range(len(blocks_up) - 1, -1, -1), blocks_up, strict=True):
            dim = filters * 2**level
            self.ups.append(LinearWidening(2 * dim, dim, **axes))
            self.decoder.append(nn.Sequential(*(ScaledConvBlock(dim, **axes) for _ in range(count))))
        self.head = nn.Sequential(group_norm(filters, 8), nn.ReLU(), convolution(filters, outputs, 1, **axes))

    def logits(self, images: Tensor) -> Tensor:
        """Logits of padded images."""
        x, maps = self.stem(images), []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        for up, stage, skip in zip(self.ups, self.decoder, reversed(maps[:-1]), strict=True):
            x = stage(up(x) + skip)
        return self.head(x)
