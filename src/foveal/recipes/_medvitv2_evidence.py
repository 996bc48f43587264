"""What proves the MedViTV2 recipe: neighbourhoods, bases, folding, counts, the report, and cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.hybrid import GlobalPerception, PooledAttention
from foveal.blocks.kan import KANLayer
from foveal.blocks.local_feed_forward import LocalFeedForward
from foveal.blocks.neighbourhood_attention import NeighbourhoodAttention2d, neighbourhood_attention_2d
from foveal.blocks.neighbourhood_tiles import neighbours
from foveal.encoders.base import create_encoder
from foveal.evaluation.robustness import robustness_report
from foveal.recipes.base import Evidence, Finding, Scale
from foveal.scans.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from foveal.scans.synthetic import synthesize_eye

SMALL: dict[str, Any] = {
    "dims": (16, 32, 32, 48),
    "depths": (1, 2, 3, 1),
    "head_dim": 8,
    "stem": (8, 8, 16),
    "drop_path": 0.0,
}
"""A MedViTV2 of 0.2 M parameters, for one processor."""
_COUNTS = {"tiny": (10.35, 11.34), "small": (26.83, 29.58), "base": (60.09, 66.23), "large": (106.4, 117.3)}


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; cost and learning in full."""
    full = scale == "full"
    yield partial(attention_is_its_definition, (7, 8, 14, 15) if full else (7, 14))
    yield neighbourhoods
    yield bases
    yield layer_is_its_sum
    yield folding
    yield parameters
    yield constant_answers
    yield strengths_rise
    if full:
        from foveal.recipes import _medvitv2_learning as learning

        yield fits_a_sine
        yield growth_of_time
        yield pooled_time
        yield partial(learning.feed_forwards_and_mixers, learning.digits_at_32, "digits, 32 px")
        yield partial(learning.feed_forwards_and_mixers, learning.oct_like_bands, "OCT-like bands, 64 px")
        yield learning.beside_resnet
        yield learning.augmix_under_corruptions


def _by_loops(q: Tensor, k: Tensor, v: Tensor, kernel: int, dilation: int, bias: Tensor) -> Tensor:
    """Neighbourhood attention of single images, one query after the other, from the definition."""

    def window(length: int, position: int) -> list[tuple[int, int]]:
        group, rank = position % dilation, position // dilation
        start = min(max(rank - kernel // 2, 0), len(range(group, length, dilation)) - kernel)
        return [(group + dilation * (start + t), start + t - rank + kernel - 1) for t in range(kernel)]

    out = torch.zeros_like(q)
    height, width, dim = q.shape[1:]
    for i, j in itertools.product(range(height), range(width)):
        seen = list(itertools.product(window(height, i), window(width, j)))
        keys, values = (torch.stack([x[:, a, b] for (a, _), (b, _) in seen], 1) for x in (k, v))
        added = torch.stack([bias[:, a, b] for (_, a), (_, b) in seen], 1)
        weights = ((q[:, i, j, None] * keys).sum(-1) * dim**-0.5 + added).softmax(-1)
        out[:, i, j] = (weights[..., None] * values).sum(1)
    return out


def attention_is_its_definition(lengths: tuple[int, ...]) -> Finding:
    """Neighbourhood attention equals a loop over the definition."""
    worst, cases = 0.0, 0
    for height, width, kernel, dilation in itertools.product(lengths, lengths, (3, 5, 7), (1, 2, 3)):
        if min(height, width) < kernel * dilation:
            continue
        q, k, v = torch.randn(3, 2, height, width, 4, dtype=torch.float64)
        bias = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1, dtype=torch.float64)
        made = neighbourhood_attention_2d(q[None], k[None], v[None], kernel, dilation, bias)[0]
        worst = max(worst, float((made - _by_loops(q, k, v, kernel, dilation, bias)).abs().max()))
        cases += 1
    claim = f"neighbourhood attention minus a loop over its definition, largest of {cases} grids, kernels, "
    return Finding.at_most(claim + "dilations with bias", worst, 1e-6)


def neighbourhoods() -> Iterator[Finding]:
    """Neighbourhoods have k distinct keys, are everything where k = n, and move with the image."""
    cases = [c for c in itertools.product(range(3, 40), (3, 5, 7), (1, 2, 3)) if c[0] >= c[1] * c[2]]
    distinct = all(len(set(row)) == case[1] for case in cases for row in neighbours(*case)[0])
    yield Finding.fact(f"each query of {len(cases)} axes sees exactly k distinct keys", distinct)

    q, k, v = torch.randn(3, 1, 2, 7, 7, 4, dtype=torch.float64)
    bias = torch.randn(2, 13, 13, dtype=torch.float64)
    apart = torch.arange(7)[None] - torch.arange(7)[:, None] + 6
    table = bias[:, apart[:, None, :, None], apart[None, :, None, :]].reshape(1, 2, 49, 49)
    q1, k1, v1 = (x.flatten(2, 3) for x in (q, k, v))
    whole = F.scaled_dot_product_attention(q1, k1, v1, attn_mask=table)
    near = neighbourhood_attention_2d(q, k, v, 7, 1, bias).flatten(2, 3)
    difference = float((near - whole).abs().max())
    yield Finding.at_most("k = n minus full attention with relative bias", difference, 1e-6)

    q, k, v = torch.randn(3, 1, 2, 20, 20, 4, dtype=torch.float64)
    still = neighbourhood_attention_2d(q, k, v, 5, 2)
    q1, k1, v1 = (x.roll((1, 2), (2, 3)) for x in (q, k, v))
    moved = neighbourhood_attention_2d(q1, k1, v1, 5, 2)
    apart_inside = (moved.roll((-1, -2), (2, 3)) - still)[:, :, 6:14, 6:14].abs().max()
    yield Finding.at_most("moved image minus moved output, away from the borders", float(apart_inside), 1e-6)


def bases() -> Iterator[Finding]:
    """Switches lie in (0, 1], with 1 at their centre and 1/2 where they should."""
    layer = KANLayer(1, 1).double()
    values = layer.basis_values(torch.linspace(-2.5, 2.5, 1001, dtype=torch.float64)[:, None])
    yield Finding.fact("basis values lie in (0, 1]", bool((values > 0).all() and (values <= 1).all()))
    centres = layer.centres[:, None]
    top = layer.basis_values(centres)[:, 0].diagonal()
    yield Finding.at_most("|b(c) - 1|", float((top - 1).abs().max()), 1e-12)
    half = layer.basis_values(centres + 0.33 * math.atanh(math.sqrt(0.5)))[:, 0].diagonal()
    yield Finding.at_most("|b(c + 0.33 atanh sqrt 0.5) - 0.5|", float((half - 0.5).abs().max()), 1e-12)


def layer_is_its_sum() -> Finding:
    """A KAN layer equals its explicit double sum."""
    layer = KANLayer(5, 3).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    u = F.layer_norm(x, (5,))
    wanted = torch.zeros(4, 3, dtype=torch.float64)
    for feature, function in itertools.product(range(5), range(8)):
        value = 1 - torch.tanh((u[:, feature] - (-2 + 4 * function / 7)) / 0.33) ** 2
        wanted += value[:, None] * layer.spline.weight[:, feature * 8 + function]
    difference = float((layer(x) - wanted).detach().abs().max())
    return Finding.at_most("KAN layer minus its double sum", difference, 1e-6)


def fits_a_sine() -> Iterator[Finding]:
    """The least squared error that one layer can reach on sin(pi u), u in [-1, 1]."""
    u = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None]
    wanted = torch.sin(torch.pi * u)

    def least(values: Tensor) -> float:
        return float((values @ torch.linalg.lstsq(values, wanted).solution - wanted).square().mean())

    settings: dict[str, dict[str, Any]] = {
        "eight switches, the defaults": {},
        "twelve switches": {"grid": 12},
        "eight B-splines": {"basis": "bspline"},
    }
    for name, changes in settings.items():
        layer = KANLayer(1, 1, layer_norm=False, **changes).double()
        error = least(layer.basis_values(u).flatten(1))
        yield Finding.at_most(f"least mean squared error on sin(pi u) of one KAN layer: {name}", error, 1e-3)
    yield Finding.at_least("the same of a linear layer", least(torch.cat([u, torch.ones_like(u)], 1)), 0.1)


def folding() -> Finding:
    """Folded batch normalisations leave the tiny model's outputs as they were."""
    encoder = create_encoder("medvit-v2", size="tiny")
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for _ in range(20):  # statistics of its own
            encoder.train()(images)
        before = encoder.eval()(images).pooled
        after = encoder.merge_batch_norms()(images).pooled  # type: ignore[operator]
    claim = f"folded minus plain, outputs up to {float(before.abs().max()):.2g}"
    return Finding.at_most(claim, float((after - before).abs().max()), 1e-4)


def parameters() -> Iterator[Finding]:
    """Parameter counts are the paper's, with and without the branch that is never used."""
    for size, (plain, released) in _COUNTS.items():
        with torch.device("meta"):
            encoder = create_encoder("medvit-v2", size=size)
            wide = [m.norm2.num_features for m in encoder.modules() if isinstance(m, GlobalPerception)]
            unused = sum(p.numel() for w in wide for p in LocalFeedForward(w, expand=2).parameters())
        count = sum(p.numel() for p in encoder.parameters()) + 9 * (encoder.dim + 1)
        yield Finding.close(f"M parameters at 9 classes, {size}", count / 1e6, plain, tolerance=plain * 5e-4)
        count += unused
        claim = f"the same with the unused branch, {size}"
        yield Finding.close(claim, count / 1e6, released, tolerance=released * 5e-4)


def constant_answers() -> Iterator[Finding]:
    """The robustness report equals a hand computation, and a constant answer does not fall."""
    labels = torch.tensor([0, 1] * 6)
    images = 0.3 + 0.3 * labels[:, None, None, None] + 0.1 * torch.rand(12, 3, 16, 16)
    batches = [{"images": images, "labels": labels}]

    def bright(x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], dim=1)

    def constant(x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    names = ["brightness_up", "contrast_down", "gaussian_noise"]
    report = robustness_report(constant, batches, names, reference=bright)
    yield Finding.close("fall of a constant answer", report.drop, 0, tolerance=0)
    relative = float(report.table["relative_error"]["brightness_up"])
    yield Finding.close("its error relative to a classifier by brightness", relative, 0, tolerance=0)
    assert report.reference is not None
    worst = 0.0
    for name, severity in itertools.product(names, SEVERITIES):
        pixels = (images * 255 + 0.5).to(torch.uint8).movedim(1, 3).numpy()
        answer = np.array([corrupt(p, name, severity, seed=i).mean() > 127.5 for i, p in enumerate(pixels)])
        missed = [np.mean(answer[labels == c] != c) for c in (0, 1)]
        worst = max(worst, abs(float(np.mean(missed)) - report.reference.errors[name][severity - 1]))
    yield Finding.at_most("balanced errors of the report minus those by hand", worst, 1e-12)


def strengths_rise() -> Finding:
    """Each severity of each corruption is farther from the clean image than the one before."""
    image = synthesize_eye(0, size=128).image[24:104, 24:104]
    falls = []
    for name in CORRUPTIONS:
        apart = [0.0]
        for severity in SEVERITIES:
            changed = corrupt(image, name, severity, seed=0).astype(float)
            apart.append(float(np.sqrt(np.mean((changed - image) ** 2))))
        # A frame may begin outside the image.
        falls += [name] if np.diff(apart).min() < 0 or apart[-1] <= 0 else []
    return Finding.fact(
        f"{len(CORRUPTIONS)} corruptions rise in distance from the clean image over five severities",
        not falls,
        measured=", ".join(falls) or "all",
    )


def growth_of_time() -> Iterator[Finding]:
    """Time of neighbourhood attention grows as the tokens, that of full attention as their square."""
    from foveal.machine import seconds_of

    block = NeighbourhoodAttention2d(64).eval()
    maps = {side: torch.randn(1, side, side, 64) for side in (56, 112)}
    tokens = {side: torch.randn(1, 2, side * side, 32) for side in (56, 112)}
    with torch.inference_mode():
        near = seconds_of({str(side): partial(block, x) for side, x in maps.items()})
        whole = seconds_of(
            {str(s): partial(F.scaled_dot_product_attention, x, x, x) for s, x in tokens.items()}, rounds=3
        )
    ratio = near["112"] / near["56"]
    yield Finding.at_most("time of a block at 112 x 112 over 56 x 56, neighbourhoods", ratio, 4.6)
    yield Finding.at_least("the same, full attention", whole["112"] / whole["56"], 9.0)


def pooled_time() -> Finding:
    """Attention to pooled tokens is cheaper than to all."""
    from foveal.machine import seconds_of

    x = torch.randn(1, 56 * 56, 64)
    with torch.inference_mode():
        times = seconds_of({str(r): partial(PooledAttention(64, ratio=r).eval(), x) for r in (1, 8)})
    ratio = times["8"] / times["1"]
    return Finding.at_most("time of pooled attention at 56 x 56, ratio 8 over ratio 1", ratio, 0.3)
