"""DeepLIFT's rescale rule at every activation that torch computes, whether a module or a function calls it.

An image and its reference go through the model together; each activation then hands back its difference of
outputs over its difference of inputs in place of its slope (arXiv 1704.02685). Of networks whose activations
are modules, each used once, the numbers are Captum's, whose hooks reach no others; but not where there is max
pooling, with which only these add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foveal.explanation.cam import enlarged
from foveal.explanation.captum_methods import noise_like
from foveal.explanation.methods import Question, register_method
from foveal.explanation.perturbing import Baseline, baseline_images
from foveal.explanation.taps import as_maps, tapped_maps
from foveal.explanation.targets import score_of

_LEAST = 1e-10  # a difference of inputs below which the slope stands for the quotient, as in Captum


@register_method("deep-lift", "gradient")
def deep_lift(asked: Question, *, baseline: Baseline = 0.0) -> Tensor:
    """Differences from a baseline, handed back layer by layer by the rescale rule (arXiv 1704.02685).

    Through linear maps, activations and pooling the values add up to the score gained over the baseline.
    Products, softmax and layer normalisation have no such rule and go by their gradient.
    """
    return contributions(asked.model, asked.images, baseline_images(asked.images, baseline), asked.weights)


@register_method("deep-lift-shap", "gradient")
def deep_lift_shap(
    asked: Question, *, baselines: Tensor | None = None, backgrounds: int = 4, seed: int = 0
) -> Tensor:
    """DeepLIFT averaged over several baselines, which approaches SHAP values (NeurIPS 2017).

    `baselines` (N, C, ...); without them `backgrounds` images of noise, as in `gradient-shap`.
    """
    drawn = noise_like(asked.images, backgrounds, seed=seed) if baselines is None else baselines
    drawn = drawn.to(asked.images)
    return torch.cat(
        [
            contributions(asked.model, image.expand_as(drawn), drawn, weights).mean(dim=0, keepdim=True)
            for image, weights in zip(asked.images.split(1), asked.weights.split(1), strict=True)
        ]
    )


@register_method("layer-deep-lift", "layer map")
def layer_deep_lift(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
    baseline: Baseline = 0.0,
) -> Tensor:
    """DeepLIFT of a layer's outputs against those of a baseline (arXiv 1704.02685)."""
    images = asked.images
    references, weights = baseline_images(images, baseline), asked.weights
    with tapped_maps(asked.model, images, layer) as kept:
        outputs, _ = _pairs_through(asked.model, images, references)
    maps = as_maps(_parts(outputs, kept(), weights), images, prefix_tokens=prefix_tokens, grid=grid)
    return enlarged(maps.sum(dim=1), images)


def contributions(model: nn.Module, images: Tensor, references: Tensor, weights: Tensor) -> Tensor:
    """(B, C, ...) what each pixel's difference from its reference adds to the weighted sum of outputs."""
    return _parts(*_pairs_through(model, images, references), weights)


def _pairs_through(model: nn.Module, images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of images and their references together, and what went in."""
    pairs = torch.cat([images, references]).detach().requires_grad_()
    with _Rescaling():
        return model(pairs), pairs


def _parts(outputs: Tensor, of: Tensor, weights: Tensor) -> Tensor:
    """What each difference in `of`, of images to their references, adds to the weighted sum of outputs."""
    score = score_of(outputs.chunk(2)[0], weights)
    (multipliers,) = torch.autograd.grad(score.sum(), of)
    image, reference = of.detach().chunk(2)
    return multipliers.chunk(2)[0] * (image - reference)


class _Rescaling(TorchFunctionMode):
    """Activations and pooling of pairs get the rescale rule; the second half of a batch are references."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _ACTIVATIONS or func in _POOLS:
            x, *rest = args or (given.pop("input"),)
            if isinstance(x, Tensor) and x.requires_grad:
                given.pop("inplace", None)  # a hook's view of what was there before would be overwritten
                if func in _ACTIVATIONS:
                    alike = _ACTIVATIONS[func]
                    return _Rescaled.apply(x, lambda values: alike(values, *rest, **given))
                if not given.pop("return_indices", False):
                    indexed = _POOLS[func]
                    return _Pooled.apply(x, lambda values: indexed(values, *rest, **given))
        return func(*args, **(kwargs or {}))


class _Rescaled(torch.autograd.Function):
    """An activation of pairs whose slope is (f(x) - f(r)) / (x - r)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        y = function(x)
        ctx.function = function
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, y = ctx.saved_tensors
        (image, reference), (above, below) = x.chunk(2), y.chunk(2)
        back = gradient.chunk(2)[0]
        moved = image - reference
        with torch.enable_grad():
            point = image.detach().requires_grad_()
            (plain,) = torch.autograd.grad(ctx.function(point), point, back)
        rescaled = _quotient(back * (above - below), moved, plain)
        return torch.cat([rescaled, torch.zeros_like(rescaled)]), None


class _Pooled(torch.autograd.Function):
    """Max pooling of pairs: what the maximum gains goes to where it is, or was in the reference."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, pool: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        y, places = pool(x)
        ctx.save_for_backward(x, y, places)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, y, places = ctx.saved_tensors
        (image, reference), (above, below) = x.chunk(2), y.chunk(2)
        here, there = (at.flatten(2) for at in places.chunk(2))
        back = gradient.chunk(2)[0]
        highest = torch.maximum(above, below)
        nothing = torch.zeros_like(image).flatten(2)
        shared = nothing.scatter_add(2, here, (back * (highest - below)).flatten(2))
        shared = shared.scatter_add(2, there, (back * (above - highest)).flatten(2)).view_as(image)
        plain = nothing.scatter_add(2, here, back.flatten(2)).view_as(image)
        rescaled = _quotient(shared, image - reference, plain)
        return torch.cat([rescaled, torch.zeros_like(rescaled)]), None


def _quotient(above: Tensor, below: Tensor, otherwise: Tensor) -> Tensor:
    small = below.abs() < _LEAST
    return torch.where(small, otherwise, above / torch.where(small, 1.0, below))


_ACTIVATIONS: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), torch.relu),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid), torch.sigmoid),
    **dict.fromkeys((torch.tanh, Tensor.tanh, Tensor.tanh_, F.tanh), torch.tanh),
    **{
        function: function
        for function in (
            F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.relu6, F.hardtanh, F.hardswish,
            F.hardsigmoid, F.softplus, F.softsign, F.logsigmoid, F.tanhshrink, F.hardshrink, F.softshrink,
            F.threshold,
        )
    },
}  # fmt: skip


def _with_places(pool: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda x, *rest, **options: pool(x, *rest, **options, return_indices=True)


_POOLS: dict[Any, Callable[..., tuple[Tensor, Tensor]]] = {
    function: _with_places(pool)
    for pool, also in (
        (F.max_pool1d, torch.max_pool1d),
        (F.max_pool2d, torch.max_pool2d),
        (F.max_pool3d, torch.max_pool3d),
        (F.adaptive_max_pool1d, F.adaptive_max_pool1d),
        (F.adaptive_max_pool2d, F.adaptive_max_pool2d),
        (F.adaptive_max_pool3d, F.adaptive_max_pool3d),
    )
    for function in (pool, also)
}
