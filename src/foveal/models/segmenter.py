"""A segmentation network with its preprocessing: photographs in, per-pixel logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foveal.blocks.batch_norm_folding import fold_batch_norms
from foveal.encoders.base import create_encoder
from foveal.models.decoders import DecoderName, EncoderDecoder
from foveal.models.preprocess import local_contrast
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class Preprocess(Settings):
    """How a photograph reaches the network.

    The field of view is resampled to `working_diameter` pixels across, whatever the camera's
    resolution; then either local contrast (`contrast_sigma` > 0) or (x - mean) / std is taken.
    """

    working_diameter: int = Field(768, ge=32)
    wide_field: float = Field(
        1.0, gt=0, description="times that diameter for landmarks in a wide field, which narrow vessels tell"
    )
    contrast_sigma: float = Field(32.0, ge=0, description="pixels at the working diameter; 0 = off")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


class SegmenterConfig(Settings):
    """Everything that rebuilds a `Segmenter`.

    `network` "unet" or "unet++" puts that decoder over `encoder`; any other name is one of
    `foveal.models.networks.list_networks()` (such as "vm-unet") or a class of `monai.networks.nets` (such as
    "AttentionUnet"), made with `network_settings`.
    """

    network: str = "unet"
    encoder: str = "conv-pyramid"
    encoder_settings: dict[str, Any] = Field(default_factory=dict)
    network_settings: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] = ("vessel",)
    activation: Literal["tanh", "sigmoid"] = "tanh"
    preprocess: Preprocess = Preprocess()
    thresholds: dict[str, float] = Field(
        default_factory=dict, description="probability from which a class is called; 0.5 where none is given"
    )

    def threshold(self, name: str) -> float:
        """Probability from which a class is called."""
        return self.thresholds.get(name, 0.5)


def build_network(config: SegmenterConfig) -> nn.Module:
    """The bare network of a configuration: (B, C, H, W) to logits (B, classes, H, W).

    Raises:
        ValueError: MONAI has no network of that name.
    """
    outputs = len(config.classes)
    if config.network in ("unet", "unet++"):
        name: DecoderName = "unet" if config.network == "unet" else "unet++"
        encoder = create_encoder(config.encoder, **config.encoder_settings)
        return EncoderDecoder(encoder, decoder=name, outputs=outputs, **config.network_settings)
    from foveal.models.networks import create_network, list_networks

    if config.network in list_networks():
        return create_network(config.network, outputs=outputs, **config.network_settings)
    from monai.networks import nets

    if not hasattr(nets, config.network):
        raise ValueError(
            f"unknown network {config.network!r}; allowed: unet, unet++, {', '.join(list_networks())} "
            "or a class of monai.networks.nets"
        )
    return getattr(nets, config.network)(**config.network_settings)


class Segmenter(PretrainedModel):
    """Photographs (B, 3, H, W) in [0, 1], 0 outside the field of view, to logits (B, classes, H, W)."""

    Config = SegmenterConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self._merged = False
        self.network = build_network(config)
        self.register_buffer("mean", torch.tensor(config.preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.preprocess.std).view(-1, 1, 1), persistent=False)

    @property
    def preprocess(self) -> Preprocess:
        """How photographs are prepared."""
        return self.config.preprocess

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of photographs that are at the working resolution already."""
        return self.network(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """What the bare network sees of (B, 3, H, W) photographs at the working resolution."""
        if self.preprocess.contrast_sigma > 0:
            return local_contrast(images, sigma=self.preprocess.contrast_sigma)
        return (images - self.mean) / self.std

    def merge_batch_norms(self) -> Segmenter:
        """Fold batch normalisations into the convolutions beside them; in place, for inference alone.

        Returns:
            The segmenter itself; its outputs change by rounding alone. It can no longer be saved.

        Raises:
            ValueError: it is in training mode.
        """
        fold_batch_norms(self)
        self._merged = True
        return self

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> Path:
        """See `PretrainedModel.save_pretrained`.

        Raises:
            ValueError: batch normalisations are merged; the weights are not those that `config` describes.
        """
        if self._merged:
            raise ValueError("batch normalisations of this segmenter are merged; save it before merging them")
        return super().save_pretrained(folder, card=card)

    def signed(self, logits: Tensor) -> Tensor:
        """Logits to signed maps in [-1, 1]: tanh(z), or 2 sigmoid(z) - 1 of models trained on hard labels."""
        return torch.tanh(logits if self.config.activation == "tanh" else logits / 2)
