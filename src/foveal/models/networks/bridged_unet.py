"""UltraLight VM-UNet and H-vmunet: light U-nets whose skips pass attention (arXiv 2403.20035, 2403.13642)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.grid_blocks import create_grid_block
from foveal.blocks.grid_layers import convolution, max_pool, upsample
from foveal.blocks.vision_mamba_layers import PVM, group_norm
from foveal.models.networks.base import register_network
from foveal.models.networks.frame import PaddedNetwork


class SkipAttention(nn.Module):
    """Attention of all skips (B, C_i, *grid_i) together: over places, then over channels.

    Places: sigmoid of a convolution, the same for all skips, of the mean and the largest of the channels.
    Channels: the mean vectors of all skips side by side, smoothed by a convolution over three neighbours; a
    linear layer a skip, sigmoid. Both multiply, and what they multiplied is added.

    Args:
        widths: C_i.
        dimensions: axes of the grids.
        kernel_size: of the convolution over places, of dilation 3.
    """

    def __init__(self, widths: Sequence[int], *, dimensions: int = 2, kernel_size: int = 7) -> None:
        super().__init__()
        self.place = convolution(2, 1, kernel_size, dimensions=dimensions, dilation=3)
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.channels = nn.ModuleList(nn.Linear(sum(widths), width) for width in widths)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Skips of the same shapes."""
        placed = [skip + skip * torch.sigmoid(self.place(_mean_and_largest(skip))) for skip in skips]
        means = torch.cat([skip.flatten(2).mean(dim=-1) for skip in placed], dim=-1)
        means = self.mix(means[:, None])[:, 0]
        return [
            skip + skip * torch.sigmoid(layer(means)).view(*skip.shape[:2], *(1,) * (skip.ndim - 2))
            for skip, layer in zip(placed, self.channels, strict=True)
        ]


def _mean_and_largest(x: Tensor) -> Tensor:
    return torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)


class BridgedUNet(PaddedNetwork):
    """Stages of one layer, group norm, pooling and GELU; skips through `SkipAttention`, added.

    The logits are made at half the size and widened linearly.

    Args:
        make_layer: (level, inputs, outputs) to a layer of channels-first maps, level 0 the finest.
        dims: channels of the stages, finest first; multiples of 4.
        outputs: logits of each pixel.
        in_channels: of the images, by default 3, and 1 for volumes.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: fewer than two stages, or channels that no layer or norm divides.
    """

    def __init__(
        self,
        make_layer: Callable[[int, int, int], nn.Module],
        *,
        dims: Sequence[int],
        outputs: int,
        in_channels: int | None,
        spatial_dims: int,
    ) -> None:
        if len(dims) < 2:
            raise ValueError(f"dims is {tuple(dims)}; allowed: channels of two stages or more")
        super().__init__(in_channels=in_channels, spatial_dims=spatial_dims, multiple=2 ** (len(dims) - 1))
        self.encoder = nn.ModuleList(
            make_layer(level, *pair) for level, pair in enumerate(pairwise([self.in_channels, *dims]))
        )
        self.encoder_norms = nn.ModuleList(group_norm(dim, 4) for dim in dims[:-1])
        self.attention = SkipAttention(dims[:-1], dimensions=spatial_dims)
        self.decoder = nn.ModuleList(
            make_layer(level, dims[level], dims[level - 1]) for level in range(len(dims) - 1, 0, -1)
        )
        self.decoder_norms = nn.ModuleList(group_norm(dim, 4) for dim in reversed(dims[:-1]))
        self.pool = max_pool(dimensions=spatial_dims)
        self.head = convolution(dims[0], outputs, 1, dimensions=spatial_dims)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of padded images."""
        x, skips = images, []
        for layer, norm in zip(self.encoder, self.encoder_norms, strict=False):
            x = F.gelu(self.pool(norm(layer(x))))
            skips.append(x)
        x = F.gelu(self.encoder[-1](x))
        skips = self.attention(skips)
        for number, (layer, norm) in enumerate(zip(self.decoder, self.decoder_norms, strict=True)):
            x = norm(layer(x))
            if number:  # the first one works where the last pooling ended
                x = upsample(x, align_corners=True)
            x = F.gelu(x) + skips[-1 - number]
        return upsample(self.head(x), align_corners=True)


@register_network("ultralight-vm-unet")
class UltraLightVMUNet(BridgedUNet):
    """UltraLight VM-UNet: 49,457 parameters for three channels and one class.

    Args:
        outputs: logits of each pixel.
        in_channels: of the images, by default 3, and 1 for volumes.
        spatial_dims: 2 or 3.
        dims: channels of the stages, finest first; the first three are convolutions, the others `PVM`.
        scan: routes of the Mamba layers, of `foveal.blocks.scan_routes`.
        **options: of `PVM` and `RoutedMamba`, such as `parts` or `states`.

    Raises:
        ValueError: channels that do not divide into parts or norms, or a scan that is not known.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        in_channels: int | None = None,
        spatial_dims: int = 2,
        dims: Sequence[int] = (8, 16, 24, 32, 48, 64),
        scan: str | Sequence[str] = "row",
        **options: Any,
    ) -> None:
        def layer(level: int, inputs: int, width: int) -> nn.Module:
            if level < 3:
                return convolution(inputs, width, dimensions=spatial_dims)
            return PVM(inputs, width, dimensions=spatial_dims, routes=scan, **options)

        super().__init__(
            layer, dims=dims, outputs=outputs, in_channels=in_channels, spatial_dims=spatial_dims
        )


@register_network("h-vmunet")
class HighOrderVMUNet(BridgedUNet):
    """H-vmunet: two stages of convolutions, then products of scans of orders 2 to 5, and back.

    Each of the later stages is a 1 x 1 convolution to its width and blocks "high-order". Two blocks a stage
    make 9.00 M parameters, 8.97 M are remembered as published; what the released code does beside the scans
    is unconfirmed.

    Args:
        outputs: logits of each pixel.
        in_channels: of the images, by default 3, and 1 for volumes.
        spatial_dims: 2 or 3.
        dims: channels of the stages, finest first; multiples of 4.
        orders: of the stages after the convolutions.
        depth: blocks of each stage.
        scan: routes of the scans.
        **options: of the block, such as `expand`, `states` or `mlp_ratio`.

    Raises:
        ValueError: as many or more orders than stages, channels that an order does not divide, or a scan that
            is not known.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        in_channels: int | None = None,
        spatial_dims: int = 2,
        dims: Sequence[int] = (8, 16, 32, 64, 128, 256),
        orders: Sequence[int] = (2, 3, 4, 5),
        depth: int = 2,
        scan: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        first = len(dims) - len(orders)
        if first < 1 or depth < 1:
            raise ValueError(
                f"{len(orders)} orders for {len(dims)} stages, depth {depth}; allowed: fewer orders than "
                "stages, depth 1 or more"
            )

        def layer(level: int, inputs: int, width: int) -> nn.Module:
            if level < first:
                return convolution(inputs, width, dimensions=spatial_dims)
            own = {"order": orders[level - first]} | options
            # Upwards the blocks come before the change of width, so that an order meets the width it is for.
            block_width = max(inputs, width)
            blocks = [
                create_grid_block("high-order", block_width, dimensions=spatial_dims, scan=scan, **own)
                for _ in range(depth)
            ]
            change = convolution(inputs, width, 1, dimensions=spatial_dims)
            return nn.Sequential(change, *blocks) if width >= inputs else nn.Sequential(*blocks, change)

        super().__init__(
            layer, dims=dims, outputs=outputs, in_channels=in_channels, spatial_dims=spatial_dims
        )
