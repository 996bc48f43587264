"""A vision transformer with the head and decoder of MaskEmbed, for locality alignment (arXiv 2410.11087)."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from foveal.blocks.masked_decoder import decoder_like
from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.encoders.vit_tokens import patch_grid, vit_of, vit_tokens
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings

HeadKind = Literal["linear", "mlp"]


class MaskedEmbeddingConfig(Settings):
    """Everything that rebuilds a `MaskedEmbedding`; the defaults are the paper's."""

    encoder: str = Field(description="a vision transformer, timm/NAME")
    encoder_settings: dict[str, Any] = Field(default_factory=dict, description="soft_cap among them")
    preprocess: EncoderPreprocess = EncoderPreprocess()
    head: HeadKind = "linear"
    width: int | None = Field(None, ge=1, description="of the decoder; that of the encoder where None")
    target_dim: int | None = Field(None, ge=1, description="of the teacher; that of the encoder where None")
    depth: int = Field(2, ge=0, description="blocks of the decoder")
    layer_scale: float = Field(1e-6, ge=0, description="first value, in the decoder; 0 leaves it out")
    prefix_only: bool = Field(False, description="reconstruct the class and register tokens only")


class MaskedEmbedding(PretrainedModel):
    """Images and masks to predictions of what a teacher says of the masked images.

    The encoder sees whole images; masks hide its tokens from the decoder. So each patch token has to hold
    what its own patch adds. What is used is `.encoder`, without head and decoder.

    Example:
        >>> encoder = create_encoder("timm/vit_tiny_patch16_224", image_size=64, depth=2)
        >>> model = MaskedEmbedding.of(encoder)
        >>> model(torch.rand(2, 3, 64, 64), torch.ones(2, 3, 16, dtype=torch.bool)).shape
        torch.Size([6, 17, 192])
    """

    Config = MaskedEmbeddingConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: MaskedEmbeddingConfig) -> None:
        super().__init__()
        self._set_up(config, create_encoder(config.encoder, **config.encoder_settings))

    def _set_up(self, config: MaskedEmbeddingConfig, encoder: Encoder) -> None:
        self.config, self.encoder = config, encoder
        vit, size = vit_of(encoder), config.preprocess.size
        rows, columns = patch_grid(encoder, (size, size))
        self.decoder = decoder_like(
            vit, dim=config.width, image_tokens=rows * columns, depth=config.depth,
            layer_scale=config.layer_scale, prefix_only=config.prefix_only, out_dim=config.target_dim,
        )  # fmt: skip
        width = self.decoder.dim
        last = nn.Linear(vit.embed_dim if config.head == "linear" else 4 * vit.embed_dim, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head: nn.Module = last
        if config.head == "mlp":
            self.head = nn.Sequential(nn.Linear(vit.embed_dim, 4 * vit.embed_dim), nn.GELU(), last)
        preprocess = config.preprocess.for_channels(encoder.in_channels)
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(-1, 1, 1), persistent=False)
        for part in (vit.attn_pool, vit.fc_norm, vit.head):  # pooling takes no part in the tokens
            if part is not None:
                part.requires_grad_(False)

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        *,
        preprocess: EncoderPreprocess | None = None,
        soft_cap: float | None = 30.0,
        **settings: Any,
    ) -> Self:
        """A student that begins as a copy of a pre-trained encoder, its attention capped, its last norm anew.

        Args:
            encoder: a vision transformer `timm/NAME`; it is copied, not changed.
            preprocess: size, mean and std of the images; the encoder's own where None.
            soft_cap: of the logits of attention; None leaves attention as it is.
            **settings: of `MaskedEmbeddingConfig`.

        Raises:
            ValueError: the encoder is no vision transformer.
        """
        vit_of(encoder)
        noted = {name: value for name, value in encoder.settings.items() if name != "soft_cap"}
        noted["in_channels"] = encoder.in_channels
        if soft_cap is not None:
            noted["soft_cap"] = soft_cap
        side = encoder.settings.get("image_size")
        preprocess = preprocess or (encoder.preprocess or EncoderPreprocess()).replace(
            **({"size": side} if isinstance(side, int) else {})
        )
        config = MaskedEmbeddingConfig(
            encoder=encoder.name, encoder_settings=noted, preprocess=preprocess, **settings
        )
        model = cls(config)
        model.encoder.load_state_dict(encoder.state_dict())
        for value, name in ((1.0, "weight"), (0.0, "bias")):
            parameter = getattr(vit_of(model.encoder).norm, name, None)
            if parameter is not None:
                nn.init.constant_(parameter, value)
        return model

    def standardised(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the encoder takes them.

        Raises:
            ValueError: another number of channels.
        """
        channels = self.encoder.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: (B, {channels}, H, W)")
        return (images - self.mean) / self.std

    def embed(self, images: Tensor) -> Tensor:
        """Standardised images to the tokens that are masked, (B, P + n, W)."""
        return self.head(vit_tokens(self.encoder, images))

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] and masks (B, R, n) to predictions (B R, P + n, D).

        Raises:
            ValueError: images or masks do not fit.
        """
        return self.decoder(self.embed(self.standardised(images)), masks)
