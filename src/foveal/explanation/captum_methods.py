"""Captum's attributions of pixels, asked about the weighted sum of a model's outputs (TorchEsegeta).

Captum is given a function from images and weights to one score an image; the weights travel with the images
through its copies, so that classifiers and segmenters, of images and of volumes, are all explained alike
(arXiv 2110.08429).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveal.explanation.methods import Question, register_method
from foveal.explanation.perturbing import Baseline, baseline_images
from foveal.explanation.superpixels import superpixels
from foveal.explanation.targets import score_of
from foveal.training.randomness import seed_everything, without_touching_randomness


class Scored(nn.Module):
    """(images, weights) to (B,) scores: what Captum differentiates and perturbs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of the model's outputs."""
        return score_of(self.model(images), weights)


@contextmanager
def out_of_place(model: nn.Module) -> Iterator[None]:
    """Let no activation overwrite its input, which hooks of modules cannot bear."""
    changed: list[Any] = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    for module in changed:
        module.inplace = False
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw by a seed from the global generators, and give them back as they were."""
    with without_touching_randomness():
        seed_everything(seed)
        yield


def noise_like(images: Tensor, count: int, *, seed: int) -> Tensor:
    """(count, C, ...) images of independent pixels with the mean and the deviation of each channel."""
    generator = torch.Generator().manual_seed(seed)
    over = (0, *range(2, images.ndim))
    mean, deviation = (x.cpu() for x in (images.mean(over, keepdim=True), images.std(over, keepdim=True)))
    drawn = torch.randn(count, *images.shape[1:], generator=generator, dtype=mean.dtype)
    return (mean + deviation * drawn).to(images)


@register_method("saliency", "gradient", signed=False)
def saliency(asked: Question) -> Tensor:
    """Gradient of the score at each pixel (Simonyan et al., arXiv 1312.6034)."""
    from captum.attr import Saliency

    return Saliency(asked.first_score).attribute(_leaf(asked.images), abs=False)


@register_method("input-x-gradient", "gradient")
def input_x_gradient(asked: Question) -> Tensor:
    """Pixels times the gradient of the score (Shrikumar et al., arXiv 1605.01713)."""
    from captum.attr import InputXGradient

    return InputXGradient(asked.first_score).attribute(_leaf(asked.images))


@register_method("integrated-gradients", "gradient")
def integrated_gradients(
    asked: Question, *, baseline: Baseline = 0.0, steps: int = 64, batch_size: int = 16
) -> Tensor:
    """Gradients summed along the line from a baseline: adds up to the score gained (arXiv 1703.01365)."""
    from captum.attr import IntegratedGradients

    return IntegratedGradients(Scored(asked.model)).attribute(
        _leaf(asked.images),
        baseline_images(asked.images, baseline),
        additional_forward_args=(asked.weights,),
        n_steps=steps,
        internal_batch_size=max(batch_size, len(asked.images)),
    )


@register_method("gradient-shap", "gradient")
def gradient_shap(
    asked: Question,
    *,
    baselines: Tensor | None = None,
    backgrounds: int = 8,
    samples: int = 16,
    noise: float = 0.05,
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Gradients at random points between noisy images and random baselines (GradientSHAP, NeurIPS 2017).

    `baselines` (N, C, ...) are drawn from; without them `backgrounds` images of noise with the images' mean
    and deviation. `noise` is the deviation of what is added, as a share of the images' range.
    """
    from captum.attr import GradientShap

    images = asked.images
    drawn = noise_like(images, backgrounds, seed=seed) if baselines is None else baselines.to(images)
    deviation = noise * float(images.max() - images.min())
    chunk = max(1, batch_size // len(images))
    total = torch.zeros_like(images)
    with seeded(seed):
        for start in range(0, samples, chunk):
            count = min(chunk, samples - start)
            total += count * GradientShap(Scored(asked.model)).attribute(
                _leaf(images),
                drawn,
                n_samples=count,
                stdevs=deviation,
                additional_forward_args=(asked.weights,),
            )
    return total / samples


@register_method("occlusion", "perturbation")
def occlusion(
    asked: Question,
    *,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    baseline: Baseline = 0.0,
    batch_size: int = 16,
) -> Tensor:
    """How much the score falls where a window covers the image (Zeiler and Fergus, arXiv 1311.2901).

    `window` is its sides in pixels, an eighth of each side of an image or a quarter of a volume's where none
    is given; `stride` how far it moves, half of the window.
    """
    from captum.attr import Occlusion

    images = asked.images
    sides = images.shape[2:]
    parts = 8 if len(sides) == 2 else 4
    shape = _sides(window, [math.ceil(side / parts) for side in sides])
    step = _sides(stride, [max(1, side // 2) for side in shape])
    channels = images.shape[1]
    found = Occlusion(Scored(asked.model)).attribute(
        images,
        sliding_window_shapes=(channels, *shape),
        strides=(channels, *step),
        baselines=baseline_images(images, baseline),
        additional_forward_args=(asked.weights,),
        perturbations_per_eval=max(1, batch_size // len(images)),
    )
    return found[:, 0]


@register_method("feature-ablation", "perturbation")
def feature_ablation(
    asked: Question, *, segments: int = 64, baseline: Baseline = "mean", batch_size: int = 16
) -> Tensor:
    """How much the score falls without each superpixel; every pixel has the value of its superpixel."""
    from captum.attr import FeatureAblation

    return _by_segments(asked, FeatureAblation(Scored(asked.model)), segments, baseline, batch_size)


@register_method("shapley-sampling", "perturbation")
def shapley_sampling(
    asked: Question,
    *,
    segments: int = 32,
    samples: int = 8,
    baseline: Baseline = "mean",
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Shapley values of superpixels from random orders (Strumbelj and Kononenko, JMLR 2010).

    The values of all superpixels add up to the score gained over the baseline.
    """
    from captum.attr import ShapleyValueSampling

    explainer = ShapleyValueSampling(Scored(asked.model))
    with seeded(seed):
        return _by_segments(asked, explainer, segments, baseline, batch_size, n_samples=samples)


@register_method("kernel-shap", "perturbation")
def kernel_shap(
    asked: Question,
    *,
    segments: int = 32,
    samples: int = 128,
    baseline: Baseline = "mean",
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Shapley values of superpixels by one weighted regression (Lundberg and Lee, NeurIPS 2017)."""
    from captum.attr import KernelShap

    explainer = KernelShap(Scored(asked.model))
    with seeded(seed):
        return _by_segments(asked, explainer, segments, baseline, batch_size, n_samples=samples)


@register_method("lime", "perturbation")
def lime(
    asked: Question,
    *,
    segments: int = 32,
    samples: int = 128,
    baseline: Baseline = "mean",
    ridge: float = 1.0,
    batch_size: int = 16,
    seed: int = 0,
) -> Tensor:
    """Weights of superpixels in a linear model of the score near the image (LIME, arXiv 1602.04938).

    Volumes are cut into supervoxels, not into slices. The linear model is a ridge regression, which does not
    depend on the scale of the score.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    explainer = Lime(Scored(asked.model), interpretable_model=SkLearnRidge(alpha=ridge))
    with seeded(seed):
        return _by_segments(asked, explainer, segments, baseline, batch_size, n_samples=samples)


def _by_segments(
    asked: Question, explainer: Any, segments: int, baseline: Baseline, batch_size: int, **options: Any
) -> Tensor:
    """(B, ...) values of superpixels, image by image since each has its own."""
    found = []
    references = baseline_images(asked.images, baseline)
    for image, weights, reference in zip(
        asked.images.split(1), asked.weights.split(1), references.split(1), strict=True
    ):
        labels = superpixels(image[0], segments=segments)
        with torch.no_grad():
            values = explainer.attribute(
                image,
                baselines=reference,
                feature_mask=labels.expand_as(image).contiguous(),  # Captum lays it out as one row
                additional_forward_args=(weights,),
                perturbations_per_eval=batch_size,
                **options,
            )
        found.append(values[:, 0])
    return torch.cat(found)


def _leaf(images: Tensor) -> Tensor:
    """A copy that wants a gradient, about which Captum would otherwise warn."""
    return images.detach().clone().requires_grad_()


def _sides(given: int | Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
    if given is None:
        return tuple(default)
    sides = (given,) * len(default) if isinstance(given, int) else tuple(given)
    if len(sides) != len(default) or min(sides) < 1:
        raise ValueError(f"{given} are no {len(default)} sides in pixels, each at least 1")
    return sides
