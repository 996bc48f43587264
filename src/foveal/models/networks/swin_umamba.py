"""Swin-UMamba: a VMamba encoder, pretrained where wanted, and a convolutional decoder (2402.03302)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from foveal.blocks.grid_layers import convolution, instance_norm
from foveal.blocks.routed_mamba import in_full_precision
from foveal.encoders.vmamba import VMamba
from foveal.models.networks.base import register_network
from foveal.models.networks.frame import PaddedNetwork
from foveal.models.networks.unetr_decoder import UnetrDecoder


@register_network("swin-umamba")
class SwinUMamba(PaddedNetwork):
    """Images (B, C, H, W) to logits (B, outputs, H, W) through maps of strides 1, 2, 4 to 32.

    A 7 x 7 convolution of stride 2, patches of 2 x 2 of its cells, then the stages of an encoder "vmamba"
    without its stem: `take_stages` copies those of a pretrained one.

    Args:
        outputs: logits of each pixel.
        in_channels: C.
        spatial_dims: 2 alone, as VMamba has two axes.
        encoder: settings of the encoder "vmamba"; VMamba's first form by default (gated scans of 16 states,
            expanded twice, no feed-forward, patches merged; widths from 96, depths 2, 2, 9, 2).
        widths: of the decoder, finest first, one for each stride but the coarsest, whose map it takes as it
            is; by default those of the maps one stride below.
        scan: routes of the encoder's scans.

    Raises:
        ValueError: `spatial_dims` is not 2, or widths that do not fit the encoder.
    """

    def __init__(
        self,
        *,
        outputs: int = 1,
        in_channels: int = 3,
        spatial_dims: int = 2,
        encoder: Mapping[str, Any] | None = None,
        widths: Sequence[int] | None = None,
        scan: str | Sequence[str] = "cross",
    ) -> None:
        if spatial_dims != 2:
            raise ValueError(
                f"spatial_dims is {spatial_dims}; allowed: 2, VMamba's. For volumes take 'segmamba'"
            )
        settings: dict[str, Any] = {
            "dim": 96,
            "depths": (2, 2, 9, 2),
            "states": 16,
            "expand": 2,
            "gate": True,
            "mlp_ratio": 0,
            "style": "patches",
            "drop_path": 0.2,
            "routes": scan,
        }
        made = VMamba(**settings | dict(encoder or {}))
        dims = made.pyramid_channels
        if widths is None:
            widths = (dims[0] // 2, *dims)
        if len(widths) != len(dims) + 1:
            raise ValueError(
                f"widths {tuple(widths)}; allowed: {len(dims) + 1}, for each stride from 1 but the coarsest"
            )
        super().__init__(in_channels=in_channels, spatial_dims=2, multiple=made.patch_size)
        half = dims[0] // 2
        self.stem = nn.Sequential(
            convolution(in_channels, half, 7, dimensions=2, stride=2), instance_norm(half, dimensions=2)
        )
        self.embed = nn.Sequential(nn.Conv2d(half, dims[0], 2, 2), LayerNorm2d(dims[0], eps=1e-5))
        self.encoder = made
        self.encoder.stem, self.encoder.norm = nn.Identity(), cast(Any, nn.Identity())
        self.decoder = UnetrDecoder([in_channels, half, *dims], widths, outputs=outputs, dimensions=2)

    def take_stages(self, encoder: VMamba) -> None:
        """Copy the stages, and the steps between them, of an encoder, such as one with ImageNet weights.

        Raises:
            ValueError: its stages are others than this network's.
        """
        given = {
            key: value for key, value in encoder.state_dict().items() if key.startswith(("stages.", "downs."))
        }
        own = self.encoder.state_dict()
        unlike = [
            key
            for key in {*own, *given}
            if key not in own or key not in given or own[key].shape != given[key].shape
        ]
        if unlike:
            raise ValueError(
                f"{len(unlike)} tensors of the encoder's stages do not fit, such as {min(unlike)}; make the "
                "network with encoder=encoder.settings"
            )
        self.encoder.load_state_dict(given)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of padded images."""
        halved = self.stem(images)
        maps, x = [images, halved], self.embed(halved).movedim(1, -1)
        for level, stage in enumerate(self.encoder.stages):
            x = in_full_precision(stage, self.encoder.downs[level - 1](x) if level else x)
            maps.append(x.movedim(-1, 1))
        return self.decoder(maps)
