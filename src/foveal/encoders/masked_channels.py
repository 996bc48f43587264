"""Any encoder on images that lack channels: zeros and a rescale, sampled in training (arXiv 2309.16108)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foveal.blocks.channel_tokens import (
    ChannelSampler,
    Sampling,
    channel_indices,
    present_channels,
    rescale_channels,
)
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features
from foveal.encoders.wrapping import inner_encoder


@register_encoder("masked-channels")
class MaskedChannels(Encoder):
    """An encoder of all channels that is fed zeros for those that are missing, the others times C / m.

    With hierarchical channel sampling this is the baseline that ChannelViT is compared to. The factor is
    applied in training and in use, else missing channels look worse than they are. Zeros are meant after
    normalisation: 0 is then the mean.

    Args:
        encoder: name as in `create_encoder`, or an encoder.
        encoder_settings: of the encoder that is named.
        in_channels: of the encoder that is named.
        sampling: in training, "hcs", "dropout" or "none".
        channel_dropout: share of channels that "dropout" takes away.
        seed: of the sampling.
    """

    def __init__(
        self,
        *,
        encoder: str | Encoder = "conv-pyramid",
        encoder_settings: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        sampling: Sampling = "hcs",
        channel_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = inner_encoder(self, encoder, encoder_settings, in_channels)
        self.sampler = ChannelSampler(sampling, rate=channel_dropout, seed=seed)
        self.in_channels, self.dim = self.encoder.in_channels, self.encoder.dim
        self.patch_size = self.encoder.patch_size
        self.pyramid_channels = self.encoder.pyramid_channels
        self.pyramid_strides = self.encoder.pyramid_strides

    def forward(self, images: Tensor, channels: Tensor | Sequence[int] | None = None) -> Features:
        """Encode images of some or all channels.

        Args:
            images: (B, C', H, W).
            channels: (C',) or (B, C') indices; None for all in order, of which those that are 0 everywhere
                in an image count as missing.

        Raises:
            ValueError: see `blocks.channel_indices`; an image that is 0 everywhere.
        """
        indices = channel_indices(images, channels, known=self.in_channels)
        if channels is None:
            indices = torch.where(present_channels(images), indices, -1)
        images, indices = self.sampler(images, indices)
        each = torch.arange(len(images), device=images.device)[:, None]
        # One place more takes what is absent, and is dropped.
        places = torch.where(indices >= 0, indices, self.in_channels)
        planes = images.new_zeros(len(images), self.in_channels + 1, *images.shape[2:])
        planes[each, places] = images
        present = torch.zeros(planes.shape[:2], dtype=torch.bool, device=images.device)
        present[each, places] = True
        return self.encoder(rescale_channels(planes[:, :-1], present[:, :-1]))
