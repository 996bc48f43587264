"""One call for every explainer: `explain(model, images, target, method=...)`.

A method is a function from a `Question` to relevance on the input grid, registered by name. It may give a
value for each channel, (B, C, ...), as gradients do, or one for each place, (B, ...), as maps of layers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.explanation.targets import Target, Weights, score_of, weights_of
from foveal.registry import Registry, check_options, first_line, options_of

Family = Literal["layer map", "gradient", "perturbation", "propagation", "attention", "trained"]
Attribution = Callable[..., Tensor]


@dataclass(frozen=True)
class Question:
    """What a method is asked: why a model scores images as it does.

    Attributes:
        model: in evaluation mode, images to outputs (B, K) or (B, K, ...).
        images: (B, C, H, W) or (B, C, T, H, W), float.
        weigh: the weights of the outputs, or a function from the outputs of the unchanged images to them.
        known: outputs of the model for these images, where they are known; see `outputs`.
    """

    model: nn.Module
    images: Tensor
    weigh: Weights | Tensor
    known: Tensor | None = None

    @cached_property
    def outputs(self) -> Tensor:
        """Of the model for these images, (B, K) or (B, K, ...), without gradient; one pass if unknown."""
        if self.known is not None:
            return self.known
        with torch.inference_mode(False), torch.no_grad():
            return self.model(self.images)

    @cached_property
    def weights(self) -> Tensor:
        """Of the outputs, fixed; the score is the weighted sum. One pass if the outputs are not known."""
        return self.weigh if isinstance(self.weigh, Tensor) else self.weights_for(self.outputs)

    def weights_for(self, outputs: Tensor) -> Tensor:
        """The weights, for outputs of the unchanged images from a pass that a method makes anyway.

        While layers are tapped this is the way to them: `weights` may have to make a pass of its own.
        """
        if self.known is None and "outputs" not in self.__dict__:
            self.__dict__["outputs"] = outputs.detach()
        if isinstance(self.weigh, Tensor):
            return self.weigh
        if "weights" not in self.__dict__:
            with torch.inference_mode(False), torch.no_grad():
                self.__dict__["weights"] = self.weigh(self.outputs)
        return self.weights

    def first_score(self, images: Tensor) -> Tensor:
        """(B,) scores of the question's own images, in a form of which a method wants gradients.

        The pass tells the outputs and the weights too, which then need none of their own.
        """
        outputs = self.model(images)
        return score_of(outputs, self.weights_for(outputs))

    def score(self, images: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B,) scores of changed images, by the question's weights or others (B, ...)."""
        return score_of(self.model(images), self.weights if weights is None else weights)

    def about(self, *, model: nn.Module | None = None, images: Tensor | None = None) -> Question:
        """The same question of another model or other images: the weights are those of this one."""
        return Question(
            self.model if model is None else model, self.images if images is None else images, self.weights
        )


@dataclass(frozen=True)
class Method:
    """A registered explainer.

    Attributes:
        name: for `explain`.
        family: how it goes about it.
        attribute: from a `Question` and options to (B, C, ...) or (B, ...).
        signed: values below 0 speak against the score; else only the size means something.
        summary: its first line of documentation.
    """

    name: str
    family: Family
    attribute: Attribution
    signed: bool
    summary: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its keyword options."""
        return tuple(options_of(self.attribute))

    def with_options(self, **options: Any) -> Callable[[Question], Tensor]:
        """The function from a question to relevance, with options of its own.

        Raises:
            ValueError: an option that it does not have, or one missing that it needs.
        """
        check_options(self.name, options_of(self.attribute), options)
        return partial(self.attribute, **options)


_METHODS: Registry[Method] = Registry("method", "foveal.explanation")


def register_method(
    name: str, family: Family, *, signed: bool = True
) -> Callable[[Attribution], Attribution]:
    """Decorator of a function that answers a `Question`; its keyword-only arguments are the options."""

    def register(function: Attribution) -> Attribution:
        _METHODS.add(name, Method(name, family, function, signed, first_line(function)))
        return function

    return register


def list_methods() -> list[str]:
    """Names of all explainers, in order."""
    return _METHODS.names()


def find_method(name: str) -> Method:
    """A registered explainer.

    Raises:
        ValueError: there is none of that name.
    """
    return _METHODS.find(name)


def explain(
    model: nn.Module, images: Tensor, target: Target = None, *, method: str = "cam", **options: Any
) -> Tensor:
    """Relevance of each pixel for what a model says of images.

    Args:
        model: a `Classifier`, a `Segmenter`, or any module from images to (B, K) or (B, K, ...), in
            evaluation mode.
        images: (B, C, H, W), or (B, C, T, H, W) of models of volumes, as the model takes them.
        target: a class index or (B,) of them; None is the class that each image is said to be; or a
            function from the outputs to weights, such as `targets.region(2, mask)`.
        method: see `list_methods`.
        **options: of the method.

    Returns:
        (B, H, W) or (B, T, H, W) on the input grid, float32, not normalised: summed over channels where the
        method is signed, else the largest size of any channel.

    Raises:
        ValueError: an unknown method, target or option, images that are not finite, a model in training mode.
    """
    chosen = find_method(method)
    relevance = attribute(model, images, target, method=method, **options)
    if relevance.ndim == images.ndim:
        return relevance.sum(dim=1) if chosen.signed else relevance.abs().amax(dim=1)
    return relevance


def attribute(
    model: nn.Module, images: Tensor, target: Target = None, *, method: str, **options: Any
) -> Tensor:
    """Like `explain`, but (B, C, ...) for each channel where the method tells channels apart."""
    answer = find_method(method).with_options(**options)
    with frozen(model):
        relevance = answer(ask(model, images, target))
    return relevance.detach().float()


def ask(model: nn.Module, images: Tensor, target: Target = None) -> Question:
    """Check a model and its images; a wrong target is an error of the first pass.

    Raises:
        ValueError: see `explain`.
    """
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call .eval() first")
    if images.ndim not in (4, 5) or not images.is_floating_point():
        raise ValueError(
            f"images of shape {tuple(images.shape)} and type {images.dtype}; allowed: float (B, C, H, W) or "
            "(B, C, T, H, W)"
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images hold NaN or infinity")
    return Question(model, images, partial(weights_of, target=target, model=model))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let gradients flow to images only: no gradient of a weight is computed or kept."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
