"""A small transformer on handwritten digits, pruned to half of its operations in several ways."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foveal.compression.block_pruning import BlockPruning, prune_blocks, prune_uniformly
from foveal.compression.masks import Masks
from foveal.encoders import create_encoder
from foveal.objectives.classification import ClassificationObjective
from foveal.objectives.distillation import DistillationObjective
from foveal.recipes._encoder_learning import LearningData, accuracy, digits, learn, predict
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

SMALL = {
    "in_channels": 1, "image_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4,
}  # fmt: skip
BLOCK = (8, 8)


@dataclass(frozen=True)
class Pruned:
    """Accuracies on test images, of one seed.

    Attributes:
        whole: of the model as it learnt.
        uniform: the same share of every layer, tiles of the largest magnitude.
        found: of LPViT, by the name of its variant, without tuning.
        prunings: of the same.
        tuned: of the first variant after tuning with masks held.
        tuned_uniform: of the uniform one after the same.
        pruned_largest: the largest pruned weight met in tuning.
    """

    whole: float
    uniform: float
    found: dict[str, float]
    prunings: dict[str, BlockPruning]
    tuned: float
    tuned_uniform: float
    pruned_largest: float


VARIANTS: dict[str, dict[str, Any]] = {
    "as by default": {},
    "of the mean gradient, as the original": {"fisher": "mean"},
    "with power": {"power": 1.0},
    "equal slopes": {"search": "slope", "tolerance": 0.05},
    "ranked by magnitude": {"ranking": "magnitude"},
}


def prune_digits(seed: int, *, steps: int, tune: int, target: float = 0.5) -> Pruned:
    """Train, prune by every variant, tune the first."""
    data = digits()
    learned = learn(
        lambda: create_encoder("timm/vit_tiny_patch16_224", **SMALL),
        data,
        steps=steps,
        learning_rate=2e-3,
        seed=seed,
    )
    model, images = learned.model, data.images[:512]
    kept = prune_uniformly(model, images[:1], target, block=BLOCK)
    uniform = masks_of(model, kept)
    prunings, found = {}, {}
    for name, options in VARIANTS.items():
        try:
            prunings[name] = prune_blocks(model, images, target, block=BLOCK, **options)
        except ValueError:  # equal slopes may end elsewhere
            continue
        found[name] = _score(model, prunings[name].masks(model), data)
    tuned, largest = _tuned(model, prunings["as by default"].masks(model), data, tune, seed)
    tuned_uniform, _ = _tuned(model, uniform, data, tune, seed)
    return Pruned(
        whole=accuracy(learned.probabilities, learned.labels),
        uniform=_score(model, uniform, data),
        found=found,
        prunings=prunings,
        tuned=tuned,
        tuned_uniform=tuned_uniform,
        pruned_largest=largest,
    )


def masks_of(model: nn.Module, kept: dict[str, torch.Tensor]) -> Masks:
    """Of tiles that are kept."""
    return BlockPruning(kept, BLOCK, (), 0.0, (0.0, 0.0), 0.0, True).masks(model)


def _score(model: nn.Module, masks: Masks, data: LearningData) -> float:
    pruned = deepcopy(model)
    masks.apply(pruned)
    return accuracy(predict(pruned, data.test_images), data.test_labels.numpy())


def _tuned(model: nn.Module, masks: Masks, data: LearningData, steps: int, seed: int) -> tuple[float, float]:
    """Accuracy after tuning with the whole model as a teacher, and the largest pruned weight on the way."""
    pruned = deepcopy(model).train()
    values, largest = dict(pruned.named_parameters()), 0.0

    def watch(*_: Any) -> None:
        nonlocal largest
        met = (float((values[name].detach() * ~mask).abs().max()) for name, mask in masks.kept.items())
        largest = max(largest, *met)

    objective = DistillationObjective(
        ClassificationObjective(pruned), deepcopy(model), share=0.5, temperature=1.0
    )
    settings = TrainingSettings(
        steps=steps, batch_size=64, learning_rate=5e-4, weight_decay=0.05, warmup_fraction=0.1, seed=seed,
        gradient_clip=1.0, log_every=steps, tensorboard=False,
    )  # fmt: skip
    with without_touching_randomness(), masks.held(pruned):
        handle = pruned.register_forward_pre_hook(watch)
        fit(objective, data, settings, progress=False)
        handle.remove()
    watch()
    return accuracy(predict(pruned.eval(), data.test_images), data.test_labels.numpy()), largest
