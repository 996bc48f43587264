"""Pictures for evidence: objects of four classes on a textured ground, and where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from timm.layers import PatchEmbed
from torch import Tensor, nn

from foveal.encoders import Encoder, create_encoder
from foveal.recipes._encoder_learning import Learned, LearningData, learn


@dataclass(frozen=True, eq=False)
class ObjectPictures:
    """Pictures with the boxes of their objects.

    Attributes:
        data: images (N, 3, S, S) in [0, 1] with classes 0 to 3, to learn from and to be tested on.
        masks: (M, S, S) bool of the test images, true inside the object's box.
        train_masks: (N, S, S), the same of the images to learn from.
    """

    data: LearningData
    masks: Tensor
    train_masks: Tensor


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
        ground = _ground(random, side)
        top, left = random.integers(0, side - size, 2)
        colour = _colour(random)
        place = np.s_[top : top + size, left : left + size]
        ground[:, *place] += colour[:, None, None] * _shape(int(kind), size)
        masks[number][place] = True
        images[number] = ground.clip(0, 1)
    pixels, classes = torch.from_numpy(images), torch.from_numpy(labels)
    data = LearningData(pixels[:train], classes[:train], pixels[train:], classes[train:])
    return ObjectPictures(data, torch.from_numpy(masks[train:]), torch.from_numpy(masks[:train]))


@dataclass(frozen=True)
class ScatteredPictures:
    """Pictures of several objects each.

    Attributes:
        images: (N, 3, S, S) in [0, 1].
        labels: (N,) int64, the class 0 to 3 of most objects.
        annotation: (N, S, S) int64, 0 on the ground and 1 to 4 on objects.
        grounds: (N, 3, S, S), the same pictures without objects.
    """

    images: Tensor
    labels: Tensor
    annotation: Tensor
    grounds: Tensor

    def __len__(self) -> int:
        return len(self.images)


@cache
def scattered_pictures(
    count: int, *, side: int = 32, size: int = 8, cells: int = 4, seed: int = 0
) -> ScatteredPictures:
    """Five objects of any colour in cells of a grid: three of one class, and one each of two others."""
    random = np.random.default_rng(seed)
    shapes = [_shape(kind, size) for kind in range(4)]
    images = np.empty((count, 3, side, side), np.float32)
    grounds = np.empty_like(images)
    annotation = np.zeros((count, side, side), np.int64)
    labels, step = np.arange(count) % 4, side // cells
    for number, kind in enumerate(labels):
        ground = _ground(random, side)
        grounds[number] = ground.clip(0, 1)
        others = (kind + random.permutation(3)[:2] + 1) % 4
        kinds = [kind, kind, kind, *others]
        for cell, each in zip(random.permutation(cells * cells)[: len(kinds)], kinds, strict=True):
            top, left = np.array(divmod(int(cell), cells)) * step + random.integers(0, step - size + 1, 2)
            place = np.s_[top : top + size, left : left + size]
            ground[:, *place] += _colour(random)[:, None, None] * shapes[each]
            annotation[number][place][shapes[each] > 0.5] = each + 1
        images[number] = ground.clip(0, 1)
    parts = (images, labels, annotation, grounds)
    return ScatteredPictures(*(torch.from_numpy(part) for part in parts))


def small_convolutions() -> Encoder:
    """Three stages over half the image's side and less, 53 thousand weights."""
    return create_encoder("conv-pyramid", widths=(16, 32, 48), in_channels=3)


def small_transformer(*, side: int = 32) -> Encoder:
    """Four blocks of 48 over patches of 4 px behind convolutions, which learn from few pictures."""
    stem = partial(_ConvolutionalPatches, width=24)
    return create_encoder(
        "timm/vit_tiny_patch16_224",
        image_size=side,
        patch_size=4,
        embed_dim=48,
        depth=4,
        num_heads=4,
        mlp_ratio=2.0,
        embed_layer=stem,
    )


@cache
def trained_on_objects(
    seed: int = 0,
    *,
    pictures: ObjectPictures | None = None,
    encoder: Callable[[], nn.Module] = small_convolutions,
    steps: int = 250,
    learning_rate: float = 3e-3,
) -> Learned:
    """A small classifier of such pictures, those of `object_pictures()` unless others are given."""
    return learn(
        encoder,
        (pictures or object_pictures()).data,
        steps=steps,
        batch_size=32,
        learning_rate=learning_rate,
        seed=seed,
    )


class _ConvolutionalPatches(PatchEmbed):
    """Patch tokens by strided convolutions (Xiao et al., arXiv 2106.14881)."""

    def __init__(self, *, width: int, in_chans: int = 3, embed_dim: int = 768, **options: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **options)
        self.proj = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(in_chans, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width),
            nn.ReLU(), nn.Conv2d(2 * width, embed_dim, 1),
        )  # fmt: skip


def _ground(random: np.random.Generator, side: int) -> np.ndarray:
    """(3, side, side), mottled and noisy."""
    ground = gaussian_filter(random.standard_normal((3, side, side)), (0, 3, 3))
    return np.asarray(0.45 + 0.12 * ground / ground.std() + 0.04 * random.standard_normal((3, side, side)))


def _colour(random: np.random.Generator) -> np.ndarray:
    """(3,), what an object adds to its ground; at least one channel strongly."""
    colour = random.uniform(-0.45, 0.45, 3)
    colour[random.integers(3)] = random.choice([-0.5, 0.5])
    return colour


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
