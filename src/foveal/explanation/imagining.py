"""Images that a model would like to see: activation maximisation, DeepDream and inversion, in any dimensions.

No attributions: each gives an image back (Simonyan et al., arXiv 1312.6034; Mordvintsev et al., 2015;
Mahendran and Vedaldi, arXiv 1412.0035).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.explanation.methods import frozen
from foveal.explanation.taps import tapped
from foveal.explanation.targets import Target, score_of, weights_of


def maximise_class(
    model: nn.Module,
    target: Target,
    shape: Sequence[int],
    *,
    steps: int = 128,
    learning_rate: float = 0.05,
    roughness: float = 0.01,
    energy: float = 1e-3,
    jitter: int = 4,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """An image of a class: from noise, uphill on its score.

    Args:
        model: in evaluation mode.
        target: as for `explain`; a class of a segmenter is maximised with `region(class, "everywhere")`.
        shape: of the images, (B, C, H, W) or (B, C, T, H, W).
        steps: of Adam.
        learning_rate: in units of (high - low).
        roughness: weight of the mean absolute difference between neighbours.
        energy: weight of the mean square distance from the middle of the range.
        jitter: pixels by which the image is rolled at random before each step, so that no fine pattern that
            depends on its exact place pays.
        low: least value of a pixel.
        high: greatest value.
        seed: of the noise and the jitter.

    Returns:
        Images of `shape` in [low, high].
    """

    def objective(images: Tensor) -> Tensor:
        outputs = model(images)
        return score_of(outputs, weights_of(outputs, target)).sum()

    middle, span = (low + high) / 2, high - low
    generator = torch.Generator().manual_seed(seed)
    start = middle + 0.1 * span * torch.randn(tuple(shape), generator=generator)
    return _climb(
        model, start, objective, steps, learning_rate, roughness, energy, jitter, (low, high), generator
    )


def maximise_channel(
    model: nn.Module,
    layer: str,
    channel: int,
    shape: Sequence[int],
    *,
    steps: int = 128,
    learning_rate: float = 0.05,
    roughness: float = 0.01,
    energy: float = 1e-3,
    jitter: int = 4,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """An image to which one channel of a named layer responds most; arguments as of `maximise_class`."""

    def objective(images: Tensor) -> Tensor:
        with tapped(model, [layer]) as kept:
            model(images)
        output = kept[layer]
        channels = output.shape[1] if output.ndim == images.ndim else output.shape[-1]
        if not 0 <= channel < channels:
            raise ValueError(f"channel {channel} of layer {layer!r}; allowed: 0 to {channels - 1}")
        return (output[:, channel] if output.ndim == images.ndim else output[..., channel]).mean()

    middle, span = (low + high) / 2, high - low
    generator = torch.Generator().manual_seed(seed)
    start = middle + 0.1 * span * torch.randn(tuple(shape), generator=generator)
    return _climb(
        model, start, objective, steps, learning_rate, roughness, energy, jitter, (low, high), generator
    )


def deep_dream(
    model: nn.Module,
    images: Tensor,
    layer: str,
    *,
    octaves: int = 3,
    octave_scale: float = 1.4,
    steps: int = 10,
    step_size: float = 0.02,
    jitter: int = 4,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Images in which what a layer saw is exaggerated, from coarse to fine.

    Args:
        model: in evaluation mode; takes images of any size.
        images: (B, C, H, W) or (B, C, T, H, W).
        layer: whose mean square output is raised.
        octaves: sizes, the last that of the images.
        octave_scale: between sizes.
        steps: of gradient ascent at each size.
        step_size: by which the normalised gradient moves a pixel on the mean, in units of (high - low).
        jitter: pixels of random rolls.
        low: least value of a pixel.
        high: greatest value.
        seed: of the rolls.
    """
    generator = torch.Generator().manual_seed(seed)
    sides = images.shape[2:]
    mode = "bilinear" if len(sides) == 2 else "trilinear"
    axes = tuple(range(2, images.ndim))
    detail = torch.zeros_like(images)
    with frozen(model):
        for octave in reversed(range(octaves)):
            size = [max(8, round(side / octave_scale**octave)) for side in sides]
            base = F.interpolate(images, size=size, mode=mode, align_corners=False)
            dream = base + F.interpolate(detail, size=size, mode=mode, align_corners=False)
            for _ in range(steps):
                shifts = _shifts(jitter, len(axes), generator)
                moved = dream.roll(shifts, axes).detach().requires_grad_()
                with tapped(model, [layer]) as kept:
                    model(moved)
                (gradient,) = torch.autograd.grad(kept[layer].square().mean(), moved)
                scale = gradient.abs().flatten(1).mean(1).view(-1, *[1] * (images.ndim - 1)).clamp_min(1e-12)
                moved = (moved + step_size * (high - low) * gradient / scale).clamp(low, high)
                dream = moved.detach().roll([-shift for shift in shifts], axes)
            detail = dream - base
    return dream.detach()


def invert_representation(
    model: nn.Module,
    images: Tensor,
    layer: str,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    roughness: float = 0.01,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Images, from noise, of which a layer gives out what it gives out for `images`: what it still knows."""
    with torch.no_grad(), tapped(model, [layer]) as kept:
        model(images)
    wanted = kept[layer].detach().clone()
    size = wanted.square().mean().clamp_min(1e-12)

    def objective(candidates: Tensor) -> Tensor:
        with tapped(model, [layer]) as found:
            model(candidates)
        return -(found[layer] - wanted).square().mean() / size

    generator = torch.Generator().manual_seed(seed)
    start = (low + high) / 2 + 0.1 * (high - low) * torch.randn(tuple(images.shape), generator=generator)
    return _climb(
        model, start.to(images), objective, steps, learning_rate, roughness, 0.0, 0, (low, high), generator
    )


def _climb(
    model: nn.Module,
    start: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    learning_rate: float,
    roughness: float,
    energy: float,
    jitter: int,
    bounds: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Adam uphill on an objective less roughness and energy, within bounds."""
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call .eval() first")
    low, high = bounds
    axes = tuple(range(2, start.ndim))
    parameter = next(model.parameters(), start)
    with frozen(model):
        images = start.to(parameter.device).clamp(low, high).requires_grad_()
        optimiser = torch.optim.Adam([images], lr=learning_rate * (high - low))
        for _ in range(steps):
            seen = images.roll(_shifts(jitter, len(axes), generator), axes) if jitter else images
            rough = sum((seen.diff(dim=axis).abs().mean() for axis in axes), start=torch.zeros(()))
            centred = (seen - (low + high) / 2).square().mean()
            loss = -objective(seen) + (roughness * rough + energy * centred) / (high - low)
            (images.grad,) = torch.autograd.grad(loss, images)
            optimiser.step()
            with torch.no_grad():
                images.clamp_(low, high)
    return images.detach()


def _shifts(jitter: int, count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(-jitter, jitter + 1, (count,), generator=generator).tolist()
