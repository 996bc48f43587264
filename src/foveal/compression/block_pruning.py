"""Tiles of weights pruned after training by what they do to the outputs (LPViT, arXiv 2407.02068).

foveal compress MODEL --method lpvit --target 2x --data FOLDER --out SMALL --tune 500
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveal.blocks.block_sparse_linear import kept_text
from foveal.blocks.changes import change_model
from foveal.compression.block_allocation import (
    Choices,
    exact_allocation,
    hull_allocation,
    slope_allocation,
    total,
)
from foveal.compression.distortion import (
    Block,
    Calibration,
    Ranking,
    calibrate,
    distortion_curve,
    kept_counts,
    power_weight,
    smooth_curve,
    tile_scores,
    tile_sizes,
)
from foveal.compression.layers import Role, WeightLayer, weight_layers
from foveal.compression.masks import Masks
from foveal.compression.methods import Material, Outcome, Target, register_compressor
from foveal.kernels.block_sparse import from_tiles, in_tiles
from foveal.models.classifier import Classifier
from foveal.settings import unknown_name

Search = Literal["exact", "hull", "slope"]
PRUNED: tuple[Role, ...] = (
    "patches", "query, key, value", "projection", "first of MLP", "second of MLP",
)  # fmt: skip
DENSE_FROM = 0.9  # of the tiles kept, from where a whole layer is as fast
ROWS_OF_POWER = 16  # rows of inputs that count as one product of a tile


@dataclass(frozen=True)
class BlockPruning:
    """Which tiles are kept.

    Attributes:
        kept: (R, C) bool of each layer.
        block: outputs and inputs of a tile.
        layers: that were decided on.
        operations: share that is left of those of the layers, biases included.
        power: sum over layers of kept tiles times rows / 16, and that of all tiles.
        objective: the sum of the curves at what was chosen.
        within: whether `operations` is within the tolerance of the target.
    """

    kept: dict[str, Tensor]
    block: Block
    layers: tuple[WeightLayer, ...]
    operations: float
    power: tuple[float, float]
    objective: float
    within: bool

    def masks(self, model: nn.Module) -> Masks:
        """Of the weights: True on kept tiles."""
        found = {}
        for name, kept in self.kept.items():
            weight = model.get_parameter(f"{name}.weight")
            whole = torch.ones(weight.flatten(1).shape, dtype=torch.bool)
            found[f"{name}.weight"] = tile_mask(whole, kept, self.block).view(weight.shape)
        return Masks(found)


def prune_blocks(
    model: nn.Module,
    images: Tensor,
    target: float,
    *,
    block: int | str | Sequence[int] = 32,
    ranking: Ranking = "taylor",
    search: Search = "exact",
    second_order: bool = True,
    fisher: Literal["mean", "batches"] = "batches",
    damping: float = 1e-7,
    smoothing: float = 0.1,
    power: float = 0.0,
    points: int = 100,
    half_width: int = 4,
    least_kept: float = 0.05,
    tolerance: float = 0.02,
    roles: Sequence[Role] = PRUNED,
    batch_size: int = 32,
) -> BlockPruning:
    """Choose the tiles to keep; the model is not changed.

    Args:
        model: images to logits.
        images: (N, C, ...) for calibration; labels are not needed, 2000 images in the paper.
        target: share of the layers' operations to keep, between 0 and 1; attention's products do not count.
        block: side of a tile, "64x32" or (64, 32) for 64 outputs and 32 inputs. Sides of 16, 32 or 64 fit the
            heads of most transformers.
        ranking: of tiles within a layer: "taylor", |weight x gradient|, or "magnitude".
        search: "exact", the least objective; "hull", on convex hulls; "slope", the paper's bisection.
        second_order: see `distortion_curve`, also for `damping` and `points`.
        fisher: "mean" is the original's, in which gradients of different images cancel; see the same.
        smoothing: of the curves; see `smooth_curve`.
        power: of the term for kept tiles; 1 makes its slope that of the distortion, 0 leaves it out.
        half_width: of the slopes' rule; the paper takes 10 for Swin.
        least_kept: share of each layer's tiles that stays, or (1 - target) / 2 where that is less; one does.
        tolerance: how much less than the target may be left; on both sides for "slope".
        roles: of the layers to prune.
        batch_size: of calibration.

    Raises:
        ValueError: a target or an option out of range, a block larger than a layer, a layer without gradient,
            or a search that does not come near the target.
    """
    if not 0 < target < 1:
        raise ValueError(
            f"target is {target}; allowed: a share of the operations between 0 and 1, such as 0.5"
        )
    if search not in ("exact", "hull", "slope"):
        raise ValueError(unknown_name("search", search, ("exact", "hull", "slope")))
    if ranking not in ("taylor", "magnitude"):
        raise ValueError(unknown_name("ranking", ranking, ("taylor", "magnitude")))
    if not 0 <= least_kept < 1 or power < 0 or points < 2 or tolerance <= 0:
        raise ValueError(
            f"least_kept {least_kept}, power {power}, points {points}, tolerance {tolerance}; allowed: 0 to "
            "below 1, 0 or more, 2 or more, above 0"
        )
    sides = block_of(block)
    was_training = model.training
    layers = weight_layers(model.eval(), images, roles=roles)
    model.train(was_training)
    check_block(layers, sides)
    found = calibrate(model, images, [layer.name for layer in layers], sides, batch_size=batch_size)
    scores = {name: tile_scores(each, sides, ranking=ranking) for name, each in found.items()}
    curves = {
        name: smooth_curve(
            distortion_curve(
                each, scores[name], sides,
                points=points, second_order=second_order, damping=damping, fisher=fisher,
            ),
            smoothing,
        )
        for name, each in found.items()
    }  # fmt: skip
    powers = {
        layer.name: np.array(kept_counts(scores[layer.name].numel(), points)) * layer.rows / ROWS_OF_POWER
        for layer in layers
    }
    if power:
        beta = power * power_weight(curves, powers, half_width=half_width)
        curves = {name: curve + beta * powers[name] for name, curve in curves.items()}
    floor = min(least_kept, (1 - target) / 2)
    choices = {
        layer.name: layer_choices(
            layer,
            found[layer.name],
            scores[layer.name],
            curves[layer.name],
            sides,
            biased=_biased(model, layer),
        ).at_least(max(1, -int(-floor * scores[layer.name].numel() // 1)))
        for layer in layers
    }
    whole = float(sum(each.operations[0] for each in choices.values()))
    budget, least = target * whole, (target - tolerance) * whole
    within = True
    if search == "slope":
        chosen, within = slope_allocation(
            choices, curves, budget, tolerance=tolerance * whole, half_width=half_width
        )
        if not within:
            left = total(choices, chosen)[0] / whole
            raise ValueError(
                f"equal slopes end at {left:.3f} of the operations, {target} +- {tolerance} is wanted: the "
                "curves are too noisy or the tiles too few; take search='exact' or 'hull', or more smoothing"
            )
    elif search == "hull":
        chosen = hull_allocation(choices, budget, least=least)
    else:
        chosen = exact_allocation(choices, budget, least=least)
    left, objective = total(choices, chosen)
    counts = {name: int(choices[name].kept[index]) for name, index in chosen.items()}
    rows = {layer.name: layer.rows / ROWS_OF_POWER for layer in layers}
    return BlockPruning(
        kept={name: best_tiles(scores[name], count) for name, count in counts.items()},
        block=sides,
        layers=tuple(layers),
        operations=left / whole,
        power=(
            sum(counts[name] * each for name, each in rows.items()),
            sum(scores[name].numel() * each for name, each in rows.items()),
        ),
        objective=objective,
        within=least * (1 - 1e-9) <= left,
    )


def prune_uniformly(
    model: nn.Module,
    images: Tensor,
    target: float,
    *,
    block: int | str | Sequence[int] = 32,
    roles: Sequence[Role] = PRUNED,
) -> dict[str, Tensor]:
    """What the paper compares with: the same share of every layer, the tiles of the largest mean |W|."""
    sides = block_of(block)
    layers = weight_layers(model, images, roles=roles)
    check_block(layers, sides)
    found = {}
    for layer in layers:
        weight = model.get_parameter(f"{layer.name}.weight").detach().flatten(1)
        scores = in_tiles(weight.abs(), sides).sum(dim=(2, 3)) / tile_sizes(weight, sides)
        found[layer.name] = best_tiles(scores, max(1, round(target * scores.numel())))
    return found


def layer_choices(
    layer: WeightLayer,
    of: Calibration,
    scores: Tensor,
    curve: np.ndarray,
    block: Block,
    *,
    biased: bool = True,
) -> Choices:
    """Operations and objective of a layer at every point of its curve."""
    counts = np.array(kept_counts(scores.numel(), len(curve) - 1))
    order = scores.flatten().argsort(descending=True, stable=True)
    sizes = tile_sizes(of.weight, block).flatten()[order].double()
    weights = np.concatenate([[0.0], sizes.cumsum(0).numpy()])[counts]
    return Choices(counts, layer.rows * (weights + layer.outputs * biased), curve)


def best_tiles(scores: Tensor, count: int) -> Tensor:
    """(R, C) bool: so many tiles of the greatest scores; of equal ones those that come first."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(descending=True, stable=True)[:count].cpu()] = True
    return kept.view(scores.shape)


def tile_mask(whole: Tensor, kept: Tensor, block: Block) -> Tensor:
    """(O, I) bool: True on kept tiles (R, C) of a mask of ones."""
    return from_tiles(in_tiles(whole, block) & kept[:, :, None, None], tuple(whole.shape))  # type: ignore[arg-type]


def block_of(block: int | str | Sequence[int]) -> Block:
    """Outputs and inputs of a tile, of 32, "64x32" or (64, 32).

    Raises:
        ValueError: anything else.
    """
    parts = block.lower().split("x") if isinstance(block, str) else block
    try:
        sides = [int(part) for part in parts] if not isinstance(parts, int) else [parts, parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"block is {block!r}; allowed: such as 32, '64x32' or (64, 32)")
    return sides[0], sides[1]


def check_block(layers: Sequence[WeightLayer], block: Block) -> None:
    """Refuse a block that is larger than a layer.

    Raises:
        ValueError: tells the layer, and a size that fits all.
    """
    for layer in layers:
        if block[0] > layer.outputs or block[1] > layer.inputs:
            fits = min(min(each.outputs, each.inputs) for each in layers)
            raise ValueError(
                f"a block of {block[0]} x {block[1]} is larger than {layer.name!r} of {layer.outputs} "
                f"outputs and {layer.inputs} inputs; take at most {fits} x {fits}, or leave its role out"
            )


@register_compressor("lpvit", "kept", behind=prune_blocks)
def lpvit(
    model: Classifier, material: Material, target: Target, *, centred: bool = True, **options: Any
) -> Outcome:
    """Tiles of weights pruned by what they do to the outputs; what is left runs block-sparse.

    Args:
        model: in evaluation mode.
        material: its images calibrate.
        target: kept share of the layers' operations.
        centred: move the head's bias so that the mean logits of the calibration images stay; no labels are
            read. Not in the paper.
        **options: see `prune_blocks`.
    """
    wanted = mean_logits(model, material.images) if centred else None
    found = prune_blocks(model, material.images, target.value, **options)
    masks = found.masks(model)
    masks.apply(model)
    if wanted is not None:
        with torch.no_grad():
            model.head.bias.add_(wanted - mean_logits(model, material.images))
    height, width = found.block
    summary = (
        f"Tiles of {height} x {width} of {len(found.layers)} layers' weights were pruned by the second-order "
        f"estimate of LPViT on {len(material.images)} images: {masks.share:.1%} of their weights and "
        f"{found.operations:.1%} of their operations are left, {found.power[0] / found.power[1]:.1%} of the "
        "products of tiles."
    )
    if centred:
        summary += " The head's bias keeps the mean logits of these images."
    if not found.within:
        summary += " No choice of tiles came nearer below the target."
    rows = [
        {
            "layer": layer.name,
            "role": layer.role,
            "tiles": found.kept[layer.name].numel(),
            "kept": int(found.kept[layer.name].sum()),
            "block_sparse": _runs_sparse(model, layer, found),
        }
        for layer in found.layers
    ]
    return Outcome(summary, rows, masks, finish=lambda after: make_fast(after, found))


@torch.no_grad()
def mean_logits(model: nn.Module, images: Tensor) -> Tensor:
    """(K,) over images (N, C, ...)."""
    return torch.cat([model(batch) for batch in images.split(32)]).mean(dim=0)


def make_fast(model: nn.Module, found: BlockPruning) -> None:
    """Make the pruned linear layers hold only their tiles; convolutions and nearly whole layers stay."""
    texts = {
        layer.name: kept_text(found.kept[layer.name])
        for layer in found.layers
        if _runs_sparse(model, layer, found)
    }
    if texts:
        change_model(model, "block-sparse-linear", block=list(found.block), layers=texts)


def _runs_sparse(model: nn.Module, layer: WeightLayer, found: BlockPruning) -> bool:
    share = float(found.kept[layer.name].float().mean())
    return share < DENSE_FROM and isinstance(model.get_submodule(layer.name), nn.Linear)


def _biased(model: nn.Module, layer: WeightLayer) -> bool:
    return getattr(model.get_submodule(layer.name), "bias", None) is not None
