"""What reduced tokens cost in accuracy: a small vision transformer that tells objects on a mottled ground."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.changes import change_model
from foveal.blocks.reduced_tokens import reduced_blocks
from foveal.encoders import Encoder, create_encoder
from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.recipes._encoder_learning import Learned, LearningData, accuracy, learn, predict
from foveal.recipes._object_pictures import object_pictures

Choice = Literal["attentive", "random", "inverse"]

CHOICES: tuple[Choice, ...] = ("attentive", "random", "inverse")
STEPS = 800
TUNING = 120
BATCH = 64
RATE = 2e-3
TUNING_RATE = 5e-4


@cache
def pictures() -> LearningData:
    """Objects of four classes, 12 px of 32, on a mottled ground: 3600 to learn from, 1200 to test."""
    return object_pictures(4800, side=32, train=3600, size=12).data


def transformer() -> Encoder:
    """64 patches, 6 blocks, 120 thousand weights."""
    return create_encoder(
        "timm/vit_tiny_patch16_224",
        image_size=32,
        patch_size=4,
        embed_dim=48,
        depth=6,
        num_heads=4,
        mlp_ratio=2.0,
    )


@cache
def dense(seed: int) -> Learned:
    """The whole model, trained from nothing."""
    return learn(transformer, pictures(), steps=STEPS, batch_size=BATCH, learning_rate=RATE, seed=seed)


def reduced(keep_rate: float, *, fuse: bool = True, choice: Choice = "attentive") -> Encoder:
    """A new transformer with reduced tokens, chosen by attention, by lot, or the least attentive."""
    encoder = transformer()
    change_model(encoder, "reduced-tokens", at=[1, 3, 4], keep_rate=keep_rate, fuse=fuse)
    for block in reduced_blocks(encoder):
        selection: Any = block.selection
        if choice == "random":
            selection.rank = torch.rand_like
        elif choice == "inverse":
            selection.rank = torch.neg
    return encoder


@cache
def tuned(
    seed: int, keep_rate: float, *, fuse: bool = True, choice: Choice = "attentive", steps: int = TUNING
) -> float:
    """Accuracy in percent after tuning from the whole model's weights; of 1 the whole model is tuned on."""

    def make() -> nn.Module:
        return transformer() if keep_rate == 1 else reduced(keep_rate, fuse=fuse, choice=choice)

    found = learn(
        make, pictures(), steps=steps, batch_size=BATCH, learning_rate=TUNING_RATE, seed=seed,
        make_objective=_from(dense(seed).model),
    )  # fmt: skip
    return 100 * accuracy(found.probabilities, found.labels)


def untuned(seed: int, keep_rate: float, *, fuse: bool = True, choice: Choice = "attentive") -> float:
    """Accuracy in percent with the whole model's weights as they are."""
    whole = dense(seed)
    model = type(whole.model)(
        reduced(keep_rate, fuse=fuse, choice=choice), 4, mean=whole.model.mean, std=whole.model.std
    )
    model.load_state_dict(whole.model.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probabilities = predict(model.eval(), pictures().test_images)
    return 100 * accuracy(probabilities, whole.labels)


def _from(model: nn.Module) -> Callable[[nn.Module], Objective]:
    weights: dict[str, Tensor] = model.state_dict()

    def objective(new: nn.Module) -> Objective:
        new.load_state_dict(weights)
        return ClassificationObjective(new)

    return objective
