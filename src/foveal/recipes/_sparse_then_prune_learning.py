"""Sparse then Prune in small: one tiny vision transformer, tuned with and without penalties, then pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial

from torch import nn

from foveal.compression.magnitude_pruning import Criterion
from foveal.compression.pruning_sweep import TENTHS, SweepRow, pruning_sweep
from foveal.encoders import create_encoder
from foveal.objectives.attention_sparsity import AttentionSparsityObjective
from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.objectives.weight_sparsity import WeightSparsityObjective
from foveal.recipes._encoder_learning import Learned, accuracy, digits, learn, predict

SIDE, STEPS, TUNED = 16, 300, 100
PLAIN, PUBLISHED = "plain", "last block, 0.01"
STRENGTHS = {"all blocks, 0.01": 0.01, "all blocks, 1": 1.0, "all blocks, 10": 10.0}
SHARPENED, SCORES, WEIGHTS = "all blocks, 10, other sign", "scores of all blocks, 0.1", "|w|, 10"


def small_vit(**changes: int) -> nn.Module:
    """4 blocks of 4 heads over 4 x 4 patches of 4 px."""
    settings = {"image_size": SIDE, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4, **changes}
    return create_encoder("timm/vit_tiny_patch16_224", in_channels=1, **settings)


@cache
def pretrained(seed: int) -> Learned:
    """Trained on digits without any penalty."""
    return learn(small_vit, digits(SIDE), steps=STEPS, learning_rate=3e-3, seed=seed)


def _penalised(**options: object) -> Callable[[nn.Module], Objective]:
    def make(model: nn.Module) -> Objective:
        return AttentionSparsityObjective(ClassificationObjective(model), **options)  # type: ignore[arg-type]

    return make


def _weights(model: nn.Module) -> Objective:
    return WeightSparsityObjective(ClassificationObjective(model), weight=10.0)


TRAININGS: dict[str, Callable[[nn.Module], Objective]] = {
    PLAIN: ClassificationObjective,
    PUBLISHED: _penalised(weight=0.01, layers="last"),
    **{name: _penalised(weight=weight, layers="mean") for name, weight in STRENGTHS.items()},
    SHARPENED: _penalised(weight=10.0, layers="mean", sign=-1),
    SCORES: _penalised(weight=0.1, layers="mean", target="logits"),
    WEIGHTS: _weights,
}


@cache
def tuned(name: str, seed: int) -> nn.Module:
    """The pre-trained encoder with a new head, tuned; all trainings have the same steps, order and head."""
    encoder = pretrained(seed).model.encoder
    return learn(
        lambda: deepcopy(encoder),
        digits(SIDE),
        steps=TUNED,
        learning_rate=1e-3,
        seed=seed,
        make_objective=TRAININGS[name],
    ).model


def score(model: nn.Module) -> float:
    """Accuracy on the test digits."""
    data = digits(SIDE)
    return accuracy(predict(model, data.test_images), data.test_labels.numpy())


@cache
def sweep(
    names: Sequence[str],
    seeds: Sequence[int],
    criteria: Sequence[Criterion] = ("magnitude",),
    amounts: Sequence[float] = TENTHS,
    *,
    include_norm: bool = True,
) -> list[SweepRow]:
    """Of some of `TRAININGS`."""
    data = digits(SIDE)
    return pruning_sweep(
        {name: partial(tuned, name) for name in names},
        score,
        data.test_images[:128],
        amounts=amounts,
        seeds=seeds,
        criteria=criteria,
        samples=data,
        include_norm=include_norm,
    )
