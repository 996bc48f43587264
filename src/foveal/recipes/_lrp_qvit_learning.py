"""A small transformer trained on digits, and what is left of it in few bits."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

from foveal.compression.layer_relevance import LayerRelevance, Measure, layer_relevance
from foveal.compression.mixed_precision import (
    Utility,
    allocate_bits,
    candidates_of,
    sensitivities,
    unit_contributions,
)
from foveal.compression.quantizing import Bits, Kind, Unit, logits_kl, quantize, uniform_bits, units_of
from foveal.encoders.base import Encoder, create_encoder
from foveal.recipes._encoder_learning import LearningData, PooledHead, accuracy, digits, learn, predict

CALIBRATION, SCORING, STEPS = 32, 256, 300


def small_encoder(*, planted: float = 1.0, depth: int = 4) -> Encoder:
    """A transformer of 48 channels over 4 x 4 patches.

    Args:
        planted: factor of the weights of 3 channels of each LayerNorm in the blocks, before training.
        depth: blocks.
    """
    encoder = create_encoder(
        "timm/vit_tiny_patch16_224", in_channels=1, image_size=32, patch_size=8, embed_dim=48, depth=depth,
        num_heads=3,
    )  # fmt: skip
    blocks: Any = encoder.get_submodule("backbone.blocks")
    with torch.no_grad():
        for block in blocks:
            for norm in (block.norm1, block.norm2):
                norm.weight[torch.randperm(48)[:3]] *= planted
    return encoder


@dataclass
class Experiment:
    """A trained model, and what few bits make of it.

    Attributes:
        model: whole.
        data: digits.
        units: of the model.
    """

    model: PooledHead
    data: LearningData
    units: list[Unit]
    _sensitive: dict[float, dict[str, dict[int, float]]] = field(default_factory=dict)
    _relevance: LayerRelevance | None = None

    @property
    def whole(self) -> float:
        """Accuracy in floats, points."""
        return self.accuracy_of(self.model)

    def accuracy_of(self, model: nn.Module) -> float:
        """Of the test images, points."""
        return 100 * accuracy(predict(model, self.data.test_images), self.data.test_labels.numpy())

    @property
    def relevance(self) -> LayerRelevance:
        """Of the first training images."""
        if self._relevance is None:
            self._relevance = layer_relevance(
                self.model, self.data.images[:SCORING], layers=[n for u in self.units for n in u.layers]
            )
        return self._relevance

    def quantized(self, bits: Mapping[str, Bits], kind: Kind = "clipped", **options: Any) -> nn.Module:
        """The model in few bits."""
        small = deepcopy(self.model)
        quantize(small, self.data.images[:CALIBRATION], self.units, bits, kind=kind, **options)
        return small

    def uniform(self, bits: int, kind: Kind = "clipped") -> float:
        """Accuracy with the same bits for all, points."""
        return self.accuracy_of(self.quantized(uniform_bits(self.units, bits), kind))

    def mixed_bits(
        self, bits: float, utility: Utility, measure: Measure, *, inverse: bool = False
    ) -> dict[str, Bits]:
        """Bits by contributions, or by their inverses."""
        omega = unit_contributions(self.units, self.relevance, measure)
        if inverse:
            turned = {name: 1 / max(value, 1e-9) for name, value in omega.items()}
            total = sum(turned.values())
            omega = {name: value / total for name, value in turned.items()}
        tried = None
        if utility == "joint":
            if bits not in self._sensitive:
                self._sensitive[bits] = sensitivities(
                    self.model, self.data.images[:CALIBRATION], self.units, candidates_of(bits)
                )
            tried = self._sensitive[bits]
        return allocate_bits(self.units, omega, bits, utility=utility, sensitivity=tried)

    def mixed(self, bits: float, utility: Utility, measure: Measure, *, inverse: bool = False) -> float:
        """Accuracy with bits by contributions, points."""
        chosen = self.mixed_bits(bits, utility, measure, inverse=inverse)
        return self.accuracy_of(self.quantized(chosen))

    def divergence(self, bits: Mapping[str, Bits], **options: Any) -> float:
        """Of the test images' probabilities from those of the whole model."""
        return logits_kl(self.model, self.quantized(bits, **options), self.data.test_images)


@cache
def experiment(seed: int, *, planted: float = 1.0, steps: int = STEPS) -> Experiment:
    """A trained transformer, with or without planted channels."""
    data = digits(32)
    model = learn(lambda: small_encoder(planted=planted), data, steps=steps, seed=seed).model
    return Experiment(model, data, units_of(model, data.images))
