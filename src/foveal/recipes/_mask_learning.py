"""The learning experiment of segmenters' evidence: small synthetic pictures, one short training, one Dice."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from foveal.evaluation.mask_protocol import MaskArrays
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.objectives.image_dice import BceImageDiceObjective
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness


def train_and_dice(
    make_network: Callable[[], nn.Module],
    data: MaskArrays,
    *,
    steps: int = 250,
    batch_size: int = 4,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> float:
    """Train a network from pictures to logits with cross-entropy and Dice; Dice of all test pixels pooled."""
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_fraction=0.1,
        gradient_clip=1.0,
        seed=seed,
        log_every=steps,
        tensorboard=False,
    )
    with without_touching_randomness():
        torch.manual_seed(seed)
        network = make_network()
        fit(BceImageDiceObjective(network), data, settings, progress=False)
        network.eval()
        with torch.inference_mode():
            logits = torch.cat([network(part) for part in data.test_images.split(32)])
    counts = binary_counts(logits.numpy() > 0, data.test_masks.numpy() > 0)
    return overlap_scores(counts)["dice"]


@cache
def spiky_blobs(count: int = 200, *, side: int = 64, train: int = 140, seed: int = 0) -> MaskArrays:
    """Lesions: a blob whose radius swings with the angle, spicules and all, on uneven noisy ground."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, masks = [], []
    for _ in range(count):
        row, column = random.uniform(0.3, 0.7, 2) * side
        angle = np.arctan2(y - row, x - column)
        radius = side * random.uniform(0.12, 0.25)
        for waves in (3, 5, 11):
            radius = radius * (1 + random.uniform(0, 0.25) * np.cos(waves * angle + random.uniform(0, 6.3)))
        masks.append(np.hypot(y - row, x - column) < radius)
        images.append(_photograph(masks[-1], random, contrast=random.uniform(0.15, 0.3)))
    return _split(images, masks, train)


@cache
def thin_curves(count: int = 200, *, side: int = 64, train: int = 140, seed: int = 0) -> MaskArrays:
    """Vessels: four smooth curves of 2 px from edge to edge in any direction, on uneven noisy ground."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, masks = [], []
    for _ in range(count):
        mask = np.zeros((side, side), dtype=bool)
        for _ in range(4):
            turn, shift = random.uniform(0, np.pi), random.uniform(-0.35, 0.35) * side
            along = (x - side / 2) * np.cos(turn) + (y - side / 2) * np.sin(turn)
            across = (y - side / 2) * np.cos(turn) - (x - side / 2) * np.sin(turn)
            wave = random.uniform(2, 6) * np.sin(along / random.uniform(6, 12) + random.uniform(0, 6.3))
            mask |= np.abs(across - shift - wave) < 1.2
        masks.append(mask)
        images.append(_photograph(mask, random, contrast=random.uniform(0.15, 0.3)))
    return _split(images, masks, train)


@cache
def cued_blobs(count: int = 200, *, side: int = 64, train: int = 140, seed: int = 0) -> MaskArrays:
    """A dark and a bright blob at one side; a dark or bright square far off, at the other, says which counts.

    From the square to the middle of a blob it is half of the side or more.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images, masks = [], []
    for _ in range(count):
        radii = random.uniform(0.09, 0.13, 2) * side
        rows = np.array([random.uniform(0.15, 0.4), random.uniform(0.6, 0.85)]) * side
        columns = random.uniform(0.65, 0.85, 2) * side
        blobs = [np.hypot(y - rows[k], x - columns[k]) < radii[k] for k in random.permutation(2)]
        dark = bool(random.integers(2))
        top = int(random.uniform(0.1, 0.8) * side)
        cue = (np.abs(y - top - 3) < 3) & (x < 6)
        contrast = random.uniform(0.35, 0.5)
        light = blobs[1].astype(float) - blobs[0] + (-1.0 if dark else 1.0) * cue
        masks.append(blobs[0] if dark else blobs[1])
        images.append(_photograph(-light, random, contrast=contrast))
    return _split(images, masks, train)


def _photograph(mask: np.ndarray, random: np.random.Generator, *, contrast: float) -> np.ndarray:
    """The mask darker than its ground, slightly blurred, under slow changes of light and noise."""
    light = ndimage.gaussian_filter(random.normal(size=mask.shape), 12)
    ground = 0.55 + 0.12 * light / light.std()
    soft = ndimage.gaussian_filter(mask.astype(float), 0.7)
    return np.clip(ground - contrast * soft + random.normal(scale=0.08, size=mask.shape), 0, 1)


def _split(images: list[np.ndarray], masks: list[np.ndarray], train: int) -> MaskArrays:
    x, y = (torch.from_numpy(np.stack(arrays)).float()[:, None] for arrays in (images, masks))
    return MaskArrays(x[:train], y[:train], x[train:], y[train:])
