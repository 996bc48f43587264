"""Networks of masks compared under one protocol: equal data, steps, patches and seeds, and no pretraining."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveal.markdown import table
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.models.mask_model import MaskModel, MaskModelConfig
from foveal.objectives.image_dice import BceImageDiceObjective
from foveal.training import TrainingSettings, fit
from foveal.training.randomness import without_touching_randomness

NAMES = ("train_images", "train_masks", "test_images", "test_masks")


@dataclass(frozen=True)
class MaskArrays:
    """Images (N, C, *sizes) with masks (N, K, *sizes) in [0, 1], to learn from and to be scored on.

    Two or three axes. A sample is flipped at random along each axis, and cut to a random patch of
    `patch_size` pixels a side where that is given; images that are smaller are filled up with zeros.
    """

    images: Tensor
    masks: Tensor
    test_images: Tensor
    test_masks: Tensor
    patch_size: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image with its mask, changed alike."""
        pair = torch.cat([self.images[index], self.masks[index]])
        if self.patch_size is not None:
            pair = _patch(pair, self.patch_size, generator)
        axes = [axis for axis in range(1, pair.ndim) if torch.rand((), generator=generator) < 0.5]
        image, mask = pair.flip(axes).split([self.images.shape[1], self.masks.shape[1]])
        return {"images": image, "masks": mask}


def read_mask_arrays(path: Path, *, patch_size: int | None = None) -> MaskArrays:
    """Images and masks of an `.npz` file: train_images, train_masks, test_images and test_masks.

    Images are (N, C, *sizes), of two or three axes; those of 8 bits are divided by 255. Masks are
    (N, K, *sizes) in [0, 1].

    Raises:
        ValueError: an array is missing, or arrays do not fit each other; names which.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is missing or no .npz file; save one with numpy.savez")
    with np.load(path, allow_pickle=False) as archive:
        missing = [name for name in NAMES if name not in archive]
        if missing:
            raise ValueError(f"{path} has no {', '.join(missing)}; it holds {', '.join(archive.files)}")
        arrays = {name: archive[name] for name in NAMES}
    tensors = {}
    for name, array in arrays.items():
        scaled = array / 255 if array.dtype == np.uint8 and name.endswith("images") else array
        tensors[name] = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
    for split in ("train", "test"):
        images, masks = tensors[f"{split}_images"], tensors[f"{split}_masks"]
        spatial = images.shape[2:] == masks.shape[2:] and images.ndim in (4, 5)
        if len(images) != len(masks) or not len(images) or not spatial:
            raise ValueError(
                f"{path}: {split}_images {tuple(images.shape)} and {split}_masks {tuple(masks.shape)}; "
                "allowed: (N, C, H, W) or (N, C, T, H, W), masks of the same N and sizes"
            )
        if not torch.isfinite(images).all() or not bool(((masks >= 0) & (masks <= 1)).all()):
            raise ValueError(f"{path}: {split}_images with NaN, or {split}_masks with values outside [0, 1]")
    images, masks, test_images, test_masks = (tensors[name] for name in NAMES)
    return MaskArrays(images, masks, test_images, test_masks, patch_size)


@dataclass(frozen=True)
class MaskScore:
    """What one network is worth on the test images, one number a seed.

    Attributes:
        name: of the network.
        parameters: how many it has.
        dice: mean over images and masks; those without a pixel in either are left out.
        hd95: 95th percentile of the distance of borders in px, mean over those with both; NaN for none.
        seconds: of the training.
    """

    name: str
    parameters: int
    dice: tuple[float, ...]
    hd95: tuple[float, ...]
    seconds: tuple[float, ...]


def compare_networks(
    networks: Mapping[str, MaskModelConfig],
    data: MaskArrays,
    training: TrainingSettings,
    *,
    seeds: Sequence[int] = (0,),
    folder: Path | None = None,
) -> list[MaskScore]:
    """Train each network alike, and score it.

    Args:
        networks: by the names under which they are told.
        data: images and masks.
        training: of all; its seed is replaced by those of `seeds`.
        seeds: one training each.
        folder: receives the model of the first seed of each, as NAME/; None keeps none.

    Raises:
        ValueError: no network, no seed, or a network that does not fit the data.
    """
    if not networks or not seeds:
        raise ValueError(f"{len(networks)} networks and {len(seeds)} seeds; allowed: at least one of each")
    return [
        _trained_and_scored(name, config, data, training, seeds, folder) for name, config in networks.items()
    ]


def _trained_and_scored(
    name: str,
    config: MaskModelConfig,
    data: MaskArrays,
    training: TrainingSettings,
    seeds: Sequence[int],
    folder: Path | None,
) -> MaskScore:
    dice, hd95, seconds, parameters = [], [], [], 0
    for number, seed in enumerate(seeds):
        with without_touching_randomness():
            torch.manual_seed(seed)
            model = MaskModel(config)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            result = fit(BceImageDiceObjective(model), data, training.replace(seed=seed), progress=False)
            model.eval()
        said = model.predict(data.test_images, patch_size=data.patch_size) > 0.5
        seconds.append(result.seconds)
        dice.append(mean_dice(said, data.test_masks > 0.5))
        hd95.append(mean_hd95(said, data.test_masks > 0.5))
        if folder is not None and number == 0:
            model.save_pretrained(folder / name)
    return MaskScore(name, parameters, tuple(dice), tuple(hd95), tuple(seconds))


def mean_dice(said: Tensor, true: Tensor) -> float:
    """Mean Dice over the images and masks of boolean (N, K, *sizes); NaN where all of both are empty."""
    pairs = zip(said.flatten(0, 1).numpy(), true.flatten(0, 1).numpy(), strict=True)
    scores = [overlap_scores(binary_counts(a, b))["dice"] for a, b in pairs if a.any() or b.any()]
    return fmean(scores) if scores else float("nan")


def mean_hd95(said: Tensor, true: Tensor) -> float:
    """Mean 95th percentile of the distance of borders in px, boolean (N, K, *sizes) with both; else NaN."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    both = said.flatten(2).any(dim=2) & true.flatten(2).any(dim=2)
    pairs = zip(said[both][:, None, None].float(), true[both][:, None, None].float(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of its own calls
        found = [
            float(compute_hausdorff_distance(a, b, include_background=True, percentile=95)) for a, b in pairs
        ]
    return fmean(found) if found else float("nan")


def scores_table(scores: Sequence[MaskScore]) -> str:
    """The scores as a Markdown table, best Dice first; several seeds with their range."""
    ordered = sorted(scores, key=lambda score: -np.nan_to_num(fmean(score.dice), nan=-1.0))
    rows = [
        [
            score.name, f"{score.parameters:,}", _told(score.dice, 3), _told(score.hd95, 1),
            _told(score.seconds, 0),
        ]
        for score in ordered
    ]  # fmt: skip
    return table(["network", "parameters", "Dice", "HD95, px", "training, s"], rows)


def _told(values: Sequence[float], digits: int) -> str:
    middle = f"{fmean(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _patch(pair: Tensor, side: int, generator: torch.Generator) -> Tensor:
    missing = [max(0, side - size) for size in pair.shape[1:]]
    if any(missing):
        ends = [pad for end in reversed(missing) for pad in (0, end)]
        pair = torch.nn.functional.pad(pair, ends)
    for axis in range(1, pair.ndim):
        start = int(torch.randint(pair.shape[axis] - side + 1, (), generator=generator))
        pair = pair.narrow(axis, start, side)
    return pair
