"""Ways to make a classifier smaller, by name, and what they are given and give back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from foveal.compression.masks import Masks
from foveal.models.classifier import Classifier
from foveal.registry import Options, Registry, check_options, first_line, options_of
from foveal.training.labelled_samples import LabelledSamples

Kind = Literal["kept", "bits"]
_TARGET = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>x|%|bits?)", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """How far to go.

    Attributes:
        kind: "kept", the share of operations (or weights, where a method saves no operations) that is left;
            "bits", the mean number of bits a weight and an activation.
        value: of it; a share is above 0 to 1.
        text: as it was given.
    """

    kind: Kind
    value: float
    text: str


@dataclass(frozen=True)
class Material:
    """What a method may look at.

    Attributes:
        samples: training images with labels, not augmented.
        images: (N, C, H, W) in [0, 1], some of them, for calibration.
        seed: of all that is drawn.
    """

    samples: LabelledSamples
    images: Tensor
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a method did; the model itself was changed in place.

    Attributes:
        summary: in a sentence or two, for the model card.
        layers: a row for each layer that it decided on, JSON values.
        masks: weights that must stay 0 while the model is tuned.
        finish: makes what is fast of what could be tuned; called after tuning.
        runtime: "onnx-int8" where the gain is in ONNX Runtime's 8-bit kernels.
        scattered: many weights are 0 here and there, which the file of weights leaves out.
    """

    summary: str
    layers: list[dict[str, Any]] = field(default_factory=list)
    masks: Masks | None = None
    finish: Callable[[Classifier], None] | None = None
    runtime: Literal["torch", "onnx-int8"] = "torch"
    scattered: bool = False


Compressor = Callable[..., Outcome]


@dataclass(frozen=True)
class Method:
    """A registered compressor.

    Attributes:
        name: for `foveal compress`.
        compress: `compress(model, material, target, **options)`; changes the model in place.
        targets: kinds that it takes.
        options: what a user may set.
        summary: first line of its documentation.
    """

    name: str
    compress: Compressor
    targets: tuple[Kind, ...]
    options: Options
    summary: str


_METHODS: Registry[Method] = Registry("compressor", "foveal.compression")


def register_compressor(
    name: str, *targets: Kind, behind: Callable[..., Any] | None = None
) -> Callable[[Compressor], Compressor]:
    """Decorator of a function `compress(model, material, target, *, options)`.

    Args:
        name: for `foveal compress`.
        targets: kinds that it takes.
        behind: the function that it passes its `**options` on to, whose keyword arguments they are.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Compressor) -> Compressor:
        options = options_of(function, *([behind] if behind else []))
        _METHODS.add(name, Method(name, function, targets, options, first_line(function)))
        return function

    return register


def list_compressors() -> list[str]:
    """Names of all compressors, in order."""
    return _METHODS.names()


def find_compressor(name: str) -> Method:
    """A registered compressor.

    Raises:
        ValueError: there is none of that name.
    """
    return _METHODS.find(name)


def compress_model(
    name: str, model: Classifier, material: Material, target: Target, options: Mapping[str, Any]
) -> Outcome:
    """Compress a classifier in place by a method of `list_compressors`.

    Raises:
        ValueError: an unknown method or option, a target that the method does not take or cannot reach, or a
            model that it does not suit.
    """
    method = find_compressor(name)
    check_options(name, method.options, options)
    if target.kind not in method.targets:
        wanted = " or ".join(_EXAMPLES[kind] for kind in method.targets)
        raise ValueError(f"{name} does not take the target {target.text!r}; give {wanted}")
    return method.compress(model, material, target, **options)


def parse_target(text: str) -> Target:
    """A target such as "2x" (half of the operations), "50%" or "6bit".

    Raises:
        ValueError: anything else, or a number out of range.
    """
    match = _TARGET.fullmatch(text.strip())
    complaint = f"target is {text!r}; allowed: such as 2x, 50% or 6bit"
    if match is None:
        raise ValueError(complaint)
    number, unit = float(match["number"]), match["unit"].lower()
    if unit.startswith("bit"):
        if not 2 <= number <= 16:
            raise ValueError(f"{complaint}; bits from 2 to 16")
        return Target("bits", number, text)
    share = number / 100 if unit == "%" else 1 / max(number, 1e-9)
    if not 0 < share <= 1:
        raise ValueError(f"{complaint}; at least 1x, above 0 to 100 %")
    return Target("kept", share, text)


_EXAMPLES: dict[Kind, str] = {"kept": "such as 2x or 50%", "bits": "such as 6bit"}
