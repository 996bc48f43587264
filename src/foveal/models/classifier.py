"""A classifier: an encoder, a linear head on its pooled vector, and its preprocessing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foveal.encoders.base import create_encoder
from foveal.encoders.checkpoints import LoadedCheckpoint, load_official
from foveal.models.pretrained import PretrainedModel
from foveal.settings import Settings


class ClassifierConfig(Settings):
    """Everything that rebuilds a `Classifier`.

    `size` is the side in pixels of the square image it takes; `ordinal` says that the classes are
    grades in rising order. `activation` is "softmax" where an image is of one class, "sigmoid" where it may
    have any number of them.
    """

    encoder: str
    encoder_settings: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] = Field(min_length=2)
    size: int = Field(512, ge=16)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    ordinal: bool = False
    activation: Literal["softmax", "sigmoid"] = "softmax"
    temperature: float = Field(1.0, gt=0)


class Classifier(PretrainedModel):
    """Images (B, C, size, size) in [0, 1] to logits (B, classes)."""

    Config = ClassifierConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = create_encoder(config.encoder, **config.encoder_settings)
        self.head = nn.Linear(self.encoder.dim, len(config.classes))
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)

    def load_official(
        self,
        checkpoint: str | Path | Mapping[str, Any],
        *,
        layout: str | None = None,
        skip: Sequence[str] = (),
    ) -> LoadedCheckpoint:
        """Load an official checkpoint; see `foveal.encoders.checkpoints.load_official`.

        The head is taken too where it has as many classes as this one; else it stays as it is.
        """
        loaded = load_official(self.encoder, checkpoint, layout=layout, skip=skip)
        if loaded.head is not None and loaded.head["weight"].shape == self.head.weight.shape:
            bias = loaded.head.get("bias", torch.zeros_like(self.head.bias))
            self.head.load_state_dict({"weight": loaded.head["weight"], "bias": bias})
        return loaded

    def forward(self, images: Tensor, channels: Tensor | None = None) -> Tensor:
        """Logits before temperature scaling.

        Args:
            images: (B, C, size, size) in [0, 1].
            channels: (B, C) indices of the channels, -1 for those that an image lacks; only of encoders that
                take them ("channelvit", "masked-channels"). None for images that have all.
        """
        images = (images - self.mean) / self.std
        features = self.encoder(images) if channels is None else self.encoder(images, channels)
        return self.head(features.pooled)

    @property
    def takes_channels(self) -> bool:
        """Whether its encoder is told which channels an image has."""
        return "channels" in inspect.signature(self.encoder.forward).parameters

    @torch.inference_mode()
    def predict_proba(self, images: Tensor, channels: Tensor | None = None) -> Tensor:
        """Probabilities (B, classes) of the logits over the temperature; softmax makes rows that sum to 1.

        `images` and `channels` are those of `forward`.
        """
        logits = (self(images) if channels is None else self(images, channels)) / self.config.temperature
        return logits.sigmoid() if self.config.activation == "sigmoid" else logits.softmax(dim=-1)


def predictive_entropy(probabilities: Tensor) -> Tensor:
    """-sum p log p over the last axis, divided by log of the number of classes: (B,) in [0, 1]."""
    entropy = torch.special.entr(probabilities).sum(dim=-1)
    return entropy / torch.log(torch.tensor(float(probabilities.shape[-1])))
