"""An embedder: an encoder with its preprocessing; images in, one vector an image out."""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from foveal.encoders.base import Encoder, create_encoder
from foveal.encoders.preprocessing import EncoderPreprocess
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class EmbedderConfig(Settings):
    """Everything that rebuilds an `Embedder`; `unit` scales the vectors to length 1."""

    encoder: str
    encoder_settings: dict[str, Any] = Field(default_factory=dict)
    preprocess: EncoderPreprocess = EncoderPreprocess()
    unit: bool = False


class Embedder(PretrainedModel):
    """Images (B, C, H, W) in [0, 1] to vectors (B, D).

    Example:
        >>> embedder = Embedder(EmbedderConfig(encoder="conv-pyramid", preprocess={"size": 64}))
        >>> embedder(torch.rand(2, 3, 80, 100)).shape
        torch.Size([2, 112])
    """

    Config = EmbedderConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__()
        self._set_up(config, create_encoder(config.encoder, **config.encoder_settings))

    def _set_up(self, config: EmbedderConfig, encoder: Encoder) -> None:
        self.config, self.encoder = config, encoder
        preprocess = config.preprocess.for_channels(encoder.in_channels)
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(-1, 1, 1), persistent=False)

    @classmethod
    def of(cls, encoder: Encoder, *, preprocess: EncoderPreprocess | None = None, unit: bool = False) -> Self:
        """An embedder around an encoder that is there already, with the preprocessing of its weights.

        Args:
            encoder: taken as it is, not copied.
            preprocess: instead of the encoder's own; 224 px and ImageNet's colours where it has none.
            unit: scale the vectors to length 1.

        Raises:
            ValueError: the encoder is not registered, so that it could not be saved.
        """
        if not encoder.name:
            raise ValueError(f"{type(encoder).__name__} has no registered name; see register_encoder")
        embedder = cls.__new__(cls)
        super(Embedder, embedder).__init__()
        config = EmbedderConfig(
            encoder=encoder.name,
            encoder_settings=encoder.settings,
            preprocess=preprocess or encoder.preprocess or EncoderPreprocess(),
            unit=unit,
        )
        embedder._set_up(config, encoder)
        return embedder

    def forward(self, images: Tensor) -> Tensor:
        """Vectors; images of another size are resized (bicubic, antialiased) to the encoder's side.

        Raises:
            ValueError: another number of channels.
        """
        channels = self.encoder.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(f"images of shape {tuple(images.shape)}; allowed: (B, {channels}, H, W)")
        side = self.config.preprocess.size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
        pooled = self.encoder((images - self.mean) / self.std).pooled
        return F.normalize(pooled, dim=1) if self.config.unit else pooled

    @torch.inference_mode()
    def embed(self, images: Tensor, *, batch: int = 32) -> Tensor:
        """(N, C, H, W) images of any number to (N, D) vectors on the CPU, `batch` at a time.

        Raises:
            ValueError: `batch` is not positive.
        """
        if batch < 1:
            raise ValueError(f"batch {batch}: at least 1 is wanted")
        device = self.mean.device
        return torch.cat([self(part.to(device)).float().cpu() for part in images.split(batch)])
