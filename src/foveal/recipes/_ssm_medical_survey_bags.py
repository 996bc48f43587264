"""The bags of the survey's evidence: their label needs two instances that lie far apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from foveal.blocks.bags import pad_bags
from foveal.models.bags import BagClassifier, BagClassifierConfig
from foveal.objectives.bags import BagObjective
from foveal.recipes.base import Finding
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

FEATURES = 16


@dataclass(frozen=True)
class FarPairs:
    """Bags of noise with marked instances of two kinds; the label is 1 where both kinds are there.

    Half of the bags have one of each, more than `apart` from each other, either first. The others have none,
    one of either kind, or one kind twice, as far apart: so neither an instance nor how many are marked tells
    the label. Bags are drawn anew each time.
    """

    count: int = 512
    apart: int = 200
    longest: int = 300
    strength: float = 6.0

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One bag (L, 16) with its label; L from apart + 20 to longest."""

        def below(high: int) -> int:
            return int(torch.randint(high, (), generator=generator))

        length = self.apart + 20 + below(self.longest - self.apart - 19)
        kind = below(2)
        kinds = [(kind, 1 - kind), (), (kind,), (kind, kind)][0 if below(2) else 1 + below(3)]
        first = below(length - self.apart - 1)
        second = first + self.apart + 1 + below(length - self.apart - 1 - first)
        bag = torch.randn(length, FEATURES, generator=generator)
        for place, mark in zip((first, second), kinds, strict=False):
            bag[place, mark] += self.strength
        return {"bags": bag, "labels": torch.tensor(int(len(set(kinds)) == 2))}


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Bags of any length as one batch."""
    bags, present = pad_bags([sample["bags"] for sample in samples])
    return {"bags": bags, "present": present, "labels": torch.stack([s["labels"] for s in samples])}


def bag_auc(config: BagClassifierConfig, *, steps: int, seed: int, data: FarPairs | None = None) -> float:
    """AUC on 400 bags of a classifier trained on others."""
    data = data or FarPairs()
    settings = TrainingSettings(
        steps=steps, batch_size=16, learning_rate=3e-3, warmup_fraction=0.1, gradient_clip=1.0, seed=seed,
        log_every=steps, tensorboard=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(10_000 + seed)
    test = collate([data.sample(i, generator) for i in range(400)])
    with without_touching_randomness():
        torch.manual_seed(seed)
        model = BagClassifier(config)
        fit(BagObjective(model), data, settings, collate=collate, progress=False)
        model.eval()
        with torch.inference_mode():
            scores = model(test["bags"], test["present"]).softmax(dim=1)[:, 1]
    return float(roc_auc_score(test["labels"].numpy(), scores.numpy()))


def far_pairs(seeds: int, steps: int = 400) -> Iterator[Finding]:
    """AUC where the label needs two instances more than 200 apart: SR-Mamba beside pooling alone."""
    kinds: dict[str, dict[str, Any]] = {
        "SR-Mamba": {"depth": 1},
        "attention pooling": {"depth": 0, "dim": 64},
        "mean pooling": {"depth": 0, "dim": 64, "pooling": "mean"},
        "attention pooling and a hidden layer": {"depth": 0, "dim": 64, "head_hidden": 32},
    }
    common = {
        "inputs": FEATURES,
        "classes": 2,
        "dim": 32,
        "states": 8,
        "attention_hidden": 32,
        "dropout": 0.0,
    }
    auc = {
        name: [bag_auc(BagClassifierConfig(**common | own), steps=steps, seed=seed) for seed in range(seeds)]
        for name, own in kinds.items()
    }
    told = ", ".join(f"{name} {fmean(values):.3f}" for name, values in auc.items())
    for other, margin in (("mean pooling", 0.15), ("attention pooling", 0.05)):
        yield Finding.at_least(
            f"bags whose label needs two instances over 200 apart: AUC of SR-Mamba less that of {other}, "
            f"linear heads as published ({told})",
            [a - b for a, b in zip(auc["SR-Mamba"], auc[other], strict=True)],
            margin,
        )
