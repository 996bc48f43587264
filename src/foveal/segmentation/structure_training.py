"""Training of small segmenters of structures: arteries and veins, landmarks, lesions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from foveal.models.segmenter import Preprocess, Segmenter, SegmenterConfig
from foveal.objectives.hard_masks import BceDiceObjective
from foveal.scans.structure_datasets import StructureCase, synthetic_case, synthetic_eyes
from foveal.segmentation.augmentation import AugmentationSettings
from foveal.segmentation.patches import StructurePatches
from foveal.settings import Settings
from foveal.training import TrainingSettings, fit

if TYPE_CHECKING:
    from torch import Tensor


class StructureSettings(Settings):
    """What a segmenter of structures is and how it is trained."""

    structures: tuple[str, ...]
    widths: tuple[int, ...] = Field((24, 48, 80, 112, 128), description="of the conv-pyramid encoder")
    working_diameter: int = Field(768, ge=32, description="pixels across the field of view")
    contrast_sigma: float = Field(32.0, ge=0, description="pixels; 0 takes mean and std")
    mean: tuple[float, float, float] = (0.34, 0.15, 0.07)
    std: tuple[float, float, float] = (0.4, 0.3, 0.2)
    patch_size: int = Field(384, ge=32)
    reach: float = Field(0.42, ge=0, description="of patch centres, in diameters of the field")
    focus: float = Field(0.0, ge=0, le=1, description="share of patches around a pixel of a structure")
    levels: tuple[float, ...] = Field((1.5, 1.0, 0.7), description="sizes at which photographs are kept")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="changes to AugmentationSettings")
    synthetic_eyes: int = Field(0, ge=0, description="generated photographs, beside or without real ones")
    synthetic_share: float = Field(0.25, ge=0, le=1, description="share of patches from them")
    start_from: str | None = Field(None, description="folder of a saved segmenter to begin with")
    training: dict[str, Any] = Field(default_factory=dict, description="of TrainingSettings")


def build_structure_segmenter(settings: StructureSettings) -> Segmenter:
    """The segmenter that settings describe, with the fitting weights of `start_from`.

    A network of other depth or with other outputs takes over the tensors that agree in name and shape.
    """
    model = Segmenter(
        SegmenterConfig(
            encoder_settings={"widths": list(settings.widths)},
            classes=settings.structures,
            activation="sigmoid",
            preprocess=Preprocess(
                working_diameter=settings.working_diameter,
                contrast_sigma=settings.contrast_sigma,
                mean=settings.mean,
                std=settings.std,
            ),
        )
    )
    if settings.start_from is not None:
        given = Segmenter.from_pretrained(settings.start_from).state_dict()
        own: dict[str, Tensor] = model.state_dict()
        fitting = {name: value for name, value in given.items() if own[name].shape == value.shape}
        model.load_state_dict(own | fitting)
    return model


def train_structures(
    settings: StructureSettings,
    cases: Iterable[StructureCase],
    *,
    folder: Path | None,
    progress: bool = True,
) -> Segmenter:
    """Train a segmenter on labelled photographs and synthetic eyes.

    Args:
        settings: what and how.
        cases: photographs with masks of `settings.structures`, in this order; read once.
        folder: for checkpoints; a stopped training goes on there.
        progress: show it.

    Returns:
        The trained segmenter in evaluation mode.

    Raises:
        ValueError: there are neither photographs nor synthetic eyes.
    """
    training = TrainingSettings.model_validate(settings.training)
    torch.manual_seed(training.seed)
    model = build_structure_segmenter(settings)
    counts = [0, 0]

    def all_cases() -> Iterable[StructureCase]:
        for case in cases:
            counts[0] += 1
            yield case
        for number, eye in enumerate(synthetic_eyes(settings.synthetic_eyes, seed=training.seed)):
            counts[1] += 1
            yield synthetic_case(eye, f"synthetic-{number:04d}", settings.structures)

    patches = StructurePatches(
        all_cases(),
        size=settings.patch_size,
        diameter=settings.working_diameter,
        augmentation=AugmentationSettings.model_validate(settings.augmentation),
        levels=settings.levels,
        reach=settings.reach,
        focus=settings.focus,
    )
    weights = _weights(counts[0], counts[1], settings.synthetic_share)
    fit(BceDiceObjective(model), patches, training, folder=folder, weights=weights, progress=progress)
    return model.eval()


def _weights(real: int, synthetic: int, share: float) -> Sequence[float] | None:
    if not real or not synthetic:
        return None
    return [(1 - share) / real] * real + [share / synthetic] * synthetic
