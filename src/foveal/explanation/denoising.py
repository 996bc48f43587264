"""A block that cleans the features of any image at once, and an encoder that needs none (arXiv 2401.02957).

Images are decomposed one by one, raw and clean features stored; a `DenoiserBlock` learns from these pairs; an
encoder may then learn to give the block's features by itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.encoders.base import Encoder
from foveal.encoders.denoised import Denoised
from foveal.encoders.feature_cache import cache_key, encoder_hash, image_hash
from foveal.encoders.feature_store import FeatureStore
from foveal.explanation.decomposition import DecompositionSettings, decompose
from foveal.objectives.feature_matching import FeatureDistillation, FeatureMatching
from foveal.training import TrainingSettings, fit
from foveal.training.sampling import IndexedDataset, SampledDataset


class DenoisingPairs:
    """Raw and clean features of images as training samples `features` and `targets`, (H, W, D) each.

    Args:
        store: holds (2, H, W, D) under each key: raw, clean.
        keys: one an image.
    """

    def __init__(self, store: FeatureStore, keys: Sequence[str]) -> None:
        self.store, self.keys = store, tuple(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """Features of one image, read from disk; nothing is drawn."""
        raw, clean = self.store[self.keys[index]]
        return {"features": raw, "targets": clean}

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All raw and all clean features, (N, H, W, D) each."""
        both = torch.stack([self.store[key] for key in self.keys], dim=1)
        return both[0], both[1]


def decompose_images(
    encoder: Encoder,
    images: Iterable[Tensor],
    folder: str | Path,
    settings: DecompositionSettings | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> DenoisingPairs:
    """Decompose images and keep their raw and clean features as memory maps in fp16.

    A file is named by the hash of its image, of the encoder's weights and of the settings: what a killed run
    has finished is not computed again.

    Args:
        encoder: see `decompose`.
        images: (C, H, W) each, of one size, as the encoder takes them.
        folder: of the files, made when missing.
        settings: the paper's where None.
        progress: called with a line for each image.

    Raises:
        ValueError: no images; see `decompose` for the others.
    """
    settings = settings or DecompositionSettings()
    store, keys = FeatureStore(folder), []
    told = f"{encoder_hash(encoder)} {settings.model_dump_json()}"
    for number, image in enumerate(images):
        key = cache_key(image_hash(image), told, [])
        known = key in store
        if not known:
            found = decompose(encoder, image, settings)
            store[key] = torch.stack([found.raw, found.clean])
        keys.append(key)
        if progress is not None:
            progress(f"image {number + 1}: {'kept from before' if known else 'decomposed'}")
    if not keys:
        raise ValueError("no images to decompose")
    return DenoisingPairs(store, keys)


def paper_training(*, batch_size: int = 128, **changes: Any) -> TrainingSettings:
    """AdamW at 2e-4 sqrt(batch / 256), 15 % of warm-up, a cosine to 1e-6, 50 000 steps; the paper's, stage 2.

    Args:
        batch_size: images; the learning rate goes with it.
        **changes: of `TrainingSettings`.
    """
    rate = 2e-4 * math.sqrt(batch_size / 256)
    chosen: dict[str, Any] = {
        "steps": 50_000,
        "batch_size": batch_size,
        "learning_rate": rate,
        "weight_decay": 1e-5,
        "warmup_fraction": 0.15,
    }
    chosen |= changes
    chosen.setdefault("minimum_factor", min(1.0, 1e-6 / chosen["learning_rate"]))
    return TrainingSettings.model_validate(chosen)


def train_denoiser(
    encoder: Encoder,
    pairs: DenoisingPairs,
    settings: TrainingSettings | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    **block: Any,
) -> Denoised:
    """Train a block on stored pairs and put it behind its encoder, which stays as it is.

    Args:
        encoder: whose features the pairs are.
        pairs: see `decompose_images`.
        settings: of the training; `paper_training()` where None.
        folder: of the run, to be resumed.
        progress: show a bar.
        **block: `heads` and `mlp_ratio` of the block.

    Returns:
        In evaluation mode; `save_pretrained(folder)` keeps encoder and block together.

    Raises:
        ValueError: pairs of another length than the encoder's tokens.
    """
    settings = settings or paper_training()
    _, height, width, dim = pairs.store[pairs.keys[0]].shape
    if dim != encoder.dim:
        raise ValueError(f"pairs of {dim} channels, {type(encoder).__name__} gives {encoder.dim}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        denoised = Denoised(encoder=encoder, grid=(height, width), **block)
    fit(FeatureMatching(denoised.denoiser), pairs, settings, folder=folder, progress=progress)
    return denoised.eval()


def distil_denoised(
    denoised: Denoised,
    images: SampledDataset | IndexedDataset,
    settings: TrainingSettings | None = None,
    *,
    student: Encoder | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Encoder:
    """An encoder that gives by itself, at its own cost, what another gives with the block behind it.

    Args:
        denoised: the teacher; it is frozen.
        images: samples `images`, as the encoder takes them, mirrored at random in the paper.
        settings: the paper trains 5 epochs of ImageNet in batches of 512, 12 500 steps; the rest as for the
            block where None.
        student: what to train; a copy of the teacher's encoder where None, all of it free.
        folder: of the run, to be resumed.
        progress: show a bar.

    Returns:
        The student in evaluation mode.
    """
    settings = settings or paper_training(batch_size=512, steps=12_500)
    chosen = copy.deepcopy(denoised.encoder).requires_grad_(True) if student is None else student
    fit(FeatureDistillation(chosen, denoised), images, settings, folder=folder, progress=progress)
    return chosen.eval()
