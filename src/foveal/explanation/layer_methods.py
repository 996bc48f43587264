"""Captum's attributions of a layer's outputs, summed over its channels and enlarged to the image.

The layer is the last one with maps unless it is named; of tokens, `prefix_tokens` have no place and the
others lie on `grid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foveal.explanation.cam import enlarged
from foveal.explanation.captum_methods import Scored, noise_like, out_of_place, seeded
from foveal.explanation.methods import Question, register_method
from foveal.explanation.perturbing import Baseline, baseline_images
from foveal.explanation.taps import as_maps, find_layer, last_map_layer

Grid = Sequence[int] | None


@register_method("layer-activation", "layer map")
def layer_activation(
    asked: Question, *, layer: str | None = None, prefix_tokens: int | None = None, grid: Grid = None
) -> Tensor:
    """What a layer gives out, whatever the score: the sum of its channels."""
    from captum.attr import LayerActivation

    return _of_layer(asked, LayerActivation, layer, prefix_tokens, grid)


@register_method("layer-gradient-x-activation", "layer map")
def layer_gradient_x_activation(
    asked: Question, *, layer: str | None = None, prefix_tokens: int | None = None, grid: Grid = None
) -> Tensor:
    """A layer's outputs times their gradient, summed over channels (linear approximation)."""
    from captum.attr import LayerGradientXActivation

    return _of_layer(asked, LayerGradientXActivation, layer, prefix_tokens, grid)


@register_method("layer-conductance", "layer map")
def layer_conductance(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Grid = None,
    baseline: Baseline = 0.0,
    steps: int = 32,
    batch_size: int = 16,
) -> Tensor:
    """The part of integrated gradients that flows through each place of a layer (arXiv 1805.12233)."""
    from captum.attr import LayerConductance

    options = _path(asked, baseline, steps, batch_size)
    return _of_layer(asked, LayerConductance, layer, prefix_tokens, grid, **options)


@register_method("layer-integrated-gradients", "layer map")
def layer_integrated_gradients(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Grid = None,
    baseline: Baseline = 0.0,
    steps: int = 32,
    batch_size: int = 16,
) -> Tensor:
    """Integrated gradients of a layer's outputs, from those of a baseline (arXiv 1703.01365)."""
    from captum.attr import LayerIntegratedGradients

    options = _path(asked, baseline, steps, batch_size)
    return _of_layer(asked, LayerIntegratedGradients, layer, prefix_tokens, grid, **options)


@register_method("internal-influence", "layer map")
def internal_influence(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Grid = None,
    baseline: Baseline = 0.0,
    steps: int = 32,
    batch_size: int = 16,
) -> Tensor:
    """Gradients at a layer, averaged along the line from a baseline image (arXiv 1802.03788)."""
    from captum.attr import InternalInfluence

    options = _path(asked, baseline, steps, batch_size)
    return _of_layer(asked, InternalInfluence, layer, prefix_tokens, grid, **options)


@register_method("layer-gradient-shap", "layer map")
def layer_gradient_shap(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Grid = None,
    baselines: Tensor | None = None,
    backgrounds: int = 8,
    samples: int = 8,
    noise: float = 0.05,
    seed: int = 0,
) -> Tensor:
    """Gradients of a layer at random points between images and random baselines (NeurIPS 2017)."""
    from captum.attr import LayerGradientShap

    images = asked.images
    drawn = noise_like(images, backgrounds, seed=seed) if baselines is None else baselines.to(images)
    deviation = noise * float(images.max() - images.min())
    with seeded(seed):
        return _of_layer(
            asked, LayerGradientShap, layer, prefix_tokens, grid,
            baselines=drawn, n_samples=samples, stdevs=deviation,
        )  # fmt: skip


def _path(asked: Question, baseline: Baseline, steps: int, batch_size: int) -> dict[str, Any]:
    return {
        "baselines": baseline_images(asked.images, baseline),
        "n_steps": steps,
        "internal_batch_size": max(batch_size, len(asked.images)),
    }


def _of_layer(
    asked: Question,
    explainer: Any,
    layer: str | None,
    prefix_tokens: int | None,
    grid: Grid,
    **options: Any,
) -> Tensor:
    """(B, ...) sums over a layer's channels at the size of the images."""
    name = layer or last_map_layer(asked.model, asked.images)
    with out_of_place(asked.model):
        found = explainer(Scored(asked.model), find_layer(asked.model, name)).attribute(
            asked.images.clone().requires_grad_(), additional_forward_args=(asked.weights,), **options
        )
    values = found[0] if isinstance(found, tuple) else found
    maps = as_maps(values.detach(), asked.images, prefix_tokens=prefix_tokens, grid=grid)
    return enlarged(maps.sum(dim=1), asked.images)
