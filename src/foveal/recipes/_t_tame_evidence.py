"""What proves T-TAME: its parts to the number, and maps of trained heads beside other explainers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from foveal.explanation.faithfulness import confidence_change
from foveal.explanation.methods import ask, explain
from foveal.explanation.ttame import MirroredImages, TTame, TTameObjective
from foveal.machine import seconds_of
from foveal.recipes.base import Evidence, Finding, Scale
from foveal.recipes.t_tame import TTameSettings, recipe


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; trained heads and costs in full."""
    yield shapes
    yield losses_are_their_formula
    yield class_tokens
    yield whole_maps_change_nothing
    yield the_model_stays
    if scale == "full":
        from foveal.recipes._t_tame_learning import maps_of_objects

        for network in ("CNN", "ViT"):
            yield partial(maps_of_objects, network, range(3))
        yield costs


def small_network(classes: int = 4) -> nn.Sequential:
    """Two stages with normalisation and dropout, in evaluation mode."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout(0.5))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes))
    return nn.Sequential(first, second, head).eval()


def small_vit(**options: Any) -> nn.Module:
    """Two blocks over 4 x 4 patches."""
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=3, **chosen, **options).eval()


def shapes() -> Iterator[Finding]:
    """Of maps from layers of convolutional networks and of transformers."""
    images = torch.rand(2, 3, 56, 56)
    found = TTame.untrained(small_network(), images, ["0", "1"])(images).shape
    yield Finding.fact(
        "two stages: maps on the first one's grid", found == (2, 4, 28, 28), measured=str(tuple(found))
    )
    images = torch.rand(2, 3, 32, 32)
    found = TTame.untrained(small_vit(), images, ["blocks.1.norm2"])(images).shape
    yield Finding.fact(
        "tokens: maps on the grid of patches", found == (2, 3, 4, 4), measured=str(tuple(found))
    )


def losses_are_their_formula() -> Iterator[Finding]:
    """Of a map that is 1/2 everywhere, 14 x 14."""
    images = torch.rand(1, 3, 28, 28)
    explained = TTame.untrained(small_network(), images, ["0"]).eval()
    nn.init.zeros_(explained.head.fuse.weight)  # type: ignore[arg-type]
    nn.init.zeros_(explained.head.fuse.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        losses = TTameObjective(explained)({"images": images})
    yield Finding.close("2 times the area term", 2 * float(losses["area"]), 2 * 0.5005**0.3, tolerance=1e-6)
    wanted = 0.01 * 0.3 * 4 * 14 * 0.25 / 2
    yield Finding.close("0.01 times the variation", 0.01 * float(losses["variation"]), wanted, tolerance=1e-6)


def class_tokens() -> Iterator[Finding]:
    """Both ways with the class token."""
    images, vit = torch.rand(2, 3, 32, 32), small_vit()
    tokens = torch.randn(2, 17, 16)
    multiplied = TTame.untrained(vit, images, ["blocks.1.norm2"])._maps(tokens, images)
    wanted = torch.einsum("bnd,bd->bdn", tokens[:, 1:], tokens[:, 0]).view_as(multiplied)
    yield Finding.at_most(
        "class token multiplied in: difference to an einsum", float((multiplied - wanted).abs().max()), 1e-6
    )
    dropped = TTame.untrained(vit, images, ["blocks.1.norm2"], class_token="drop")
    other = torch.cat([tokens[:, :1] + 1, tokens[:, 1:]], dim=1)
    same = torch.equal(dropped._maps(tokens, images), dropped._maps(other, images))
    yield Finding.fact("class token dropped: a changed one changes nothing", same)


def whole_maps_change_nothing() -> Iterator[Finding]:
    """A map of ones: the masked image is the image, no drop, no increase."""
    images, model = torch.rand(4, 3, 28, 28), small_network()
    objective = TTameObjective(TTame.untrained(model, images, ["0"]))
    with torch.no_grad():
        masked = model(objective.masked(images, torch.ones(4, 14, 14)))
        yield Finding.at_most(
            "masked by ones: difference of the logits", float((masked - model(images)).abs().max()), 1e-6
        )
    change = confidence_change(ask(model, images), torch.ones(4, 28, 28), keep=(1.0,))
    yield Finding.at_most("average drop at 100 % then", float(change.drop.max()), 0.0)
    yield Finding.at_most("increase in confidence then", float(change.increase.max()), 0.0)


def the_model_stays() -> Finding:
    """Training changes no weight and no running statistic of the model."""
    model, images = small_network(), torch.rand(8, 3, 28, 28)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = {"steps": 3, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.01, "tensorboard": False}
    recipe.build(TTameSettings(layers=("0", "1"), training=training))(model, images, MirroredImages(images))
    same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return Finding.fact("after training the model's weights and statistics are the same to the bit", same)


def costs() -> Iterator[Finding]:
    """One map of a small ViT at 224 px, beside its forward pass and RISE of 500 masks."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224", num_classes=5).eval()
    image = torch.rand(1, 3, 224, 224)
    explained = TTame.untrained(vit, image, [f"blocks.{k}.norm2" for k in (9, 10, 11)]).eval()
    weights = torch.eye(5)[:1]
    with torch.inference_mode():
        taken = seconds_of(
            {"forward": lambda: vit(image), "map": lambda: explained.explain(image, weights)}, rounds=7
        )
    yield Finding.at_most(
        "time of a map over a forward pass, ViT-S at 224 px", taken["map"] / taken["forward"], 1.3
    )
    rise = seconds_of({"rise": lambda: explain(vit, image, 0, method="rise", masks=32)}, rounds=1)["rise"]
    yield Finding.at_least("RISE of 500 masks (32 timed) over a map", rise * 500 / 32 / taken["map"], 50.0)
