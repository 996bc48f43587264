"""What pruning a layer does to a model's outputs, by one gradient: the curves of LPViT (arXiv 2407.02068)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveal.kernels.block_sparse import in_tiles

Ranking = Literal["taylor", "magnitude"]
Block = tuple[int, int]


@dataclass(frozen=True)
class Calibration:
    """What calibration images say of a layer.

    Attributes:
        weight: (O, I) as it is; a convolution's is flattened.
        gradient: (O, I), of the mean squared logit, the mean over batches.
        products: (batches, R, C) sums over each tile of weight times a batch's gradient.
    """

    weight: Tensor
    gradient: Tensor
    products: Tensor


def calibrate(
    model: nn.Module, images: Tensor, layers: Sequence[str], block: Block, *, batch_size: int = 32
) -> dict[str, Calibration]:
    """Gradients of the mean squared logit, without labels; the model is as before afterwards.

    Args:
        model: images to logits (B, K); passed in evaluation mode.
        images: (N, C, ...).
        layers: names of linear layers or convolutions.
        block: of the tiles of `Calibration.products`.
        batch_size: images at a time.

    Raises:
        ValueError: a layer that the logits do not depend on, or a gradient that is not finite.
    """
    weights = {name: _weight(model, name) for name in layers}
    training, wanted = model.training, {name: w.requires_grad for name, w in weights.items()}
    sums = {name: torch.zeros_like(w) for name, w in weights.items()}
    products: dict[str, list[Tensor]] = {name: [] for name in layers}
    model.eval()
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        batches = images.split(batch_size)
        for batch in batches:
            with torch.enable_grad():
                response = model(batch).float().square().mean()
                if not response.requires_grad:
                    raise ValueError(
                        "the logits have no gradient; pass a model that is not frozen by no_grad"
                    )
                found = torch.autograd.grad(response, list(weights.values()), allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), found, strict=True):
                if gradient is None:
                    raise ValueError(
                        f"the logits do not depend on the weight of {name!r}, which has no gradient; leave "
                        "the layer out"
                    )
                if not gradient.isfinite().all():
                    raise ValueError(f"the gradient of {name!r} is not finite; look at the model's logits")
                sums[name] += gradient
                product = (weight.detach() * gradient).flatten(1)
                products[name].append(in_tiles(product, block).sum(dim=(2, 3)))
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(wanted[name])
        model.train(training)
    return {
        name: Calibration(
            weight=weights[name].detach().flatten(1).clone(),
            gradient=(sums[name] / len(batches)).flatten(1),
            products=torch.stack(products[name]),
        )
        for name in layers
    }


def tile_scores(of: Calibration, block: Block, *, ranking: Ranking = "taylor") -> Tensor:
    """(R, C): the mean over each tile of |W G| ("taylor") or |W| ("magnitude"); edges over what they hold."""
    worth = of.weight.abs() if ranking == "magnitude" else (of.weight * of.gradient).abs()
    return in_tiles(worth, block).sum(dim=(2, 3)) / tile_sizes(of.weight, block)


def tile_sizes(weight: Tensor, block: Block) -> Tensor:
    """(R, C): how many weights each tile holds, fewer at the edges."""
    return in_tiles(torch.ones_like(weight), block).sum(dim=(2, 3))


def kept_counts(tiles: int, points: int) -> list[int]:
    """int((1 - d / points) tiles), of d = 0 ... points, in exact arithmetic."""
    return [(points - d) * tiles // points for d in range(points + 1)]


def distortion_curve(
    of: Calibration,
    scores: Tensor,
    block: Block,
    *,
    points: int = 100,
    second_order: bool = True,
    damping: float = 1e-7,
    fisher: Literal["mean", "batches"] = "mean",
) -> np.ndarray:
    """The estimated change of the outputs where a share d / points of the tiles is pruned, worst first.

    With delta = -W on what is pruned: the mean over weights of (delta G)^2, and, in second order,
    1/2 delta^T H delta with the empirical Fisher matrix H = g g^T + damping I in closed form:
    1/2 ((g . delta)^2 + damping |delta|^2). No matrix is made: sums over tiles in the order of pruning tell
    all points at once.

    Args:
        of: the layer.
        scores: (R, C) of the tiles; the least are pruned first.
        block: of the tiles.
        points: steps D of the curve.
        second_order: add the second term.
        damping: lambda.
        fisher: "mean", of the mean gradient as in the paper; "batches", the mean over batches of
            (g . delta)^2, in which gradients of different signs do not cancel.

    Returns:
        (points + 1,), 0 first.
    """
    order = scores.flatten().argsort(descending=True, stable=True).flip(0)

    def pruned(per_tile: Tensor) -> Tensor:
        """Sums over the first 0, 1, ... tiles in the order of pruning, along the last axis."""
        ordered = per_tile.double().flatten(-2)[..., order]
        return torch.cat([ordered.new_zeros((*ordered.shape[:-1], 1)), ordered.cumsum(-1)], dim=-1)

    product = of.weight * of.gradient
    curve = pruned(in_tiles(product.square(), block).sum(dim=(2, 3))) / product.numel()
    if second_order:
        dots = of.products if fisher == "batches" else in_tiles(product, block).sum(dim=(2, 3))[None]
        norms = pruned(in_tiles(of.weight.square(), block).sum(dim=(2, 3)))
        curve = curve + (pruned(dots).square().mean(dim=0) + damping * norms) / 2
    at = [scores.numel() - kept for kept in kept_counts(scores.numel(), points)]
    return curve[at].numpy()  # type: ignore[no-any-return]


def smooth_curve(curve: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average along the curve, without the bias of its beginning.

    Args:
        curve: (D + 1,).
        weight: of what came before, 0 (none) to below 1.

    Raises:
        ValueError: `weight` is out of range.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"smoothing is {weight}; allowed: from 0 (none) to below 1")
    smooth, average = np.empty(len(curve)), 0.0
    for d, value in enumerate(curve):
        average = weight * average + (1 - weight) * float(value)
        smooth[d] = average / (1 - weight ** (d + 1))
    return smooth


def slopes(curve: np.ndarray, *, half_width: int = 4) -> np.ndarray:
    """Derivative of a curve over [0, 1], by the five-point rule of half-width h; shorter near its ends.

    (-y[i+h] + 8 y[i+h/2] - 8 y[i-h/2] + y[i-h]) / (6 (x[i+h] - x[i])); where only a neighbour is left on each
    side their difference, at the ends the one to the only neighbour.

    Raises:
        ValueError: `half_width` is odd or below 2, or the curve has fewer than two points.
    """
    last = len(curve) - 1
    if half_width < 2 or half_width % 2 or last < 1:
        raise ValueError(
            f"half_width is {half_width} on {last + 1} points; allowed: 2, 4, ... on two points or more"
        )
    found = np.gradient(curve, 1 / last) if last > 1 else np.full(2, curve[1] - curve[0])
    for i in range(2, last - 1):
        h = min(half_width, i, last - i) // 2 * 2
        near = h // 2
        rule = -curve[i + h] + 8 * curve[i + near] - 8 * curve[i - near] + curve[i - h]
        found[i] = rule / (6 * h / last)
    return found


def power_weight(
    distortions: Mapping[str, np.ndarray], powers: Mapping[str, np.ndarray], *, half_width: int = 4
) -> float:
    """beta that makes the steepest slopes of distortion and power alike, in the mean over layers.

    Raises:
        ValueError: no layer, or power that does not change.
    """
    steep = [
        np.mean([np.abs(slopes(curve, half_width=half_width)).max() for curve in curves.values()])
        if curves
        else 0.0
        for curves in (distortions, powers)
    ]
    if not steep[1] > 0:
        raise ValueError("the power of no layer changes with pruning; there is nothing to weigh")
    return float(steep[0] / steep[1])


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    layer = model.get_submodule(name)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
        raise ValueError(f"{name!r} ({type(layer).__name__}) has no weight that could be cut into tiles")
    return weight
