"""Pictures for evidence of explainers: one object of a class on a textured ground, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from foveal.encoders import create_encoder
from foveal.recipes._encoder_learning import Learned, LearningData, learn


@dataclass(frozen=True)
class ObjectPictures:
    """Pictures with the boxes of their objects.

    Attributes:
        data: images (N, 3, S, S) in [0, 1] with classes 0 to 3, to learn from and to be tested on.
        masks: (M, S, S) bool of the test images, true inside the object's box.
    """

    data: LearningData
    masks: Tensor


@cache
def object_pictures(
    count: int = 480, *, side: int = 64, train: int = 360, size: int = 20, seed: int = 0
) -> ObjectPictures:
    """A disc, a ring, a cross or stripes of 20 px in any colour, anywhere on a mottled, noisy ground."""
    random = np.random.default_rng(seed)
    images = np.empty((count, 3, side, side), np.float32)
    masks = np.zeros((count, side, side), bool)
    labels = np.arange(count) % 4
    for number, kind in enumerate(labels):
        ground = gaussian_filter(random.standard_normal((3, side, side)), (0, 3, 3))
        ground = 0.45 + 0.12 * ground / ground.std() + 0.04 * random.standard_normal((3, side, side))
        top, left = random.integers(0, side - size, 2)
        colour = random.uniform(-0.45, 0.45, 3)
        colour[random.integers(3)] = random.choice([-0.5, 0.5])
        place = np.s_[top : top + size, left : left + size]
        ground[:, *place] += colour[:, None, None] * _shape(int(kind), size)
        masks[number][place] = True
        images[number] = ground.clip(0, 1)
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    data = LearningData(pixels[:train], classes[:train], pixels[train:], classes[train:])
    return ObjectPictures(data, torch.from_numpy(masks[train:]))


@cache
def trained_on_objects(seed: int = 0, *, steps: int = 250) -> Learned:
    """A small convolutional classifier of these pictures."""
    return learn(
        lambda: create_encoder("conv-pyramid", widths=(16, 32, 48), in_channels=3),
        object_pictures().data,
        steps=steps,
        batch_size=32,
        learning_rate=3e-3,
        seed=seed,
    )


def _shape(kind: int, size: int) -> np.ndarray:
    """(size, size) in [0, 1]."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    if kind == 0:
        return (radius <= size / 2).astype(float)
    if kind == 1:
        return ((radius <= size / 2) & (radius >= size / 3.2)).astype(float)
    if kind == 2:
        return (np.minimum(abs(x), abs(y)) <= size / 8).astype(float)
    return (np.floor((x + size) / 3) % 2).astype(float)
