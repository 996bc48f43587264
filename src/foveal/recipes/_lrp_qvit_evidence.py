"""What proves LRP-QViT: grids, scaled norms, relevance to the number; a trained transformer in few bits."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from statistics import fmean
from typing import Any

import timm
import torch
from torch import Tensor, nn

from foveal.blocks.quantized_linear import QuantizedLayer
from foveal.blocks.quantized_numbers import log_sqrt2, pack, uniform, unpack
from foveal.compression.calibration import channel_grids, common_grid, norm_readers, reparameterise
from foveal.compression.layer_relevance import Measure, layer_relevance, rank_agreement
from foveal.compression.mixed_precision import Utility, allocate_bits
from foveal.compression.quantizers import MIN_MAX, UniformQuantizer
from foveal.compression.quantizing import Unit, quantize, uniform_bits, units_of
from foveal.machine import seconds_of
from foveal.markdown import table
from foveal.recipes._lrp_qvit_learning import experiment
from foveal.recipes.base import Evidence, Finding, Scale, Section

SEEDS, PLANTED = (0, 1, 2), 8.0
WAYS: dict[str, tuple[Utility, Measure]] = {
    "linear utility, sums of sizes (paper)": ("linear", "size"),
    "concave utility, shares": ("concave", "share"),
    "joint utility, shares": ("joint", "share"),
}


OURS = "concave utility, shares"  # of `foveal compress`


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; trained transformers and costs in full."""
    yield grids
    yield packing
    yield scaled_norms
    yield relevance_is_kept
    yield allocation
    if scale == "full":
        yield partial(few_bits, SEEDS)
        yield partial(outlier_channels, SEEDS)
        yield stability
        yield costs


def small(name: str = "vit_tiny_patch16_224", **options: Any) -> nn.Module:
    """An untrained transformer with norms that are not plain."""
    torch.manual_seed(0)
    chosen = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2} | options
    model = timm.create_model(name, num_classes=5, **chosen).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def small_swin() -> nn.Module:
    """Two stages of windows, every second one shifted."""
    return small(
        "swin_tiny_patch4_window7_224", img_size=64, patch_size=4, window_size=4, embed_dim=16, depth=None,
        depths=(2, 2), num_heads=(2, 4),
    )  # fmt: skip


def grids() -> Iterator[Finding]:
    """Of uniform numbers and of powers of the square root of 2."""
    x = torch.randn(20000)
    worst, still = 0.0, True
    for bits in (3, 4, 6, 8):
        grid = UniformQuantizer(bits, percentiles=MIN_MAX).calibrate(x)
        y = grid(x)
        worst = max(worst, float((x - y).abs().max() / grid.scale))
        still &= torch.equal(grid(y), y) and float(grid(torch.zeros(()))) == 0
    yield Finding.at_most("largest error, steps", worst, 0.5 * (1 + 1e-4))
    yield Finding.fact("numbers on the grid, and 0, stay as they are", still)
    yield Finding.at_most(
        "squared error of 8 bits over a twelfth of a squared step",
        12 * float((x - y).square().mean() / grid.scale.square()), 1.2,
    )  # fmt: skip
    q = torch.arange(16)
    levels = 0.7 * torch.exp2(-q / 2.0)
    apart = (log_sqrt2(levels, torch.tensor(0.7), 4) - levels).abs().max()
    yield Finding.at_most("levels of log-sqrt2: difference to s 2^(-q/2)", float(apart), 1e-6)
    below = torch.tensor([0.0, 0.7 * 2 ** (-15.6 / 2)])
    yield Finding.at_most(
        "what is below the last level becomes", float(log_sqrt2(below, torch.tensor(0.7), 4).max()), 0.0
    )
    yield Finding.fact("32 bits change nothing", uniform(x, grid.scale, grid.zero_point, 32) is x)
    made = UniformQuantizer(4).calibrate(torch.full((64,), 3.0))
    yield Finding.close("a batch of 3s, 4 bits, becomes", float(made(torch.tensor(3.0))), 3.0, tolerance=1e-5)


def packing() -> Iterator[Finding]:
    """Codes of 2 to 8 bits as bytes, and a saved model of 4 bits."""
    exact = True
    for bits in range(2, 9):
        codes = torch.randint(0, 2**bits, (1001,))
        exact &= torch.equal(unpack(pack(codes, bits), bits, 1001).long(), codes)
    yield Finding.fact("packed codes come back", exact)
    model, images = small(embed_dim=192, depth=1, num_heads=3), torch.rand(8, 3, 32, 32)
    units = units_of(model, images)
    quantize(model, images, units, uniform_bits(units, 4))
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer) and m.weight_bits == 4]
    taken = sum(layer.packed.numel() + 8 * len(layer.weight_scale) for layer in layers)
    size = taken / sum(4 * layer.weight.numel() for layer in layers)
    yield Finding.at_most("weights of 4 bits with their scales over those of 32, bytes", size, 0.16)


def scaled_norms() -> Iterator[Finding]:
    """LayerNorms scaled for one grid: nothing changes, but where the zero-point is not whole."""
    model, images = small(), torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        wanted = model(images)
        readers = norm_readers(model, images)
        for name, reading in readers.items():
            norm: Any = model.get_submodule(name)
            layers: list[Any] = [model.get_submodule(each) for each in reading]
            x = norm(torch.randn(300, 32)) * torch.rand(32) * 4
            reparameterise(norm, layers, channel_grids(x, layers, [4] * len(layers), 4))
        apart = float((model(images) - wanted).abs().max() / wanted.abs().max())
    yield Finding.at_most(f"logits with {len(readers)} norms scaled: relative difference", apart, 1e-4)
    apart_of = {}
    for whole in (True, False):
        torch.manual_seed(0)
        one, layer = nn.LayerNorm(12).double(), nn.Linear(12, 5).double()
        nn.init.uniform_(one.weight, 0.2, 4)
        nn.init.normal_(one.bias)
        with torch.no_grad():
            x = torch.randn(200, 12, dtype=torch.float64)
            found = channel_grids(one(x), [layer], [4], 4)
            own = uniform(one(x), found.scale, found.zero_point, 4)
            mean, zero = common_grid(found, whole=whole)
            scale, _ = reparameterise(one, [layer], found, whole=whole)
            back = (uniform(one(x), scale, zero, 4) + (zero - found.zero_point) * mean) * found.scale / mean
            apart_of[whole] = float(((back - own) / found.scale).abs().max())
    yield Finding.at_most("one grid against one a channel, steps, whole zero-point", apart_of[True], 1e-6)
    yield Finding.at_least("the same with a mean zero-point that is not whole", apart_of[False], 0.1)


def relevance_is_kept() -> Iterator[Finding]:
    """Between blocks of three kinds of transformers, and in their contributions."""
    kinds = {
        "ViT": (small(), 32, [f"blocks.{k}" for k in range(3)]),
        "distilled DeiT": (small("deit_tiny_distilled_patch16_224"), 32, [f"blocks.{k}" for k in range(3)]),
        "Swin": (small_swin(), 64, ["layers.0.blocks.0", "layers.0.blocks.1", "layers.1.downsample"]),
    }
    for name, (model, side, places) in kinds.items():
        found = layer_relevance(model, torch.rand(4, 3, side, side), layers=places, products=False).signed
        apart = max(float((each - 1).abs().max()) for each in found.values())
        yield Finding.at_most(f"{name}: relevance between blocks, difference to 1", apart, 1e-3)
    model, images = small(), torch.rand(4, 3, 32, 32)
    before = layer_relevance(model, images, dtype=torch.float64).contributions()
    yield Finding.close("contributions add up to", sum(before.values()), 1.0, tolerance=1e-9)
    yield Finding.at_least("the least of them", min(before.values()), 0.0)
    head: Any = model.get_submodule("head")
    with torch.no_grad():
        head.weight *= 5
        head.bias *= 5
    after = layer_relevance(model, images, dtype=torch.float64).contributions()
    apart = max(abs(after[name] - before[name]) for name in before)
    yield Finding.at_most("logits times 5: largest difference of a contribution", apart, 1e-5)
    act: Any = model.get_submodule("blocks.1.mlp")
    act.act = _Strange()
    try:
        layer_relevance(model, images)
        told = "nothing"
    except NotImplementedError as error:
        told = str(error)
    yield Finding.fact(
        "an operation without a rule is named with its module", "blocks.1.mlp.act" in told, measured=told
    )


class _Strange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sinh(x)


def allocation() -> Iterator[Finding]:
    """Six layers of four widths, all choices tried; and the time of a large model."""
    torch.manual_seed(0)
    sizes, omega = torch.randint(1, 9, (6,)).tolist(), torch.rand(6).softmax(0).tolist()
    units = [Unit(str(k), (str(k),), "other", None, None, n, n, n, False) for k, n in enumerate(sizes)]
    of = {str(k): value for k, value in enumerate(omega)}
    widths = (3, 4, 5, 6)
    for utility, gain in (("linear", lambda b: b), ("concave", lambda b: 1 - 4.0**-b)):
        best = max(
            sum(o * gain(b) for o, b in zip(omega, chosen, strict=True))
            for chosen in itertools.product(widths, repeat=6)
            if sum(n * b for n, b in zip(sizes, chosen, strict=True)) <= 4 * sum(sizes)
        )
        found = allocate_bits(units, of, 4, utility=utility, candidates=widths)  # type: ignore[arg-type]
        value = sum(of[name] * gain(b) for name, (b, _) in found.items())
        yield Finding.close(f"value of the choice, {utility}, of the best", value / best, 1.0, tolerance=1e-9)
    values = [
        sum(of[name] * b for name, (b, _) in allocate_bits(units, of, mean, candidates=range(2, 9)).items())
        for mean in (2, 2.5, 3, 4, 5.5, 7, 8)
    ]
    yield Finding.fact(
        "a larger budget never has less value", all(b >= a - 1e-12 for a, b in itertools.pairwise(values))
    )
    even = dict.fromkeys(of, 1 / 6)
    equal = [Unit(name, (name,), "other", None, None, 9, 9, 9, False) for name in of]
    bits = allocate_bits(equal, even, 4, utility="concave")
    yield Finding.fact("even contributions of equal layers: even bits", set(bits.values()) == {(4, 4)})
    many = [Unit(str(k), (str(k),), "other", None, None, 1 + k % 7, 9, 1 + k % 5, False) for k in range(150)]
    begun = time.perf_counter()
    allocate_bits(many, {u.name: 1 / (1 + k) for k, u in enumerate(many)}, 4, utility="concave")
    yield Finding.at_most("150 units: seconds of the choice", time.perf_counter() - begun, 1.0)
    try:
        allocate_bits(units, of, 2, candidates=widths)
        told = "nothing"
    except ValueError as error:
        told = str(error)
    yield Finding.fact("a budget that is too small tells the least", "least: 3 bits" in told, measured=told)


def few_bits(seeds: Sequence[int]) -> Iterator[Finding | Section]:
    """A transformer trained on digits, in few bits, by kinds and by allocations."""
    runs = [experiment(seed) for seed in seeds]
    rows: list[list[str]] = [["floats", *[_told([run.whole for run in runs])] * 3]]
    of: dict[tuple[str, int], list[float]] = {}
    for kind in ("min-max", "reparameterised", "clipped"):
        for bits in (3, 4, 6) if kind == "clipped" else (3, 4):
            of[kind, bits] = [run.uniform(bits, kind) for run in runs]  # type: ignore[arg-type]
        rows.append([f"uniform, {kind}", *_cells(of, kind)])
    for name, (utility, measure) in WAYS.items():
        for bits in (3, 4, 6) if name == OURS else (3, 4):
            of[name, bits] = [run.mixed(bits, utility, measure) for run in runs]
        rows.append([f"mixed, {name}", *_cells(of, name)])
        for bits in (3, 4):
            of[f"{name}, inverse", bits] = [run.mixed(bits, utility, measure, inverse=True) for run in runs]
        rows.append([f"mixed, {name}, inverse", *_cells(of, f"{name}, inverse")])
    yield Section(
        "Few bits of a small transformer",
        "Accuracy on 597 digits, points, mean over seeds and its standard deviation, at a mean of so many "
        "bits; the first and the last layer have 8. Mixed ones are clipped.\n\n"
        + table(["", "3 bits", "4 bits", "6 bits"], rows),
    )
    yield Finding.at_least(
        "4 bits: reparameterised over min-max, points", _less(of["reparameterised", 4], of["min-max", 4]), 5.0
    )
    yield Finding.at_least(
        "4 bits: clipped over reparameterised, points", _less(of["clipped", 4], of["reparameterised", 4]), 0.0
    )
    for name in WAYS:
        for bits in (4, 3):
            yield Finding.at_least(
                f"{bits} bits: mixed over uniform, points, {name}",
                _less(of[name, bits], of["clipped", bits]),
                0.5,
            )
            yield Finding.at_least(
                f"{bits} bits: mixed over mixed by inverse contributions, points, {name}",
                _less(of[name, bits], of[f"{name}, inverse", bits]), 1.0,
            )  # fmt: skip
    yield Finding.at_most(
        f"6 bits: floats over mixed, points, {OURS}", _less([run.whole for run in runs], of[OURS, 6]), 0.5
    )
    yield Finding.at_least(
        f"6 bits: mixed over uniform, points, {OURS}", _less(of[OURS, 6], of["clipped", 6]), 0.0
    )
    run = runs[0]
    for weights in ("log-sqrt2", "least error"):
        for way in ("uniform", "mixed"):
            told = [
                run.divergence(
                    uniform_bits(run.units, bits) if way == "uniform" else run.mixed_bits(bits, *WAYS[OURS]),
                    attention_weights=weights,
                )
                for bits in (3, 4, 6, 8)
            ]
            yield Finding.fact(
                f"divergence falls from 3 to 4 to 6 to 8 bits, {way}, attention weights {weights}",
                all(b < a for a, b in itertools.pairwise(told)),
                measured=", ".join(f"{each:.2g}" for each in told),
            )


def outlier_channels(seeds: Sequence[int]) -> Iterator[Finding]:
    """The same, trained with three channels of each LayerNorm eight times as large."""
    runs = [experiment(seed, planted=PLANTED) for seed in seeds]
    of = {
        kind: [run.uniform(4, kind) for run in runs]  # type: ignore[arg-type]
        for kind in ("min-max", "reparameterised", "clipped")
    }
    told = ", ".join(f"{kind} {fmean(values):.1f}" for kind, values in of.items())
    yield Finding.at_least(
        f"planted channels, 4 bits: reparameterised over min-max, points ({told})",
        _less(of["reparameterised"], of["min-max"]), 5.0,
    )  # fmt: skip
    yield Finding.at_least(
        "planted channels, 4 bits: clipped over reparameterised, points",
        _less(of["clipped"], of["reparameterised"]), 3.0,
    )  # fmt: skip


def stability() -> Iterator[Finding]:
    """Contributions from two halves of the images, and by other rules."""
    run = experiment(0)
    halves = [slice(0, 128), slice(128, 256)]
    for measure in ("share", "size", "positive"):
        first, second = (run.relevance.contributions(measure, images=half) for half in halves)  # type: ignore[arg-type]
        yield Finding.at_least(
            f"rank agreement of contributions between two halves of 256 images, {measure}",
            rank_agreement(first, second), 0.9,
        )  # fmt: skip
    other = layer_relevance(
        run.model, run.data.images[:128], rules="attn-lrp", layers=[n for u in run.units for n in u.layers]
    )
    for measure in ("share", "size"):
        agreement = rank_agreement(
            run.relevance.contributions(measure),  # type: ignore[arg-type]
            other.contributions(measure),  # type: ignore[arg-type]
        )
        yield Finding.fact(
            f"rank agreement of Chefer's rules and AttnLRP, {measure} (told, nothing is claimed)",
            math.isfinite(agreement), expected="a number", measured=f"{agreement:.2f}",
        )  # fmt: skip


def costs() -> Iterator[Finding]:
    """Scoring images beside passing them, four blocks of DeiT-tiny at 224 px."""
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", depth=4, num_classes=10).eval()
    images = torch.rand(16, 3, 224, 224)
    names = [layer for unit in units_of(model, images) for layer in unit.layers]
    plain = deepcopy(model)

    def passed() -> None:
        with torch.no_grad():
            plain(images)

    times = seconds_of(
        {"score": lambda: layer_relevance(model, images, layers=names, batch_size=16), "pass": passed},
        rounds=3,
    )
    yield Finding.at_most("scoring images over passing them, seconds", times["score"] / times["pass"], 10.0)


def _less(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


def _cells(of: dict[tuple[str, int], list[float]], name: str) -> list[str]:
    return [_told(of[name, bits]) if (name, bits) in of else "" for bits in (3, 4, 6)]


def _told(values: Sequence[float]) -> str:
    mean = fmean(values)
    spread = math.sqrt(fmean((value - mean) ** 2 for value in values))
    return f"{mean:.1f} ({spread:.1f})"
