"""The learning experiment of every encoder's evidence: small images, one short training, one score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Objective
from foveal.objectives.classification import ClassificationObjective
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

Metric = Callable[[np.ndarray, np.ndarray], float]
"""Probabilities (N, K) and labels (N,) of the test images to one number."""


@dataclass(frozen=True)
class LearningData:
    """Images to learn from and images to be scored on.

    Attributes:
        images: (N, C, H, W) float in [0, 1] to learn from.
        labels: (N,) int64.
        test_images: (M, C, H, W), the same kind.
        test_labels: (M,) int64.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(max(self.labels.max(), self.test_labels.max())) + 1

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One training image with its label, as the training loop asks for it."""
        return {"images": self.images[index], "labels": self.labels[index]}


@dataclass(frozen=True)
class Learned:
    """A trained model and what it says of the test images.

    Attributes:
        model: in evaluation mode; images (B, C, H, W) in [0, 1] to logits (B, K).
        probabilities: (M, K) of the test images.
        labels: (M,) of the test images.
        seconds: that the training took.
    """

    model: PooledHead
    probabilities: np.ndarray
    labels: np.ndarray
    seconds: float


class PooledHead(nn.Module):
    """A linear head on the pooled vector of an encoder, which gets standardised images.

    Args:
        encoder: images to `Features`, with an attribute `dim`.
        classes: outputs K.
        mean: (C, 1, 1) of the training images.
        std: (C, 1, 1) of the training images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, classes: int, *, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(int(encoder.dim), classes)  # type: ignore[arg-type]
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images in [0, 1] to logits (B, K)."""
        return self.head(self.encoder((images - self.mean) / self.std).pooled)


@cache
def digits(
    image_size: int = 32, *, channels: int = 1, train_images: int | None = None, seed: int = 0
) -> LearningData:
    """Handwritten digits of scikit-learn (8 x 8 px, 1797 images of ten classes), enlarged bilinearly.

    Args:
        image_size: pixels along each side.
        channels: copies of the grey image.
        train_images: how many of the 1200 training images to keep, stratified; None keeps all.
        seed: of the stratified split; 597 images are for testing.

    Returns:
        Images in [0, 1].
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    small = torch.tensor(loaded.images[:, None] / 16, dtype=torch.float32)
    images = F.interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = images.expand(-1, channels, -1, -1).contiguous()
    labels = torch.tensor(loaded.target, dtype=torch.int64)
    train, test = train_test_split(
        np.arange(len(labels)), train_size=1200, stratify=loaded.target, random_state=seed
    )
    if train_images is not None and train_images < len(train):
        train, _ = train_test_split(
            train, train_size=train_images, stratify=loaded.target[train], random_state=seed
        )
    return LearningData(images[train], labels[train], images[test], labels[test])


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose most probable class is theirs."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def learn(
    make_encoder: Callable[[], nn.Module],
    data: LearningData,
    *,
    steps: int = 200,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    make_objective: Callable[[nn.Module], Objective] = ClassificationObjective,
) -> Learned:
    """Train an encoder with a linear head: AdamW, a tenth of warm-up, then a cosine; gradients clipped at 1.

    Args:
        make_encoder: makes the encoder anew, from the seeded global generator; it has `dim` and returns
            `Features`.
        data: images and labels.
        steps: updates of the weights.
        batch_size: images a step.
        learning_rate: its peak.
        weight_decay: not on 1-D parameters.
        seed: of weights, order and dropout; the same seed gives the same result.
        make_objective: from the model to the learning signal; the cross-entropy by default.

    Returns:
        The trained model with its probabilities on the test images.
    """
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_fraction=0.1 if steps >= 10 else 0.0,
        gradient_clip=1.0,
        seed=seed,
        log_every=steps,
        tensorboard=False,
    )
    std, mean = torch.std_mean(data.images, dim=(0, 2, 3), keepdim=True)
    with without_touching_randomness():
        torch.manual_seed(seed)
        model = PooledHead(make_encoder(), data.classes, mean=mean[0], std=std[0].clamp_min(1e-3))
        result = fit(make_objective(model), data, settings, progress=False)
        model.eval()
        probabilities = predict(model, data.test_images)
    return Learned(model, probabilities, data.test_labels.numpy(), result.seconds)


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 256) -> np.ndarray:
    """Softmax of the model's logits, (N, K), for images (N, C, H, W) on any device."""
    device = next(model.parameters()).device
    parts = [model(part.to(device)).float().softmax(dim=-1).cpu() for part in images.split(batch_size)]
    return torch.cat(parts).numpy()


def train_and_score(
    make_encoder: Callable[[], nn.Module],
    data: LearningData,
    *,
    metric: Metric = accuracy,
    **options: Any,
) -> float:
    """Train as `learn` does, with its options, and score the test images: their accuracy by default."""
    learned = learn(make_encoder, data, **options)
    return metric(learned.probabilities, learned.labels)
