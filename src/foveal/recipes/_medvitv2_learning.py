"""What MedViTV2's parts learn beside plain ones, and what AugMix saves on corrupted images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from torch import nn
from torchvision.transforms import v2

from foveal.encoders.base import create_encoder
from foveal.evaluation.robustness import robustness_report
from foveal.recipes._encoder_learning import Learned, LearningData, accuracy, digits, learn, train_and_score
from foveal.recipes._medvitv2_evidence import SMALL
from foveal.recipes.base import Finding

SEEDS = range(3)
_STEPS = {32: 100, 64: 60}
"""Of training, by the side of the images."""
_BATCH = {32: 32, 64: 16}


def digits_at_32() -> LearningData:
    """Digits, enlarged."""
    return digits(32)


@cache
def oct_like_bands(count: int = 400, seed: int = 0) -> LearningData:
    """Grey 64 x 64 sections of a layered tissue of four classes: even, with cysts, with drusen, with scars.

    Bands of random depth, tilt, thickness and brightness under speckle. Class 1 has dark round cysts in the
    upper band, class 2 bumps that lift the lowest band, class 3 a bright clot that breaks it.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(2 * count) % 4
    images = np.stack([_bands(int(label), random) for label in labels])[:, None].astype(np.float32)
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    return LearningData(pixels[:count], classes[:count], pixels[count:], classes[count:])


def _bands(label: int, random: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:64, :64].astype(float)
    top = random.uniform(14, 22) + random.uniform(-0.1, 0.1) * (columns - 32)
    top = top + random.uniform(1, 3) * np.cos((columns - random.uniform(20, 44)) / 12)
    floor = top + random.uniform(18, 24)
    lift = np.zeros(64)
    if label == 2:
        for _ in range(random.integers(2, 5)):
            spot, width = random.uniform(6, 58), random.uniform(2, 4)
            lift += random.uniform(3, 6) * np.exp(-(((np.arange(64) - spot) / width) ** 2))
    floor = floor - lift
    image = 0.05 + 0.35 * ((rows > top) & (rows < floor))
    image += random.uniform(0.15, 0.3) * (np.abs(rows - top - 3) < 2.5)
    image += random.uniform(0.35, 0.5) * (np.abs(rows - floor) < 2)
    image += 0.2 * (rows > floor + 2) * np.exp(-(rows - floor) / 10)
    middle = random.uniform(14, 50)
    if label == 1:
        for _ in range(random.integers(2, 5)):
            at, radius = (
                (float(top.mean()) + random.uniform(7, 14), random.uniform(6, 58)),
                random.uniform(2, 4),
            )
            image = np.where(np.hypot(rows - at[0], columns - at[1]) < radius, 0.05, image)
    if label == 3:
        gone = np.exp(-(((columns - middle) / 7) ** 2)) * np.exp(-(((rows - floor) / 5) ** 2))
        image = image * (1 - gone) + 0.55 * gone
    image = gaussian_filter(image, 0.7) * (1 + 0.35 * random.standard_normal(image.shape))
    return np.clip(image, 0, 1)


def _make(**changes: Any) -> nn.Module:
    return create_encoder("medvit-v2", in_channels=1, **SMALL, **changes)


@cache
def _learned(make_data: Callable[[], LearningData], seed: int, **changes: Any) -> Learned:
    data = make_data()
    side = data.images.shape[-1]
    return learn(partial(_make, **changes), data, steps=_STEPS[side], batch_size=_BATCH[side], seed=seed)


def _scores(make_data: Callable[[], LearningData], **changes: Any) -> list[float]:
    """Accuracy of each seed."""
    learned = [_learned(make_data, seed, **changes) for seed in SEEDS]
    return [accuracy(each.probabilities, each.labels) for each in learned]


def feed_forwards_and_mixers(make_data: Callable[[], LearningData], name: str) -> Iterator[Finding]:
    """KAN beside an MLP of as many weights, and neighbourhood attention beside a 3x3 convolution."""
    whole = _scores(make_data)
    others = {
        "KAN minus an MLP of as many weights": _scores(make_data, feed_forward="mlp"),
        "neighbourhood attention minus a 3x3 convolution": _scores(make_data, local_mixer="convolution"),
    }
    for claim, scores in others.items():
        gains = [one - other for one, other in zip(whole, scores, strict=True)]
        low, high = stats.t.interval(0.95, len(gains) - 1, np.mean(gains), max(stats.sem(gains), 1e-12))
        told = f"{np.mean(whole):.3f} and {np.mean(scores):.3f}; 95% interval {low:.3f} to {high:.3f}"
        yield Finding.at_least(f"{name}: accuracy, {claim} ({told})", gains, 0.0)


def beside_resnet() -> Finding:
    """The small whole model beside timm's ResNet-18, trained alike on digits."""
    data = digits_at_32()
    resnet = [
        train_and_score(
            lambda: create_encoder("timm/resnet18", in_channels=1),
            data,
            steps=_STEPS[32],
            batch_size=_BATCH[32],
            seed=seed,
        )
        for seed in SEEDS
    ]
    whole = _scores(digits_at_32)
    gains = [one - other for one, other in zip(whole, resnet, strict=True)]
    told = f"{np.mean(whole):.3f} at 0.2 M parameters, {np.mean(resnet):.3f} at 11 M"
    return Finding.at_least(f"digits: accuracy minus that of ResNet-18 ({told})", gains, -0.01)


@dataclass(frozen=True)
class AugMixed(LearningData):
    """Training images mixed with chains of augmentations (AugMix, arXiv 1912.02781)."""

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image, mixed by draws from `generator` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            image = v2.AugMix(alpha=0.4)((self.images[index] * 255).to(torch.uint8))
        return {"images": image.float() / 255, "labels": self.labels[index]}


def augmix_under_corruptions() -> Iterator[Finding]:
    """AugMix and the drop under noise, blur and contrast, on digits."""
    data = digits_at_32()
    mixed = AugMixed(**{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})
    test = [{"images": data.test_images[:200], "labels": data.test_labels[:200]}]
    names = ["gaussian_noise", "defocus_blur", "contrast_down"]
    drops: dict[str, list[float]] = {"plain": [], "AugMix": []}
    for seed in SEEDS:
        augmented = learn(_make, mixed, steps=_STEPS[32], batch_size=_BATCH[32], seed=seed)
        for name, learned in (("plain", _learned(digits_at_32, seed)), ("AugMix", augmented)):
            drops[name].append(robustness_report(learned.model, test, names).drop)
    saved = [100 * (plain - less) for plain, less in zip(drops["plain"], drops["AugMix"], strict=True)]
    told = f"{100 * np.mean(drops['plain']):.1f} without, {100 * np.mean(drops['AugMix']):.1f} with"
    yield Finding.at_least(f"points of the drop under corruptions that AugMix saves ({told})", saved, 3.0)
