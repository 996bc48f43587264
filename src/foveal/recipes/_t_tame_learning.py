"""Heads of T-TAME on a small CNN and a small ViT that tell objects, beside Grad-CAM and random maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.explanation.cam import unit_range
from foveal.explanation.faithfulness import KEPT_SHARES, confidence_change
from foveal.explanation.localisation import mass_in_mask, pointing_game
from foveal.explanation.methods import ask, explain
from foveal.explanation.removal_curves import road
from foveal.explanation.ttame import MirroredImages, TTame
from foveal.markdown import table
from foveal.recipes._object_pictures import (
    ObjectPictures,
    object_pictures,
    small_convolutions,
    small_transformer,
    trained_on_objects,
)
from foveal.recipes.base import Finding, Section
from foveal.recipes.t_tame import TTameSettings, recipe

EPOCHS = 8
BATCH = 32
IMPUTED = 100  # pictures of ROAD


@dataclass(frozen=True)
class Kind:
    """A network that is to be explained.

    Attributes:
        encoder: makes it.
        layers: that the head looks at, the finest or first one first.
        deepest: the one of the ablation.
        steps: of its own training.
        learning_rate: its peak.
        cam: layer of Grad-CAM; None for the last one of maps.
    """

    encoder: Callable[[], nn.Module]
    layers: tuple[str, ...]
    deepest: str
    steps: int
    learning_rate: float
    cam: str | None = None


_BLOCKS = "encoder.backbone.blocks"
KINDS = {
    "CNN": Kind(
        small_convolutions, tuple(f"encoder.stages.{k}" for k in range(3)), "encoder.stages.2", 250, 3e-3
    ),
    "ViT": Kind(
        small_transformer,
        tuple(f"{_BLOCKS}.{k}.norm2" for k in (1, 2, 3)),
        f"{_BLOCKS}.3.norm2",
        700,
        2e-3,
        cam=f"{_BLOCKS}.3.norm1",
    ),
}


def pictures() -> ObjectPictures:
    """Objects of 12 px on 32: 2000 pictures to learn from, 400 to be explained."""
    return object_pictures(2400, side=32, train=2000, size=12)


def trained_head(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, seed: int, steps: int, **head: Any
) -> TTame:
    """A head trained with the paper's losses; the learning rate is of so few steps."""
    training = {
        "steps": steps, "batch_size": BATCH, "optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4,
        "warmup_fraction": 0.1, "seed": seed, "tensorboard": False, "log_every": steps,
    }  # fmt: skip
    settings = TTameSettings(layers=tuple(layers), training=training, **head)
    return recipe.build(settings)(model, images[:8], MirroredImages(images))


@dataclass(frozen=True)
class Judge:
    """What maps of the test pictures are worth, in percent.

    Attributes:
        model: that is explained.
        images: of the test, (M, 3, S, S).
        masks: of their objects.
        classes: that the model says.
    """

    model: Any
    images: Tensor
    masks: Tensor
    classes: Tensor

    def __call__(self, maps: Tensor) -> dict[str, float]:
        """AD and IC by share kept, accuracy under ROAD, pointing, mass in the box."""
        asked = ask(self.model, self.images, self.classes)
        ground = self.model.mean.expand_as(self.images)  # masked as in training
        change = confidence_change(asked, unit_range(maps), baseline=ground)
        found = {
            f"{name}{100 * share:.0f}": 100 * float(values[:, at].mean())
            for name, values in (("AD", change.drop), ("IC", change.increase))
            for at, share in enumerate(KEPT_SHARES)
        }
        some = ask(self.model, self.images[:IMPUTED], self.classes[:IMPUTED])
        found["ROAD"] = 100 * float(road(some, maps[:IMPUTED]).mean.mean())
        found["pointing"] = 100 * float(pointing_game(maps, self.masks).mean())
        found["mass"] = 100 * float(mass_in_mask(maps, self.masks).nanmean())
        return found


def maps_of_objects(
    network: Literal["CNN", "ViT"], seeds: Sequence[int], *, epochs: float = EPOCHS, steps: int | None = None
) -> Iterator[Finding | Section]:
    """Heads of several seeds on one network, on pictures of one object each, whose box is known.

    Args:
        network: of `KINDS`.
        seeds: of heads.
        epochs: that a head is trained.
        steps: of the network's own training.
    """
    kind, made = KINDS[network], pictures()
    learned = trained_on_objects(
        0, pictures=made, encoder=kind.encoder, steps=steps or kind.steps, learning_rate=kind.learning_rate
    )
    model, data = learned.model, made.data
    right = float((torch.from_numpy(learned.probabilities).argmax(1) == data.test_labels).float().mean())
    images = data.test_images
    with torch.no_grad():
        classes = model(images).argmax(1)
    judge = Judge(model, images, made.masks, classes)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    updates = round(epochs * len(data) / BATCH)

    def judged(name: str, explained: TTame) -> Tensor:
        maps = explain(model, images, classes, method="t-tame", trained=explained)
        rows[name].append(judge(maps))
        return mass_in_mask(maps, made.masks)

    gains = []
    for seed in seeds:
        after = judged("T-TAME", trained_head(model, data.images, kind.layers, seed=seed, steps=updates))
        before = judged("untrained head", TTame.untrained(model, images[:8], kind.layers, seed=seed).eval())
        gains.append(float((after / before).nanmean()))
        single = trained_head(model, data.images, [kind.deepest], seed=seed, steps=updates)
        judged("T-TAME, one layer", single)
    if network == "ViT":
        dropped = trained_head(
            model, data.images, kind.layers, seed=seeds[0], steps=updates, class_token="drop"
        )
        judged("T-TAME, class token dropped (one seed)", dropped)
    cam = explain(model, images, classes, method="grad-cam", **({"layer": kind.cam} if kind.cam else {}))
    rows["Grad-CAM"].append(judge(cam))
    rows["random"].append(judge(torch.rand(made.masks.shape, generator=torch.Generator().manual_seed(0))))
    yield from _claims(network, rows, gains)
    yield _told(network, rows, right)


def _claims(
    network: str, rows: dict[str, list[dict[str, float]]], gains: Sequence[float]
) -> Iterator[Finding]:
    ours, single = rows["T-TAME"], rows["T-TAME, one layer"]
    cam, random = rows["Grad-CAM"][0], rows["random"][0]
    drops = fmean(row["AD50"] for row in ours)
    told = (
        f"T-TAME {drops:.1f}, Grad-CAM {cam['AD50']:.1f}, random {random['AD50']:.1f}, "
        f"one layer {fmean(row['AD50'] for row in single):.1f}"
    )
    yield Finding.at_least(
        f"{network}: average drop at 50 %, points less than random maps' ({told})",
        [random["AD50"] - row["AD50"] for row in ours], 15.0,
    )  # fmt: skip
    points = fmean(row["pointing"] for row in ours) / 100
    yield Finding.fact(
        f"{network}: three points less than Grad-CAM's, or the largest value on the object in 0.85 of the "
        "pictures",
        cam["AD50"] - drops >= 3 or points >= 0.85,
        measured=f"{cam['AD50'] - drops:.1f} points less; {points:.2f} of the pictures",
    )
    yield Finding.at_least(
        f"{network}: share of the map within the box, over that of the untrained head", gains, 1.5
    )
    yield Finding.at_least(
        f"{network}: average drop of one layer less that of three",
        [other["AD50"] - row["AD50"] for row, other in zip(ours, single, strict=True)], 0.0,
    )  # fmt: skip
    yield Finding.at_least(
        f"{network}: ROAD, most relevant first, points of accuracy less than random maps' "
        f"(T-TAME {fmean(row['ROAD'] for row in ours):.1f}, Grad-CAM {cam['ROAD']:.1f}, "
        f"random {random['ROAD']:.1f})",
        [random["ROAD"] - row["ROAD"] for row in ours], 0.0,
    )  # fmt: skip


def _told(network: str, rows: dict[str, list[dict[str, float]]], right: float) -> Section:
    names = list(rows["random"][0])
    lines = [
        [name, *(f"{fmean(row[key] for row in found):.1f}" for key in names)] for name, found in rows.items()
    ]
    body = (
        f"The {network} is right on {100 * right:.1f} % of 400 pictures. Mean of the seeds, in percent: "
        "average drop (AD, less is better) and increase in confidence (IC, more is better) with 100, 50 and "
        f"15 % of the pixels, accuracy under ROAD with the most relevant removed first (less is better; "
        f"{IMPUTED} pictures, mean over the paper's shares), pictures with the largest value on the object, "
        "and share of the map in the box.\n\n"
    )
    return Section(f"Maps of the {network} by the paper's measures", body + table(["maps", *names], lines))
