"""What proves LPViT: its curves and masks to the number, small models pruned, and times on this CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.block_sparse_linear import BlockSparseLinear
from foveal.compression.block_allocation import Choices, exact_allocation, hull_allocation, total
from foveal.compression.block_pruning import make_fast, prune_blocks
from foveal.compression.costs import macs_of
from foveal.compression.distortion import Calibration, distortion_curve, kept_counts, tile_scores
from foveal.kernels.block_sparse import from_tiles, in_tiles, tile_grid
from foveal.machine import seconds_of
from foveal.markdown import table
from foveal.recipes._lpvit_learning import VARIANTS, prune_digits
from foveal.recipes.base import Evidence, Finding, Scale, Section


def evidence(scale: Scale) -> Iterable[Evidence]:
    """Exact facts at either scale; pruned models and times in full."""
    yield closed_form
    yield allocations
    yield masks_and_budgets
    yield equals_the_masked_layer
    if scale == "full":
        yield partial(learning, range(3))
        yield layer_times
        yield model_times


def small_model(*, side: int = 32, **options: Any) -> nn.Module:
    """Two blocks over 4 x 4 patches, with logits that are not all alike."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "img_size": side, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3,
    }  # fmt: skip
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **{**sizes, **options}).eval()
    nn.init.normal_(model.get_parameter("head.weight"), std=0.2)
    return model


def closed_form() -> Iterator[Finding]:
    """Of the second order, by the matrix itself."""
    draw, block = torch.Generator().manual_seed(0), (16, 16)
    weight, gradient = (torch.randn(64, 48, generator=draw) for _ in range(2))
    of = Calibration(weight, gradient, in_tiles(weight * gradient, block).sum(dim=(2, 3))[None])
    scores, damping = tile_scores(of, block), 1e-3
    curve = distortion_curve(of, scores, block, damping=damping)
    g = gradient.double().flatten()
    hessian = g[:, None] * g[None] + damping * torch.eye(len(g), dtype=torch.float64)
    order, counts = scores.flatten().argsort(descending=True, stable=True), kept_counts(scores.numel(), 100)
    apart, apart_steps, steps, before = 0.0, 0.0, 0.0, torch.zeros_like(g)
    for d, count in enumerate(counts):
        gone = torch.ones(scores.numel(), dtype=torch.bool)
        gone[order[:count]] = False
        tiles = gone.view(scores.shape)[:, :, None, None] * in_tiles(weight, block)
        now = -from_tiles(tiles, (64, 48)).double().flatten()
        first = float((now * g).square().mean())
        step = now - before
        steps += float((step + 2 * before) @ (hessian @ step)) / 2
        before = now
        if d:
            scale = max(abs(curve[d]), 1e-12)
            apart = max(apart, abs(first + float(now @ (hessian @ now)) / 2 - curve[d]) / scale)
            apart_steps = max(apart_steps, abs(first + steps - curve[d]) / scale)
    yield Finding.at_most("the curve equals delta^T (g g^T + lambda I) delta / 2, relative", apart, 1e-5)
    yield Finding.at_most("and the sum of the steps of the original's accumulation", apart_steps, 1e-5)
    yield Finding.fact("nothing pruned is no distortion", curve[0] == 0)


def _random_choices(layers: int, options: int, seed: int) -> dict[str, Choices]:
    draws = np.random.default_rng(seed)
    found = {}
    for name in range(layers):
        kept = np.arange(options)[::-1]
        rise = np.append(0, (draws.random(options - 1) ** 3).cumsum())
        found[str(name)] = Choices(kept, draws.integers(1, 9) * kept + 1.0, rise)
    return found


def allocations() -> Iterator[Finding]:
    """Against trying all, and against chance."""
    apart = []
    for seed in range(10):
        choices = _random_choices(3, 6, seed)
        budget = 0.5 * sum(each.operations[0] for each in choices.values())
        every = (dict(zip(choices, pick, strict=True)) for pick in product(range(6), repeat=3))
        best = min(total(choices, each)[1] for each in every if total(choices, each)[0] <= budget)
        apart.append(total(choices, exact_allocation(choices, budget))[1] / best - 1)
    yield Finding.at_most(
        "3 layers of 6 choices: exact allocation beside trying all, relative", max(apart), 1e-6
    )
    choices = _random_choices(12, 51, 0)
    whole = sum(each.operations[0] for each in choices.values())
    objectives, grown, before = [], True, {name: 51 for name in choices}
    for share in np.linspace(0.15, 0.95, 9):
        hull = hull_allocation(choices, share * whole)
        grown &= all(hull[name] <= before[name] for name in hull)
        before = hull
        objectives.append(total(choices, hull)[1])
    falls = bool((np.diff(objectives) <= 0).all())
    yield Finding.fact("on hulls, a greater budget takes no tile away and is never worse", grown and falls)
    draws, best, least = (
        np.random.default_rng(1),
        total(choices, exact_allocation(choices, whole / 2))[1],
        np.inf,
    )
    for _ in range(1000):
        while True:
            power = draws.uniform(0.2, 5)
            pick = {name: int(51 * draws.random() ** power) for name in choices}
            spent, objective = total(choices, pick)
            if spent <= whole / 2:
                break
        least = min(least, objective)
    yield Finding.at_least("least objective of 1000 random allocations over the exact one", least / best, 1.0)


def masks_and_budgets() -> Iterator[Finding]:
    """Of a transformer whose tiles do not fit its layers."""
    model, images = small_model(), torch.rand(16, 3, 32, 32)
    for target in (0.3, 0.5, 0.7):
        found = prune_blocks(model, images, target, block=(10, 7))
        masks = found.masks(model).kept
        whole = all(
            bool(((tiles == tiles.flatten(2).amax(2)[..., None, None]) | ~_inside(mask)).all())
            for mask in (m.flatten(1) for m in masks.values())
            for tiles in [in_tiles(mask, (10, 7))]
        )
        least = min(float(kept.float().mean()) for kept in found.kept.values())
        yield Finding.close(f"operations left for {target}", found.operations, target, tolerance=0.02)
        yield Finding.at_least(
            f"least share of a layer's tiles at {target}", least, min(0.05, (1 - target) / 2)
        )
        yield Finding.fact(f"tiles are whole or gone at {target}, at ragged edges too", whole)


def _inside(mask: Tensor) -> Tensor:
    return in_tiles(torch.ones_like(mask), (10, 7))


def equals_the_masked_layer() -> Iterator[Finding]:
    """Layers that hold tiles alone."""
    apart = 0.0
    for (outputs, inputs), block, share in product(
        ((96, 64), (70, 45)), ((32, 32), (16, 8), (5, 6)), (0.0, 0.25, 1.0)
    ):
        torch.manual_seed(0)
        layer = nn.Linear(inputs, outputs)
        kept = torch.rand(tile_grid((outputs, inputs), block)) < share
        sparse, x = BlockSparseLinear(layer, kept, block), torch.randn(3, 11, inputs)
        with torch.no_grad():
            apart = max(apart, float((sparse(x) - F.linear(x, sparse.weight, layer.bias)).abs().max()))
    yield Finding.at_most("block-sparse layer and masked one, largest difference", apart, 1e-5)
    model, images = small_model(), torch.rand(4, 3, 32, 32)
    found = prune_blocks(model, images, 0.5, block=8)
    masks = found.masks(model).kept
    found.masks(model).apply(model)
    whole = macs_of(model, images)
    with torch.no_grad():
        wanted = model(images)
        make_fast(model, found)
        difference = float((model(images) - wanted).abs().max())
    yield Finding.at_most("a pruned model's logits before and after its tiles are packed", difference, 1e-5)
    dropped = sum(
        layer.rows * int((~mask).sum())
        for layer in found.layers
        for mask in [masks[f"{layer.name}.weight"]]
        if isinstance(model.get_submodule(layer.name), BlockSparseLinear)
    )
    counted = whole - macs_of(model, images)
    yield Finding.close("operations saved over those pruned", counted / dropped, 1, tolerance=0)


def learning(seeds: Sequence[int], *, steps: int = 400, tune: int = 200) -> Iterator[Finding | Section]:
    """Half of the operations of a transformer that has learnt digits."""
    runs = [prune_digits(seed, steps=steps, tune=tune) for seed in seeds]
    default = [run.found["as by default"] for run in runs]
    yield Finding.at_least(
        "points of accuracy over uniform pruning by magnitude at 50 %, without tuning",
        [100 * (found - run.uniform) for found, run in zip(default, runs, strict=True)],
        3,
    )
    of_mean = [run.found["of the mean gradient, as the original"] for run in runs]
    yield Finding.at_least(
        "the same with curves of the mean gradient, as the original's",
        [100 * (found - run.uniform) for found, run in zip(of_mean, runs, strict=True)],
        3,
    )
    yield Finding.at_most(
        "points that the tuned model is below the whole one", [100 * (r.whole - r.tuned) for r in runs], 2
    )
    yield Finding.at_most(
        "largest pruned weight after any step of AdamW", max(run.pruned_largest for run in runs), 0
    )
    powers = [run.prunings["with power"].power[0] / run.prunings["as by default"].power[0] for run in runs]
    yield Finding.at_most("surviving tiles times rows with the power term over those without", max(powers), 1)
    rows = [
        ["whole model", _mean(r.whole for r in runs), "1"],
        ["uniform by magnitude", _mean(r.uniform for r in runs), "0.5"],
        ["uniform by magnitude, tuned", _mean(r.tuned_uniform for r in runs), "0.5"],
        ["as by default, tuned", _mean(r.tuned for r in runs), "0.5"],
    ]
    for name in VARIANTS:
        some = [r for r in runs if name in r.found]
        rows.append(
            [
                f"{name} ({len(some)} of {len(runs)} seeds)",
                _mean(r.found[name] for r in some) if some else "",
                f"{fmean(r.prunings[name].operations for r in some):.3f}" if some else "",
            ]
        )
    yield Section(
        "Pruning half of the operations",
        "Digits of scikit-learn at 32 px, a transformer of 4 blocks 64 wide on patches of 8 px, tiles of "
        f"8 x 8, {len(runs)} seeds, {steps} steps of learning, {tune} of tuning. Equal slopes count where "
        "their search ended within 5 % of the target.\n\n" + table(["", "accuracy", "operations left"], rows),
    )


def _mean(values: Iterable[float]) -> str:
    return f"{fmean(values):.3f}"


def layer_times(*, rounds: int = 15) -> Iterator[Finding | Section]:
    """768 to 3072, four images of 197 tokens, 32 bits."""
    torch.manual_seed(0)
    layer, x = nn.Linear(768, 3072), torch.randn(4, 197, 768)
    layers: dict[tuple[int, float], BlockSparseLinear] = {}
    for side, share in product((32, 64), (0.25, 0.5)):
        grid = tile_grid((3072, 768), (side, side))
        kept = torch.rand(grid).flatten().argsort().argsort().view(grid) < share * grid[0] * grid[1]
        layers[side, share] = BlockSparseLinear(layer, kept, (side, side))
    with torch.inference_mode():
        work: dict[str, Any] = {"whole": partial(layer, x)}
        work |= {str(key): partial(each, x) for key, each in layers.items()}
        seconds = seconds_of(work, rounds=rounds)
    ratio = {key: seconds[str(key)] / seconds["whole"] for key in layers}
    yield Finding.at_most("time at 25 % of the tiles of 32, over the whole layer", ratio[32, 0.25], 0.75)
    yield Finding.at_most("time at 25 % of the tiles of 64, over the whole layer", ratio[64, 0.25], 0.6)
    sizes = {key: _bytes(each) / _bytes(layer) for key, each in layers.items()}
    yield Finding.at_most("bytes at 25 % of the tiles, over the whole layer", sizes[32, 0.25], 0.3)
    rows = [[str(k[0]), f"{k[1]:.0%}", f"{ratio[k]:.2f}", f"{sizes[k]:.2f}"] for k in layers]
    yield Section(
        "A layer's time and size",
        f"768 to 3072, 4 x 197 tokens, {torch.get_num_threads()} threads, over those of the whole layer.\n\n"
        + table(["side of a tile", "kept", "time", "bytes"], rows),
    )


def _bytes(layer: nn.Module) -> int:
    """Of what is saved of it, and a bit for each tile in its settings."""
    saved = sum(tensor.numel() * tensor.element_size() for tensor in layer.state_dict().values())
    if isinstance(layer, BlockSparseLinear):
        rows, columns = tile_grid((layer.out_features, layer.in_features), layer.block)
        saved += rows * columns // 6
    return saved


def model_times(*, rounds: int = 9) -> Iterator[Finding | Section]:
    """ViT-S at 224 px, weights as they are drawn: time does not ask what was learnt."""
    torch.manual_seed(0)
    whole = timm.create_model("vit_small_patch16_224", num_classes=10).eval()
    nn.init.normal_(whole.get_parameter("head.weight"), std=0.05)
    images, rows = torch.rand(4, 3, 224, 224), []
    models: dict[str, nn.Module] = {"whole": whole}
    for side in (32, 64):
        pruned = deepcopy(whole)
        found = prune_blocks(pruned, images, 0.5, block=side, batch_size=2)
        found.masks(pruned).apply(pruned)
        make_fast(pruned, found)
        models[f"tiles of {side}"] = pruned
    for count in (1, 4):
        with torch.inference_mode():
            work = {name: partial(model, images[:count]) for name, model in models.items()}
            seconds = seconds_of(work, rounds=rounds)
        rows += [
            [str(count), name, f"{seconds['whole'] / seconds[name]:.2f}"]
            for name in models
            if name != "whole"
        ]
        yield Finding.at_least(
            f"ViT-S at half of its layers' operations, {count} image{'s' if count > 1 else ''} at a time: "
            "times as fast, tiles of 32",
            seconds["whole"] / seconds["tiles of 32"],
            1.5,
        )
    yield Section("Speed of a whole model", table(["images at a time", "", "times as fast"], rows))
