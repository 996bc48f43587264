"""What proves locality alignment: its parts to the number, and a tiny transformer aligned to its patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.stats import chisquare
from timm.layers.attention import Attention
from torch import Tensor

from foveal.blocks.masked_decoder import MaskedDecoder
from foveal.blocks.patch_masks import MaskSettings, draw_masks, masked_images
from foveal.blocks.soft_cap import SoftCappedAttention
from foveal.encoders import Encoder, create_encoder
from foveal.encoders.vit_tokens import vit_of, vit_tokens
from foveal.machine import seconds_of
from foveal.models.masked_embedding import MaskedEmbedding
from foveal.objectives.locality_alignment import LocalityAlignment
from foveal.recipes import _locality_alignment_learning as small
from foveal.recipes.base import Evidence, Finding, Scale

WITHOUT_PREFIX = {"class_token": False, "global_pool": "map"}  # SigLIP's
WITH_REGISTERS = {"reg_tokens": 4}  # DINOv2's
KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "no prefix token": WITHOUT_PREFIX,
    "registers": WITH_REGISTERS,
}


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; learning and costs in full."""
    yield samplers
    yield attention
    yield the_teacher
    yield the_decoder
    yield the_beginning
    if scale == "full":
        seeds = range(3)
        yield partial(patches_tell_more, seeds)
        yield partial(places_are_kept_apart, seeds)
        yield partial(ablations, seeds)
        yield costs


def samplers() -> Iterator[Finding]:
    """Masks of 20 000 images."""
    masks = draw_masks(MaskSettings(), 20_000, (4, 4), generator=torch.Generator().manual_seed(0))
    counts = np.bincount(masks[:, 0].sum(1).numpy(), minlength=17)
    yield Finding.at_least(
        "patches kept are uniform on 0 to 16: p of chi-square", float(chisquare(counts).pvalue), 0.01
    )
    yield Finding.fact(
        "a mask and its complement sum to 1 everywhere", bool((masks[:, 0] ^ masks[:, 1]).all())
    )
    yield Finding.fact("every third mask is all ones", bool(masks[:, 2].all()))
    blocks = MaskSettings(kind="blockwise", keep_ratio=0.4)
    masks = draw_masks(blocks, 100, (14, 14), generator=torch.Generator().manual_seed(0))
    yield Finding.close(
        "share kept by block-wise masks with keep_ratio 0.4", float(masks[:, 0].float().mean()), 0.4,
        tolerance=0.5 / 196,
    )  # fmt: skip


@torch.no_grad()
def attention() -> Iterator[Finding]:
    """The cap of attention's logits."""
    torch.manual_seed(0)
    plain = Attention(64, num_heads=4, qkv_bias=True).eval()
    tokens = torch.randn(8, 50, 64)
    without = SoftCappedAttention(plain, cap=math.inf)
    difference = (without(tokens) - plain(tokens)).abs().max()
    yield Finding.at_most("infinite cap: difference to timm's attention", float(difference), 1e-6)
    factor = (2.999 / without.logits(tokens)[0].abs().max()).sqrt()
    plain.qkv.weight.mul_(factor)
    plain.qkv.bias.mul_(factor)
    capped = SoftCappedAttention(plain)
    wanted = plain(tokens)
    worst = 3 - 30 * math.tanh(0.1)
    yield Finding.at_most(
        f"logits below 3: relative difference to timm's attention (of a single logit at 3: {worst:.4f})",
        float((capped(tokens) - wanted).norm() / wanted.norm()), 1e-3,
    )  # fmt: skip
    plain.qkv.weight.mul_(1000)
    yield Finding.at_most("huge weights: largest logit", float(capped.logits(tokens)[0].abs().max()), 30.0)


def _encoder(**options: Any) -> Encoder:
    torch.manual_seed(0)
    chosen = {"image_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 4}
    return create_encoder("timm/vit_tiny_patch16_224", **{**chosen, **options}).eval()


def _pictures(count: int = 32) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def the_teacher() -> Iterator[Finding]:
    """Tokens behind the penultimate block, of masked images."""
    images, differences, influence = _pictures(4), [], []
    for options in KINDS.values():
        encoder = _encoder(**options)
        vit = vit_of(encoder)
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        wanted = vit.norm(vit.blocks[:-1](x))
        whole = masked_images(images, torch.ones(4, 1, 16, dtype=torch.bool), 8)
        differences.append(float((vit_tokens(encoder, whole, skip_blocks=1) - wanted).abs().max()))
        masks = torch.ones(4, 1, 16, dtype=torch.bool)
        masks[..., 6] = False
        other = images.clone()
        other[..., 8:16, 16:24] += 3
        pair = [vit_tokens(encoder, masked_images(each, masks, 8), skip_blocks=1) for each in (images, other)]
        influence.append(float((pair[0] - pair[1]).abs().max()))
    kinds = ", ".join(KINDS)
    yield Finding.at_most(
        f"all kept: difference to the norm of all blocks but the last ({kinds})", max(differences), 1e-6
    )
    yield Finding.at_most(f"influence of the pixels of a masked patch ({kinds})", max(influence), 0.0)


@torch.no_grad()
def the_decoder() -> Iterator[Finding]:
    """What the decoder is not told."""
    torch.manual_seed(0)
    decoder = MaskedDecoder(48, 48, patches=16, prefix_tokens=5, num_heads=4, layer_scale=1.0).eval()
    torch.nn.init.normal_(decoder.project.weight)
    tokens, masks = torch.randn(1, 21, 48), torch.zeros(1, 1, 16, dtype=torch.bool)
    masks[..., ::3] = True
    before = decoder(tokens, masks)

    def change(place: int) -> float:
        other = tokens.clone()
        other[:, place] += torch.randn(48, generator=torch.Generator().manual_seed(place))
        return float((decoder(other, masks) - before).abs().max())

    hidden = [5 + k for k in range(16) if k % 3]
    yield Finding.at_most("influence of prefix tokens", max(map(change, range(5))), 0.0)
    yield Finding.at_most("influence of tokens of masked patches", max(map(change, hidden)), 0.0)
    yield Finding.at_least(
        "influence of tokens of kept patches", min(change(5 + k) for k in range(0, 16, 3)), 1e-3
    )


@torch.no_grad()
def the_beginning() -> Iterator[Finding]:
    """The loss before the first step."""
    images = _pictures()
    for told, options in KINDS.items():
        encoder = _encoder(**options)
        objective = LocalityAlignment(MaskedEmbedding.of(encoder), encoder)
        objective.calibrate([images])
        masks = objective.draw(images, torch.Generator().manual_seed(0))
        loss = float(objective({"images": images, "keep": masks})["loss"])
        yield Finding.close(f"first loss, where a constant gets 1 ({told})", loss, 1.0, tolerance=0.1)
        first, other = (objective.predicted(each, masks)[0] for each in (images, images.flip(0)))
        yield Finding.fact(
            f"first predictions do not depend on the image ({told})", torch.equal(first, other)
        )


def patches_tell_more(seeds: Sequence[int]) -> Iterator[Finding]:
    """A tiny transformer that learnt one label an image, aligned in 200 steps of 32 pictures."""
    images = [small.pretrained(seed).accuracy for seed in seeds]
    untouched = [small.recall(small.pretrained(seed).encoder, seed) for seed in seeds]
    aligned = [small.recall(small.aligned(seed).student.encoder, seed) for seed in seeds]
    masked = [small.recall(small.precursor(seed).encoder, seed) for seed in seeds]
    told = (
        f"untouched {fmean(untouched):.1f}, aligned {fmean(aligned):.1f}, masked image modelling "
        f"{fmean(masked):.1f}; accuracy of the image's label before {100 * fmean(images):.0f}"
    )
    yield Finding.at_most(
        "reconstruction error after alignment, where a constant gets 1",
        [small.aligned(seed).errors["mse"] for seed in seeds], 0.6,
    )  # fmt: skip
    yield Finding.at_least(
        f"macro-recall of patches, transformer probe, points over the untouched backbone ({told})",
        [a - b for a, b in zip(aligned, untouched, strict=True)], 3.0,
    )  # fmt: skip
    yield Finding.at_least(
        "macro-recall of patches, points over masked image modelling of as many steps",
        [a - b for a, b in zip(aligned, masked, strict=True)], 0.0,
    )  # fmt: skip
    both = [
        [small.recall(encoder, seed, skip_blocks=1) for encoder in (small.aligned(seed).student.encoder,
         small.pretrained(seed).encoder)]
        for seed in seeds
    ]  # fmt: skip
    yield Finding.at_least(
        "the same of tokens of the penultimate layer, over the untouched backbone's",
        [a - b for a, b in both], 3.0,
    )  # fmt: skip
    yield Finding.at_least(
        "error of masked images less that of whole ones",
        [small.aligned(seed).errors["parts"] - small.aligned(seed).errors["whole"] for seed in seeds], 0.0,
    )  # fmt: skip


def places_are_kept_apart(seeds: Sequence[int]) -> Iterator[Finding]:
    """One object patch becomes ground: how much its token changes, beside the others."""
    backbones = [small.pretrained(seed) for seed in seeds]
    before = [small.locality_index(each.encoder, each.test, each.preprocess) for each in backbones]
    after = [
        small.locality_index(small.aligned(seed).student.encoder, each.test, each.preprocess)
        for seed, each in zip(seeds, backbones, strict=True)
    ]
    yield Finding.at_least(
        f"change of a patch's own token over that of the others, aligned over untouched "
        f"({fmean(after):.1f} over {fmean(before):.1f})",
        [a / b for a, b in zip(after, before, strict=True)], 1.5,
    )  # fmt: skip


def ablations(seeds: Sequence[int]) -> Iterator[Finding]:
    """Other masks, and only the class token as a target: points of macro-recall that are lost."""
    full = [small.recall(small.aligned(seed).student.encoder, seed) for seed in seeds]
    bernoulli = [
        small.recall(small.aligned(seed, masks=small.BERNOULLI).student.encoder, seed) for seed in seeds
    ]
    prefix = [small.recall(small.aligned(seed, prefix_only=True).student.encoder, seed) for seed in seeds]
    yield Finding.at_least(
        f"uniform and antithetic masks over as many Bernoulli(0.5) masks ({fmean(bernoulli):.1f})",
        [a - b for a, b in zip(full, bernoulli, strict=True)], 0.0,
    )  # fmt: skip
    yield Finding.at_least(
        f"all tokens reconstructed over the class token alone ({fmean(prefix):.1f})",
        [a - b for a, b in zip(full, prefix, strict=True)], 0.0,
    )  # fmt: skip


def costs() -> Iterator[Finding]:
    """A step of alignment beside a plain one of the student, and the aligned encoder beside the original."""
    chosen = {"image_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 6}
    encoder = _encoder(**chosen)
    images = torch.rand(16, 3, 64, 64)
    objective = LocalityAlignment(MaskedEmbedding.of(encoder), encoder).train()
    seen = {"teacher": 0, "student": 0}

    def count(name: str) -> object:
        def hook(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
            seen[name] += len(inputs[0])

        return hook

    handles = [
        vit_of(each).patch_embed.register_forward_hook(count(name))  # type: ignore[arg-type]
        for name, each in (("teacher", objective.teacher), ("student", objective.student.encoder))
    ]
    objective({"images": images})["loss"].backward()
    for handle in handles:
        handle.remove()
    yield Finding.fact(
        "a step of 16 images: 16 pass the student, 48 the teacher", seen == {"teacher": 48, "student": 16},
        measured=str(seen),
    )  # fmt: skip

    def plain() -> None:
        vit_tokens(objective.student.encoder, images).square().mean().backward()

    taken = seconds_of(
        {"plain": plain, "aligned": lambda: objective({"images": images})["loss"].backward()}, rounds=7
    )
    yield Finding.at_most(
        "time of a step over a plain step of the student", taken["aligned"] / taken["plain"], 3.5
    )
    chosen = {"image_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 4, "num_heads": 6}
    encoder, images = _encoder(**chosen), torch.rand(2, 3, 224, 224)
    aligned = MaskedEmbedding.of(encoder).encoder.eval()
    parameters = [sum(p.numel() for p in each.parameters()) for each in (aligned, encoder)]
    yield Finding.fact(
        "the aligned encoder has as many weights as the original", parameters[0] == parameters[1]
    )
    with torch.inference_mode():
        taken = seconds_of({"before": lambda: encoder(images), "after": lambda: aligned(images)}, rounds=15)
    yield Finding.at_most(
        "time of the aligned encoder (width of ViT-S, 224 px), attention not fused, over the original's",
        taken["after"] / taken["before"], 1.3,
    )  # fmt: skip
