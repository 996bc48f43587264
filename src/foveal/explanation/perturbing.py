"""Scores of changed images: every change of every image in batches through the model, one score each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.methods import Question

Reading: TypeAlias = Literal["score", "probability", "decision"]
"""What is read from changed outputs; see `read`."""
Baseline: TypeAlias = Literal["mean", "blur"] | float | Tensor
"""What stands where a pixel is taken away; see `baseline_images`."""
Order: TypeAlias = Literal["most relevant first", "least relevant first"]
Change: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images (n, C, ...), which of the batch they are (n,) and numbers of changes (n,) to (n, C, ...)."""

_BLUR = 5 / 224  # sigma over the shorter side, as in RISE's insertion (arXiv 1806.07421)


@dataclass(frozen=True)
class Perturbations:
    """Small changes I of an image; the changed image is x - I (Yeh et al., arXiv 1901.09392).

    Attributes:
        count: how many for each image.
        make: a `Change` that gives I itself.
    """

    count: int
    make: Change


def read(outputs: Tensor, weights: Tensor, reading: Reading) -> Tensor:
    """(B,) numbers that say how much the outputs are what is asked for.

    Args:
        outputs: (B, K) or (B, K, ...).
        weights: of the question, same shape.
        reading: "score", the sum of outputs times weights; "probability", the same sum of the softmax over
            the K classes (the sigmoid with K = 1); "decision", the same sum of the indicator of the class
            that is said, over the sum of weights: 1 or 0 for a classifier, the share of the region that
            keeps its class for a segmenter.

    Raises:
        ValueError: another reading.
    """
    if reading == "probability":
        outputs = outputs.softmax(dim=1) if outputs.shape[1] > 1 else outputs.sigmoid()
    elif reading == "decision":
        said = (
            torch.zeros_like(outputs).scatter_(1, outputs.argmax(dim=1, keepdim=True), 1)
            if outputs.shape[1] > 1
            else (outputs > 0).to(outputs)
        )
        return (said * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1)
    elif reading != "score":
        raise ValueError(f"reading is {reading!r}; allowed: score, probability, decision")
    return (outputs * weights).flatten(1).sum(dim=1)


@torch.inference_mode()
def changed_readings(
    asked: Question, count: int, change: Change, *, reading: Reading = "score", batch_size: int = 32
) -> Tensor:
    """(B, count) readings of every image after every change.

    Changes are asked for in order, all of the first image before those of the second, so that what is drawn
    does not depend on `batch_size`, the images that go through the model at once.
    """
    _at_least_one("batch_size", batch_size)
    images, weights = asked.images, asked.weights
    found = []
    for flat in torch.arange(len(images) * count, device=images.device).split(batch_size):
        at, number = flat // count, flat % count
        outputs = asked.model(change(images[at], at, number))
        found.append(read(outputs, weights[at], reading))
    return torch.cat(found).view(len(images), count) if found else images.new_zeros(len(images), count)


def unchanged_readings(asked: Question, reading: Reading = "score") -> Tensor:
    """(B,) readings of the images as they are."""
    return read(asked.outputs, asked.weights, reading).detach()


def relevance_ranks(relevance: Tensor, order: Order = "most relevant first") -> Tensor:
    """Place of every pixel in the order of relevance, from 0; equal pixels go by their index.

    Args:
        relevance: (B, ...).
        order: which come first.

    Returns:
        Same shape, each image a permutation of 0 to N - 1, int64.

    Raises:
        ValueError: relevance that is not finite, or another order.
    """
    if order not in ("most relevant first", "least relevant first"):
        raise ValueError(f"order is {order!r}; allowed: most relevant first, least relevant first")
    if not bool(torch.isfinite(relevance).all()):
        raise ValueError("the relevance holds NaN or infinity; such pixels have no place in an order")
    flat = relevance.flatten(1)
    sorted_to_flat = flat.argsort(dim=1, descending=order == "most relevant first", stable=True)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    return torch.empty_like(sorted_to_flat).scatter_(1, sorted_to_flat, places).view_as(relevance)


def pixels_of(relevance: Tensor, images: Tensor) -> Tensor:
    """Relevance of pixels (B, ...), summed over channels where each has its own.

    Raises:
        ValueError: relevance that is on another grid than the images.
    """
    pixels = relevance.sum(dim=1) if relevance.ndim == images.ndim else relevance
    if pixels.shape != (len(images), *images.shape[2:]) or (
        relevance.ndim == images.ndim and relevance.shape[1] not in (1, images.shape[1])
    ):
        raise ValueError(
            f"relevance of shape {tuple(relevance.shape)} for images of {tuple(images.shape)}; allowed: one "
            "value a pixel, or one a channel and pixel"
        )
    return pixels.detach().to(images.device)


def baseline_images(images: Tensor, baseline: Baseline) -> Tensor:
    """Images that say nothing, to take pixels from.

    Args:
        images: (B, C, ...).
        baseline: "mean", each image's mean by channel; "blur", the image blurred by a Gaussian of 1/45 of the
            shorter side; a number; or a tensor that broadcasts to the images, such as (C, 1, 1).

    Raises:
        ValueError: another name.
    """
    if isinstance(baseline, Tensor):
        return baseline.to(images).expand_as(images)
    if baseline == "mean":
        return images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images)
    if baseline == "blur":
        return blurred(images, max(1.0, _BLUR * min(images.shape[2:])))
    if isinstance(baseline, str):
        raise ValueError(f"baseline is {baseline!r}; allowed: mean, blur, a number or a tensor")
    return torch.full_like(images, float(baseline))


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images (B, C, ...) of any dimension, blurred by a Gaussian of `sigma` pixels, reflected at edges."""
    for axis in range(2, images.ndim):
        side = images.shape[axis]
        reach = min(math.ceil(3 * sigma), side - 1)
        places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        kernel = torch.exp(-places.square() / (2 * sigma**2))
        rows = images.movedim(axis, -1)
        padded = F.pad(rows.reshape(-1, 1, side), (reach, reach), mode="reflect")
        images = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).view_as(rows).movedim(-1, axis)
    return images


def gaussian(std: float = 0.02, *, samples: int = 10, seed: int = 0) -> Perturbations:
    """I drawn from N(0, std^2) for each value, in units of the images.

    In single precision a `std` far below 0.01 of the images' range measures rounding: TorchEsegeta's 0.0001
    wants a model and images in double precision.
    """
    return _drawn(
        lambda x, source: std * torch.randn(x.shape, generator=source, dtype=x.dtype), samples, seed
    )


def uniform(radius: float = 0.02, *, samples: int = 10, seed: int = 0) -> Perturbations:
    """I drawn evenly from [-radius, radius] for each value, in units of the images."""
    return _drawn(
        lambda x, source: radius * (2 * torch.rand(x.shape, generator=source, dtype=x.dtype) - 1),
        samples,
        seed,
    )


def given(values: Tensor) -> Perturbations:
    """I as they are told: (B, S, C, ...), or (1, S, C, ...) for all images."""

    def make(_images: Tensor, at: Tensor, number: Tensor) -> Tensor:
        return values[at if len(values) > 1 else torch.zeros_like(at), number]

    return Perturbations(values.shape[1], make)


def removed_boxes(images: Tensor, size: int, *, baseline: Baseline = "mean") -> Perturbations:
    """I that take away one box of `size` pixels a side after the other: I = x - baseline there, else 0.

    Boxes stand side by side and cover the image, the first axis slowest; the last ones are cut at its edge.

    Raises:
        ValueError: a size below 1 or above the shortest side.
    """
    sides = images.shape[2:]
    if not 1 <= size <= min(sides):
        raise ValueError(f"boxes of size {size} in images of {tuple(sides)}; allowed: 1 to {min(sides)}")
    starts = [torch.arange(0, side, size) for side in sides]
    corners = torch.cartesian_prod(*starts).to(images.device)
    held = baseline_images(images, baseline)

    def make(x: Tensor, at: Tensor, number: Tensor) -> Tensor:
        inside = torch.ones_like(x[:, :1], dtype=torch.bool)
        for axis, side in enumerate(sides):
            view = (len(x), 1, *(side if a == axis else 1 for a in range(len(sides))))
            from_start = torch.arange(side, device=x.device) - corners[number, axis, None]
            inside = inside & ((from_start >= 0) & (from_start < size)).view(view)
        return torch.where(inside, x - held[at], torch.zeros_like(x))

    return Perturbations(len(corners), make)


def generator_of(*numbers: int) -> torch.Generator:
    """A generator for numbers such as a seed, an image and a sample, on which alone depends what it draws."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _drawn(draw: Callable[[Tensor, torch.Generator], Tensor], samples: int, seed: int) -> Perturbations:
    """Perturbations that are drawn image by image, so that batches of any size hold the same."""
    _at_least_one("samples", samples)

    def make(images: Tensor, at: Tensor, number: Tensor) -> Tensor:
        pairs = zip(at.tolist(), number.tolist(), strict=True)
        drawn = [draw(images[0], generator_of(seed, a, n)) for a, n in pairs]
        return torch.stack(drawn).to(images)

    return Perturbations(samples, make)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; at least 1 is wanted")
