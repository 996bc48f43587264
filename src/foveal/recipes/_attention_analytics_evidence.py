"""What proves attention analytics: its parts to the number, planted truths, and small models pruned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import LayerAttention, attention_tapped
from foveal.explanation.attention_profiles import attention_profiles, profiles_of
from foveal.explanation.head_importance import head_importance, head_sensitivity
from foveal.explanation.head_passes import heads_gated
from foveal.machine import seconds_of
from foveal.recipes._attention_analytics_learning import (
    families_are_found,
    pruning,
    report_of_a_trained_model,
)
from foveal.recipes.base import Evidence, Finding, Scale

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
_GRID = (4, 6)


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and known patterns at either scale; trained models and costs in full."""
    yield gates
    yield gradient_of_a_gate
    yield planted_head
    yield rings
    yield profiles_by_loops
    yield what_is_refused
    yield passes_of_both_measures
    if scale == "quick":
        yield partial(families_are_found, range(1), 50)
    else:
        yield partial(families_are_found, range(3), 80)
        yield partial(pruning, range(3))
        yield report_of_a_trained_model
        yield costs


def small_vit(**options: Any) -> nn.Module:
    """Three blocks of three heads over 4 x 4 patches, with weights large enough to tell heads apart."""
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **(chosen | options)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


def pictures(*shape: int) -> Tensor:
    """Six images of noise."""
    return torch.rand(6, 3, *(shape or (32, 32)), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def gates() -> Iterator[Finding]:
    """Gates at 1 change nothing, gates at 0 are columns of zeros in the projection."""
    vit, images = small_vit(), pictures()
    whole = vit(images)
    with heads_gated(vit, torch.ones(3, 3)):
        difference = float((vit(images) - whole).abs().max())
    yield Finding.at_most("all gates at 1: largest difference of the logits", difference, 1e-6)
    worst = 0.0
    for layer, block in enumerate(vit.blocks):  # type: ignore[arg-type]
        for head in range(3):
            table = torch.ones(3, 3)
            table[layer, head] = 0
            with heads_gated(vit, table):
                gated = vit(images)
            weight = block.attn.proj.weight
            kept = weight.clone()
            weight[:, 8 * head : 8 * head + 8] = 0
            worst = max(worst, float((gated - vit(images)).abs().max()))
            weight.copy_(kept)
    yield Finding.at_most("a gate at 0 and the head's columns of the projection at 0", worst, 1e-6)


def gradient_of_a_gate() -> Finding:
    """|d loss / d gate| against central differences of the gate, all heads."""
    vit, images = small_vit().double(), pictures().double()
    found = head_sensitivity(vit, images, LABELS).measures["sensitivity"]
    worst = 0.0
    for layer in range(3):
        for head in range(3):

            def losses(shift: float, layer: int = layer, head: int = head) -> Tensor:
                table = torch.ones(3, 3, dtype=torch.float64)
                table[layer, head] += shift
                with torch.no_grad(), heads_gated(vit, table):
                    return F.cross_entropy(vit(images), LABELS, reduction="none")

            slope = float(((losses(1e-4) - losses(-1e-4)) / 2e-4).abs().mean())
            worst = max(worst, abs(float(found[layer, head]) - slope) / max(slope, 1e-12))
    return Finding.at_most(
        "gradient of the gate and central differences, relative, worst of 9 heads", worst, 1e-3
    )


def planted_head() -> Iterator[Finding]:
    """A ViT in which one head alone has values, and carries the class."""
    vit, planted = small_vit(), (1, 2)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(24, 3, 1, 1, generator=generator) * torch.rand(24, 3, 32, 32, generator=generator)
    with torch.no_grad():
        for layer, block in enumerate(vit.blocks):  # type: ignore[arg-type]
            values = block.attn.qkv.weight.view(3, 3, 8, 24)[2]
            for head in range(3):
                if (layer, head) != planted:
                    values[head] = 0
            block.attn.qkv.bias.zero_()
        vit.blocks[planted[0]].attn.proj.weight.mul_(20)  # type: ignore[index, union-attr]
        labels = vit(images).argmax(dim=1)
    found = head_importance(vit, images, labels, kept_alone=True, layer_shift=True)
    measures = {**found.measures, **head_sensitivity(vit, images, labels).measures}
    alone = measures.pop("kept_alone")[planted[0]]
    place = 3 * planted[0] + planted[1]
    first = [
        name
        for name, table in measures.items()
        if table.argmax() == place and int((table == table.max()).sum()) == 1
    ]
    yield Finding.fact(
        "planted head: alone first by accuracy, loss, probabilities, divergence, embedding, layer's output "
        "and gradient",
        len(first) == len(measures) == 8,
        measured=f"{', '.join(first)}; accuracy lost {float(found.measures['accuracy_drop'][planted]):.2f}",
    )
    yield Finding.fact(
        "planted head: kept alone in its layer it loses least",
        int(alone.argmax()) == planted[1],
        measured=f"loses {abs(float(alone[2])):.3f} of the answer's probability, the others at least "
        f"{-float(alone[:2].max()):.3f}",
    )


def of_one_head(among: Tensor) -> list[LayerAttention]:
    """Attention (n, n) as that of one head in six images."""
    return [LayerAttention("attn", among.expand(6, 1, -1, -1))]


def rings() -> Iterator[Finding]:
    """Profiles of known attention on 4 x 6 patches."""
    images, n = pictures(32, 48), 24
    cells = [(r, c) for r in range(_GRID[0]) for c in range(_GRID[1])]
    even = profiles_of(of_one_head(torch.full((n, n), 1 / n, dtype=torch.float64)), images)
    shares = torch.zeros(6, dtype=torch.float64)
    for r, c in cells:
        for y, x in cells:
            shares[max(abs(r - y), abs(c - x))] += 1 / n / n
    yield Finding.at_most(
        "even attention: strength of a ring and its mean share of the patches",
        float((even.strength[0, 0] - shares).abs().max()), 1e-12,
    )  # fmt: skip
    yield Finding.close("even attention: entropy, nats", float(even.entropy), math.log(n), tolerance=1e-9)
    flat = even.density[0, 0]
    yield Finding.at_most(
        "even attention: density of the rings differs by", float(flat.max() - flat.min()), 1e-12
    )
    itself = profiles_of(of_one_head(torch.eye(n)), images).strength[0, 0]
    yield Finding.close("each patch to itself: strength of ring 0", float(itself[0]), 1.0, tolerance=0)
    right = torch.zeros(n, n)
    for k, (_, c) in enumerate(cells):
        right[k, k + 1 if c < 5 else k] = 1
    moved = profiles_of(of_one_head(right), images)
    yield Finding.close(
        "one patch to the right: strength of ring 1, all but the border", float(moved.strength[0, 0, 1]),
        20 / 24, tolerance=1e-12,
    )  # fmt: skip
    yield Finding.close(
        "one patch to the right: attention at that offset", float(moved.offsets[0, 0, 3, 6]), 1.0,
        tolerance=0,
    )  # fmt: skip


def profiles_by_loops() -> Iterator[Finding]:
    """All profiles against two loops over patches, with a class token, on a grid that is no square."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(6, 2, 25, 25, generator=generator, dtype=torch.float64).mul(3).softmax(dim=-1)
    found = profiles_of([LayerAttention("attn", weights)], pictures(32, 48))
    among = (weights[..., 1:, 1:] / weights[..., 1:, 1:].sum(dim=-1, keepdim=True)).mean(dim=0)
    strength, distance = torch.zeros(2, 6, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for i in range(24):
        for j in range(24):
            down, across = j // 6 - i // 6, j % 6 - i % 6
            strength[:, max(abs(down), abs(across))] += among[:, i, j] / 24
            distance += among[:, i, j] * math.hypot(8 * down, 8 * across) / 24
    yield Finding.at_most(
        "strength of rings and two loops", float((found.strength[0] - strength).abs().max()), 1e-6
    )
    yield Finding.at_most(
        "mean distance and two loops, pixels", float((found.distance[0] - distance).abs().max()), 1e-6
    )
    sums = found.strength.sum(dim=-1)
    yield Finding.at_most("sum of a head's profile less 1", float((sums - 1).abs().max()), 1e-6)


def what_is_refused() -> Iterator[Finding]:
    """Fused attention is read, other grids are taken, other models refused, labels not needed."""
    vit, images = small_vit(), pictures()
    fused = [block.attn.fused_attn for block in vit.blocks]  # type: ignore[union-attr]
    with torch.no_grad(), attention_tapped(vit) as kept:
        vit(images)
    yield Finding.fact(
        "attention of a model with fused attention is read", all(fused) and len(kept) == 3,
        measured=f"{len(kept)} of 3 layers",
    )  # fmt: skip
    wide = small_vit(img_size=(32, 48))
    grid = attention_profiles(wide, pictures(32, 48)).grid
    yield Finding.fact("a grid that is no square", grid == _GRID, measured=f"{grid[0]} x {grid[1]}")
    try:
        head_importance(timm.create_model("resnet10t", num_classes=3).eval(), images)
        told = "nothing"
    except ValueError as error:
        told = str(error)
    yield Finding.fact("a model without attention is refused", "no attention" in told, measured=told)
    names = set(head_importance(vit, images).measures)
    yield Finding.fact(
        "without labels: only measures that need none",
        names == {"probability_drop", "divergence", "embedding_shift"},
        measured=", ".join(sorted(names)),
    )


def passes_of_both_measures() -> Iterator[Finding]:
    """How often blocks run, counted, for 12 layers of 4 heads."""
    vit, images = small_vit(depth=12, num_heads=4), pictures()
    counts = [0] * 12
    for k, block in enumerate(vit.blocks):  # type: ignore[arg-type]
        block.mlp.register_forward_hook(lambda *_, k=k: counts.__setitem__(k, counts[k] + 1))

    def counted(measure: Any, **options: Any) -> int:
        counts[:] = [0] * 12
        measure(vit, images, LABELS, **options)
        return sum(counts)

    first = counted(head_sensitivity) / 12
    yield Finding.at_most(
        "forward passes of the first-order measure, for 48 heads (one of a single image)", first, 3
    )
    ratio = counted(head_importance, cache=False) / counted(head_importance)
    yield Finding.at_least("leave-one-out: blocks run without a cache over those with", ratio, 1.6)


def costs() -> Iterator[Finding]:
    """Wall time in one run, 12 layers of 12 heads over 8 x 8 patches."""
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, img_size=64, patch_size=8, embed_dim=96, depth=12, num_heads=12
    ).eval()
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 5
    taken = seconds_of(
        {
            "all": lambda: head_importance(vit, images, labels, cache=False),
            "cached": lambda: head_importance(vit, images, labels),
            "first": lambda: head_sensitivity(vit, images, labels),
        },
        rounds=3,
    )
    yield Finding.at_least(
        "leave-one-out of 144 heads: time without a cache over that with", taken["all"] / taken["cached"], 1.6
    )
    yield Finding.at_least(
        "leave-one-out of 144 heads, without a cache, over the first-order measure",
        taken["all"] / taken["first"], 20.0,
    )  # fmt: skip
