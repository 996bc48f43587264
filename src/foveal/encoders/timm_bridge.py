"""Any timm backbone as an encoder, with its feature pyramid for dense tasks."""

from __future__ import annotations

import difflib
from typing import Any, cast

import timm
from einops import rearrange
from timm.models import FeatureInfo
from torch import Tensor

from foveal.encoders.base import Encoder
from foveal.encoders.features import Features


class TimmEncoder(Encoder):
    """A timm model behind the encoder contract.

    Patch tokens are the cells of the coarsest feature map, the pooled vector is their mean. Works with
    every model that timm's `features_only` supports (convolutional, hierarchical and plain transformers).

    Args:
        name: timm's name of the model, e.g. `resnet18`.
        in_channels: channels of the input images; timm adapts pretrained stem weights.
        pretrained: load timm's weights (needs them in the hub's cache, or network access).
        out_indices: pyramid levels to return; None takes all of them.
        **settings: passed on to `timm.create_model`, e.g. `img_size`.

    Raises:
        ValueError: timm has no model of that name.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        out_indices: tuple[int, ...] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"timm has no model named {name!r}{hint} timm.list_models() names them all")
        if out_indices is not None:
            settings["out_indices"] = tuple(out_indices)
        self.backbone = timm.create_model(
            name, features_only=True, pretrained=pretrained, in_chans=in_channels, **settings
        )
        info = cast(FeatureInfo, self.backbone.feature_info)
        self.pyramid_channels = tuple(info.channels())
        self.pyramid_strides = tuple(info.reduction())
        self.dim, self.patch_size, self.in_channels = (
            self.pyramid_channels[-1],
            self.pyramid_strides[-1],
            in_channels,
        )
        # Swin-like models hand out channels-last maps; timm says so in `output_fmt`.
        self._channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).upper().endswith("NHWC")

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features."""
        maps = self.backbone(images)
        if self._channels_last:
            maps = [rearrange(m, "b h w c -> b c h w") for m in maps]
        patches = rearrange(maps[-1], "b d h w -> b (h w) d")
        return Features(patches, tuple(maps[-1].shape[-2:]), pooled=patches.mean(dim=1), pyramid=tuple(maps))
