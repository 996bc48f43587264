"""Gradients with other rules at rectifiers, of layers' channels, and averaged over noisy copies.

Rectifiers are met where torch is called, so that functions, modules used twice and those that work in place
all count; on networks whose rectifiers are modules of their own the maps equal Captum's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foveal.explanation.cam import grad_cam
from foveal.explanation.methods import Question, find_method, register_method
from foveal.explanation.taps import tapped

_RECTIFIERS = frozenset((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_))


class _Rectified(torch.autograd.Function):
    """ReLU that lets gradients above 0 back only; `guided`, where its input is above 0 as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, guided: bool) -> Tensor:  # type: ignore[override]
        y = x.relu()
        ctx.guided = guided
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        up = gradient.relu()
        return (up * (y > 0) if ctx.guided else up), None


class _Rectifying(TorchFunctionMode):
    def __init__(self, *, guided: bool) -> None:
        super().__init__()
        self.guided, self.met = guided, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _RECTIFIERS:
            x = args[0] if args else (kwargs or {})["input"]
            if x.requires_grad:
                self.met += 1
                return _Rectified.apply(x, self.guided)
        return func(*args, **(kwargs or {}))


@register_method("guided-backprop", "gradient", signed=False)
def guided_backprop(asked: Question) -> Tensor:
    """Gradient that rectifiers let back only where it and their input are above 0 (arXiv 1412.6806)."""
    return _rectified_gradient(asked, guided=True)


@register_method("deconvolution", "gradient", signed=False)
def deconvolution(asked: Question) -> Tensor:
    """Gradient that rectifiers let back only where it is above 0 (Zeiler and Fergus, arXiv 1311.2901)."""
    return _rectified_gradient(asked, guided=False)


@register_method("guided-grad-cam", "gradient", signed=False)
def guided_grad_cam(
    asked: Question,
    *,
    layer: str | None = None,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Guided backpropagation times Grad-CAM of a layer (Selvaraju et al., arXiv 1610.02391)."""
    coarse = grad_cam(asked, layer=layer, prefix_tokens=prefix_tokens, grid=grid)
    return guided_backprop(asked) * coarse.unsqueeze(1)


@register_method("layer-guided-backprop", "gradient", signed=False)
def layer_guided_backprop(asked: Question, *, layer: str, channel: int | None = None) -> Tensor:
    """Guided gradient of what a layer gives out, or one of its channels: what it responds to in the image.

    The class that is asked about does not matter.
    """
    images = asked.images.detach().clone().requires_grad_()
    with tapped(asked.model, [layer]) as kept, _Rectifying(guided=True):
        asked.model(images)
    output = kept[layer]
    if channel is not None:
        channels = output.shape[1] if output.ndim == images.ndim else output.shape[-1]
        if not 0 <= channel < channels:
            raise ValueError(f"channel {channel} of layer {layer!r}; allowed: 0 to {channels - 1}")
        output = output[:, channel] if output.ndim == images.ndim else output[..., channel]
    return torch.autograd.grad(output.sum(), images)[0]


@register_method("smoothgrad", "gradient", signed=False)
def smoothgrad(
    asked: Question,
    *,
    over: str = "saliency",
    options: Mapping[str, Any] | None = None,
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Mean of another method's maps over noisy copies of the images (arXiv 1706.03825).

    `over` is any method, with its `options`; `noise` the deviation as a share of each image's range.
    """
    return _noisy_moments(asked, over, options, samples, noise, seed)[0]


@register_method("smoothgrad-squared", "gradient", signed=False)
def smoothgrad_squared(
    asked: Question,
    *,
    over: str = "saliency",
    options: Mapping[str, Any] | None = None,
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Mean square of another method's maps over noisy copies of the images (arXiv 1806.10758)."""
    return _noisy_moments(asked, over, options, samples, noise, seed)[1]


@register_method("vargrad", "gradient", signed=False)
def vargrad(
    asked: Question,
    *,
    over: str = "saliency",
    options: Mapping[str, Any] | None = None,
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """Variance of another method's maps over noisy copies of the images (arXiv 1810.03307)."""
    mean, square = _noisy_moments(asked, over, options, samples, noise, seed)
    return (square - mean.square()).clamp_min(0)


def _noisy_moments(
    asked: Question, over: str, options: Mapping[str, Any] | None, samples: int, noise: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean and mean square of a method's maps, one noisy copy after the other; the weights stay fixed."""
    if samples < 1 or noise < 0:
        raise ValueError(f"samples is {samples}, noise {noise}; allowed: 1 or more, 0 or more")
    answer = find_method(over).with_options(**(options or {}))
    images = asked.images
    generator = torch.Generator().manual_seed(seed)
    flat = images.flatten(1)
    span = (flat.amax(1) - flat.amin(1)).cpu().view(-1, *[1] * (images.ndim - 1))
    deviation = (noise * span).expand_as(images).to(images.dtype)
    mean: Tensor | None = None
    square: Tensor | None = None
    for _ in range(samples):
        drawn = torch.normal(0.0, deviation, generator=generator).to(images)
        found = answer(asked.about(images=images + drawn)).detach()
        mean = found / samples if mean is None else mean + found / samples
        square = found.square() / samples if square is None else square + found.square() / samples
    assert mean is not None
    assert square is not None
    return mean, square


def _rectified_gradient(asked: Question, *, guided: bool) -> Tensor:
    images = asked.images.detach().clone().requires_grad_()
    with _Rectifying(guided=guided) as mode:
        score = asked.first_score(images)
    if not mode.met:
        warnings.warn(
            f"{type(asked.model).__name__} has no ReLU, where alone this method differs from saliency",
            stacklevel=3,
        )
    return torch.autograd.grad(score.sum(), images)[0]
