"""Any encoder with a block behind it that takes position-tied artifacts out (DVT, arXiv 2401.02957)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor

from foveal.blocks.denoiser import DenoiserBlock
from foveal.encoders.base import Encoder, register_encoder
from foveal.encoders.features import Features
from foveal.encoders.wrapping import inner_encoder


@register_encoder("denoised")
class Denoised(Encoder):
    """An encoder with DVT's denoiser block behind it: the same features, the patch tokens cleaned.

    The pooled vector stays the encoder's own. The last level of its pyramid is replaced where that is the
    grid of patches, as it is for plain transformers; other levels stay.

    Args:
        encoder: name as in `create_encoder` (timm and transformers models included), or an encoder.
        encoder_settings: of the encoder that is named.
        in_channels: of the encoder that is named.
        grid: (h, w) of patches at which the block is trained; others get resized positions.
        heads: of the block; D / 64 where None.
        mlp_ratio: of the block.
        frozen: keep the encoder's weights and statistics as they are, which is the published use.

    Raises:
        ValueError: an encoder together with its settings, or heads that do not divide its channels.
    """

    def __init__(
        self,
        *,
        encoder: str | Encoder = "conv-pyramid",
        encoder_settings: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        grid: Sequence[int] = (16, 16),
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = inner_encoder(self, encoder, encoder_settings, in_channels)
        inner = self.encoder
        self.denoiser = DenoiserBlock(inner.dim, (grid[0], grid[1]), heads=heads, mlp_ratio=mlp_ratio)
        self.settings["grid"] = [int(side) for side in grid]
        self.frozen = frozen
        if frozen:
            inner.requires_grad_(False).eval()
        self.dim, self.patch_size, self.in_channels = inner.dim, inner.patch_size, inner.in_channels
        self.pyramid_channels, self.pyramid_strides = inner.pyramid_channels, inner.pyramid_strides
        self.preprocess = inner.preprocess

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Features:
        """(B, C, H, W) images to features.

        Raises:
            ValueError: an encoder whose patches are on no grid of two axes.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.encoder(images)
        if len(found.grid) != 2:
            raise ValueError(f"the encoder has a grid of {found.grid}; the denoiser wants two axes")
        clean = self.denoiser(found.patches.unflatten(1, found.grid))
        pyramid = found.pyramid
        if pyramid and tuple(pyramid[-1].shape[1:]) == (self.dim, *found.grid):
            pyramid = (*pyramid[:-1], rearrange(clean, "b h w d -> b d h w"))
        return Features(clean.flatten(1, 2), found.grid, found.pooled, pyramid=pyramid)
