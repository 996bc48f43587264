"""What proves EViT: exact facts of its tokens, what they cost in accuracy, and the time that they save."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any

import timm
import torch
from torch import Tensor, nn

from foveal.blocks.changes import change_model
from foveal.blocks.reduced_tokens import keeping, kept_patches, stages_tapped
from foveal.blocks.token_selection import TokenSelection, keep_count, keep_rate_at
from foveal.compression.costs import macs_of
from foveal.machine import seconds_of
from foveal.recipes import _evit_learning as small
from foveal.recipes._encoder_learning import accuracy
from foveal.recipes.base import Evidence, Finding, Scale

DEIT_S = "deit_small_patch16_224"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token": ("vit_small_patch16_224", {}),
    "distilled": ("deit_small_distilled_patch16_224", {}),
    "registers": ("vit_small_patch16_224", {"reg_tokens": 4}),
    "no class token": ("vit_small_patch16_224", {"class_token": False, "global_pool": "map"}),
}
PUBLISHED = {0.9: 4.0, 0.8: 3.5, 0.7: 3.0, 0.6: 2.6, 0.5: 2.3}
"""GMACs of DeiT-S by keep rate."""


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts and counted operations at either scale; learning, ONNX and times in full."""
    yield the_whole_model
    yield counts
    yield the_partition
    yield the_fused_token
    yield the_choice
    yield the_order_of_patches
    yield the_warm_up
    yield gradients
    yield operations
    if scale == "full":
        yield onnx
        yield partial(accuracies, range(3))
        yield times


def _model(kind: str = "class token", **options: Any) -> nn.Module:
    name, extra = KINDS[kind]
    torch.manual_seed(0)
    model = timm.create_model(
        name, img_size=40, patch_size=8, embed_dim=48, depth=4, num_heads=4, num_classes=5, **extra, **options
    )
    nn.init.normal_(model.get_submodule("head").weight)  # type: ignore[arg-type]
    return model.eval()


def _reduced(model: nn.Module, keep_rate: float = 0.5, **options: Any) -> nn.Module:
    model = copy.deepcopy(model)
    change_model(model, "reduced-tokens", at=[1, 2, 3], keep_rate=keep_rate, **options)
    return model


def _images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def the_whole_model() -> Iterator[Finding]:
    """Keep rate 1 beside timm's model."""
    differences, same = [], True
    for kind in KINDS:
        whole = _model(kind)
        model = _reduced(whole, 1.0)
        differences.append(float((model(_images()) - whole(_images())).abs().max()))
        same = same and list(model.state_dict()) == list(whole.state_dict())
    kinds = ", ".join(KINDS)
    yield Finding.at_most(f"keep rate 1: difference of logits to timm's ({kinds})", max(differences), 1e-5)
    yield Finding.fact("names of weights are timm's, none is new", same)


@torch.no_grad()
def counts() -> Iterator[Finding]:
    """Tokens of DeiT-S, and of a model with an odd number of patches."""
    lengths = [197]
    for _ in range(3):
        lengths.append(keep_count(0.7, lengths[-1] - 1) + 2)
    yield Finding.fact(
        "DeiT-S at 0.7: tokens with class and fused ones", lengths == [197, 140, 100, 72],
        expected="197, 140, 100, 72", measured=", ".join(map(str, lengths)),
    )  # fmt: skip
    right = True
    for fuse in (True, False):
        for rate in (0.9, 0.8, 0.7, 0.6, 0.5):
            stages, _ = kept_patches(_reduced(_model(), rate, fuse=fuse), _images())
            expected, tokens = [], 25
            for _ in range(3):
                kept = math.ceil(round(rate * tokens, 6))
                expected.append((tokens, kept))
                tokens = kept + fuse
            found = [(s.kept.shape[1] + s.dropped.shape[1], s.kept.shape[1]) for s in stages]
            right = right and found == expected
    yield Finding.fact(
        "25 patches, five keep rates, with fusion and without: the ceiling at every stage", right
    )


@torch.no_grad()
def the_partition() -> Iterator[Finding]:
    """Which patches are in which token, by sets."""
    model, right, complement = _reduced(_model(), 0.6), True, True
    with stages_tapped(model) as stages:
        model(_images(16))
    for image in range(16):
        members = [{patch} for patch in range(25)]
        for stage in stages:
            kept, rest = stage.kept[image].tolist(), stage.dropped[image].tolist()
            complement = complement and set(rest) == set(range(len(members))) - set(kept)
            members = [members[token] for token in kept] + [set().union(*(members[token] for token in rest))]
        right = right and sorted(patch for token in members for patch in token) == list(range(25))
    yield Finding.fact("dropped tokens are the set difference of all and the kept", complement)
    yield Finding.fact("after three stages each patch is in exactly one token (16 images)", right)


@torch.no_grad()
def the_fused_token() -> Iterator[Finding]:
    """Its sum, from the definition."""
    draw = torch.Generator().manual_seed(0)
    tokens, scores = torch.randn(8, 50, 48, generator=draw), torch.rand(8, 49, generator=draw) / 49
    selection = TokenSelection(keep_rate=0.7, prefix=1)
    out, _, dropped = selection(tokens, scores)
    wanted = torch.stack(
        [
            sum((scores[image, j] * tokens[image, 1 + j] for j in dropped[image].tolist()), torch.zeros(48))
            for image in range(8)
        ]
    )
    yield Finding.at_most(
        "fused token: difference to sum a_j x_j", float((out[:, -1] - wanted).abs().max()), 1e-6
    )
    out, _, _ = selection(tokens, scores.scatter(1, dropped, 0.0))
    yield Finding.at_most(
        "fused token where no attention went: largest size", float(out[:, -1].abs().max()), 0.0
    )


@torch.no_grad()
def the_choice() -> Iterator[Finding]:
    """A patch whose key is along the class token's query."""
    found = 0
    for seed in range(20):
        model = _reduced(_model(), 0.1)
        block = model.get_submodule("blocks.1")
        draw = torch.Generator().manual_seed(seed)
        tokens, place = torch.randn(1, 26, 48, generator=draw), seed % 25
        tokens[:, 1 + place] = 4 * tokens[:, 0]
        block.norm1 = nn.Identity()
        weight: Any = block.get_submodule("attn.qkv").weight
        weight[:96] = torch.cat([torch.eye(48)] * 2)
        with stages_tapped(model) as stages:
            block(tokens)
        found += place in stages[0].kept[0].tolist()
    yield Finding.fact(
        "a planted patch whose key is along the class token's query is kept, at keep rate 0.1", found == 20,
        expected="20 of 20", measured=f"{found} of 20",
    )  # fmt: skip


@torch.no_grad()
def the_order_of_patches() -> Iterator[Finding]:
    """Patches and their positions, moved together."""
    model, images = _reduced(_model()), _images()
    before = model(images)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    cells = images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)[:, :, order].unflatten(2, (5, 5))
    moved = cells.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    positions: Any = model.pos_embed
    positions[:, 1:] = positions[:, 1:][:, order]
    yield Finding.at_most(
        "patches moved with their positions: change of logits",
        float((model(moved) - before).abs().max()),
        1e-5,
    )


def the_warm_up() -> Iterator[Finding]:
    """The keep rate of a training."""
    rates = [keep_rate_at(step, base=0.7, start=10, steps=100) for step in range(150)]
    falls = rates == sorted(rates, reverse=True)
    yield Finding.fact(
        "the keep rate is 1 before its fall, never rises, and is the base's afterwards",
        falls and set(rates[:10]) == {1.0} and set(rates[110:]) == {0.7},
    )
    yield Finding.close("in the middle of the fall, base 0.7", rates[60], 0.85, tolerance=1e-9)


def gradients() -> Iterator[Finding]:
    """What tokens learn from, and a training in mixed precision."""
    selection = TokenSelection(keep_rate=0.5)
    tokens, scores = torch.randn(1, 9, 4, requires_grad=True), torch.rand(1, 8)
    out, kept, dropped = selection(tokens, scores)
    reached = []
    for part, indices in ((out[:, 1:-1], kept), (out[:, -1], dropped)):
        (gradient,) = torch.autograd.grad(part.sum(), tokens, retain_graph=True)
        places = set(gradient[0].abs().sum(1).nonzero()[:, 0].tolist())
        reached.append(places == {1 + j for j in indices[0].tolist()} and not indices.requires_grad)
    yield Finding.fact(
        "gradients reach kept tokens and those in the fused one; indices have none", all(reached)
    )
    model, labels = _reduced(_model(drop_path_rate=0.1)).train(), torch.arange(4)
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(15):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(_images()), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    finite = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    yield Finding.fact(
        "15 steps in bfloat16 autocast: finite, and the loss falls", finite,
        measured=f"{losses[0]:.3f} to {losses[-1]:.3f}",
    )  # fmt: skip


def operations() -> Iterator[Finding]:
    """Multiplications and additions of DeiT-S, counted."""
    with torch.device("meta"):
        whole, larger = (timm.create_model(DEIT_S, img_size=side).eval() for side in (224, 304))
        images = {side: torch.zeros(1, 3, side, side) for side in (224, 304)}
    dense = macs_of(whole, images[224])
    change_model(whole, "reduced-tokens", at=[3, 6, 9])
    change_model(larger, "reduced-tokens", at=[3, 6, 9])
    shares = {}
    for rate in PUBLISHED:
        with keeping(whole, rate):
            shares[rate] = macs_of(whole, images[224]) / dense
    told = ", ".join(f"{rate:g}: {share * dense / 1e9:.2f}" for rate, share in shares.items())
    yield Finding.at_most(
        f"GMACs of DeiT-S beside the published ones, largest difference ({told})",
        max(abs(share * dense / 1e9 - PUBLISHED[rate]) for rate, share in shares.items()), 0.05,
    )  # fmt: skip
    yield Finding.close("keep rate 0.7: share of DeiT-S's operations", shares[0.7], 0.655, tolerance=0.025)
    yield Finding.close("keep rate 0.5: share of DeiT-S's operations", shares[0.5], 0.5, tolerance=0.02)
    with keeping(larger, 0.5):
        yield Finding.at_most(
            "304 px at keep rate 0.5: operations over those of DeiT-S at 224 px",
            macs_of(larger, images[304]) / dense, 1.0,
        )  # fmt: skip


def onnx() -> Iterator[Finding]:
    """ONNX Runtime beside torch, for another number of images than it was written with."""
    from foveal.compression.onnx_models import OnnxClassifier, export_onnx
    from foveal.models.classifier import Classifier, ClassifierConfig

    settings = {"image_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 4}
    config = ClassifierConfig(
        encoder="timm/vit_tiny_patch16_224", encoder_settings=settings, classes=("a", "b", "c"), size=32
    )
    torch.manual_seed(0)
    model = Classifier(config).eval()
    change_model(model.encoder, "reduced-tokens", at=[1, 2, 3], keep_rate=0.5)
    images = torch.rand(5, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        export_onnx(model, folder, images[:2])
        apart = float((OnnxClassifier(folder)(images) - model(images)).abs().max())
    yield Finding.at_most(
        "ONNX Runtime: largest difference of a logit, written with 2 images, run with 5", apart, 1e-4
    )


def accuracies(seeds: Sequence[int]) -> Iterator[Finding]:
    """A small transformer that tells objects on a mottled ground; points of accuracy."""
    whole = [small.tuned(seed, 1.0) for seed in seeds]
    before = [100 * accuracy(d.probabilities, d.labels) for d in map(small.dense, seeds)]
    told = f"whole model {fmean(before):.1f}, trained on for as many steps {fmean(whole):.1f}"
    for rate, most in ((0.7, 1.0), (0.5, 3.0)):
        raw = fmean(a - small.untuned(seed, rate) for seed, a in zip(seeds, before, strict=True))
        yield Finding.at_most(
            f"tuned, keep rate {rate}: points lost to the whole model tuned alike ({told}; without tuning "
            f"{raw:.1f} are lost)",
            [a - small.tuned(seed, rate) for seed, a in zip(seeds, whole, strict=True)], most,
        )  # fmt: skip
    for name, score in (("tuned", small.tuned), ("without tuning", small.untuned)):
        found = {choice: [score(seed, 0.5, choice=choice) for seed in seeds] for choice in small.CHOICES}
        means = ", ".join(f"{choice} {fmean(values):.1f}" for choice, values in found.items())
        random = _less(found["attentive"], found["random"])
        yield Finding.at_least(f"{name}, keep rate 0.5: attentive over random ({means})", random, 3.0)
        yield Finding.at_least(
            f"{name}, keep rate 0.5: attentive over inverse, more than over random",
            _less(_less(found["attentive"], found["inverse"]), random), 0.0,
        )  # fmt: skip


def times() -> Iterator[Finding]:
    """DeiT-S at 224 px, 8 images, two threads, both with torch's fused attention."""
    with _threads(2), torch.inference_mode():
        whole, images = timm.create_model(DEIT_S).eval(), torch.rand(8, 3, 224, 224)
        models = {"whole": whole}
        for rate in (1.0, 0.7, 0.5):
            models[f"{rate:g}"] = model = copy.deepcopy(whole)
            change_model(model, "reduced-tokens", at=[3, 6, 9], keep_rate=rate)
        many = seconds_of({name: partial(model, images) for name, model in models.items()}, rounds=9)
        one = seconds_of({name: partial(model, images[:1]) for name, model in models.items()}, rounds=15)
    for name, least in (("0.7", 1.3), ("0.5", 1.6)):
        told = f"one image: {one['whole'] / one[name]:.2f}"
        yield Finding.at_least(
            f"DeiT-S at keep rate {name}: times as fast, 8 images ({told})", many["whole"] / many[name], least
        )
    yield Finding.at_most("keep rate 1: time over the whole model's", many["1"] / many["whole"], 1.05)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _less(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]
