"""Training of small segmenters of structures: arteries and veins, landmarks, lesions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from foveal.models.decoders import DenseHead
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
    wide_field: float = Field(1.0, gt=0, description="of Preprocess; training does not depend on it")
    contrast_sigma: float = Field(32.0, ge=0, description="pixels; 0 takes mean and std")
    mean: tuple[float, float, float] = (0.34, 0.15, 0.07)
    std: tuple[float, float, float] = (0.4, 0.3, 0.2)
    patch_size: int = Field(384, ge=32)
    reach: float = Field(0.42, ge=0, description="of patch centres, in diameters of the field")
    focus: float = Field(0.0, ge=0, le=1, description="share of patches around a pixel of a structure")
    narrow: float = Field(0.0, ge=0, le=1, description="share of patches as narrower cameras would see them")
    narrowest: float = Field(0.5, gt=0, le=1, description="least share of the field that these see")
    levels: tuple[float, ...] = Field((1.5, 1.0, 0.7), description="sizes at which photographs are kept")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="changes to AugmentationSettings")
    synthetic_eyes: int = Field(0, ge=0, description="generated photographs, beside or without real ones")
    synthetic_share: float = Field(0.25, ge=0, le=1, description="share of patches from them")
    empty_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of patches from photographs without any structure; None: as others",
    )
    prevalence: tuple[float, ...] = Field(
        (), description="share of a patch's pixels that each structure covers; the head begins there"
    )
    rarity: float = Field(
        0.0, ge=0, le=1, description="cross-entropy is weighted by 1 / prevalence to this power, of mean 1"
    )
    dice_weight: float = Field(1.0, ge=0, description="of BceDiceObjective")
    start_from: str | None = Field(None, description="folder of a saved segmenter to begin with")
    training: dict[str, Any] = Field(default_factory=dict, description="of TrainingSettings")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse shares that leave nothing of labelled photographs, and a prevalence of other structures."""
        if self.synthetic_share + (self.empty_share or 0) > 1:
            raise ValueError(
                f"synthetic_share {self.synthetic_share} and empty_share {self.empty_share} are more than 1"
            )
        if len(self.prevalence) not in (0, len(self.structures)) or not all(
            0 < p < 1 for p in self.prevalence
        ):
            raise ValueError(
                f"prevalence {self.prevalence}: {len(self.structures)} values between 0 and 1 are wanted"
            )
        if self.rarity and not self.prevalence:
            raise ValueError(f"rarity {self.rarity} needs the prevalence of each structure")
        return self

    def structure_weights(self) -> tuple[float, ...] | None:
        """What the cross-entropy of each structure is weighted by, of mean 1; None where all count alike."""
        if not self.rarity:
            return None
        rare = [p**-self.rarity for p in self.prevalence]
        return tuple(len(rare) * weight / sum(rare) for weight in rare)


def build_structure_segmenter(settings: StructureSettings) -> Segmenter:
    """The segmenter that settings describe, with the fitting weights of `start_from`.

    A network of other depth or with other outputs takes over the tensors that agree in name and shape. With
    a prevalence its head begins there, whatever `start_from` has.
    """
    model = Segmenter(
        SegmenterConfig(
            encoder_settings={"widths": list(settings.widths)},
            classes=settings.structures,
            activation="sigmoid",
            preprocess=Preprocess(
                working_diameter=settings.working_diameter,
                wide_field=settings.wide_field,
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
    if settings.prevalence:
        for module in model.modules():
            if isinstance(module, DenseHead):
                module.begin_at(settings.prevalence)
    return model


class StructureSet:
    """Labelled photographs and synthetic eyes, prepared once for one training or for several.

    Args:
        settings: which structures, at which sizes, and how many synthetic eyes.
        cases: photographs with masks of `settings.structures`, in this order; read once.

    Raises:
        ValueError: there are neither photographs nor synthetic eyes.
    """

    def __init__(self, settings: StructureSettings, cases: Iterable[StructureCase]) -> None:
        self.settings = settings
        self.patients: list[str] = []
        self.kinds: list[Literal["labelled", "empty", "synthetic"]] = []
        self.patches = StructurePatches(
            self._noted(cases),
            size=settings.patch_size,
            diameter=settings.working_diameter,
            augmentation=AugmentationSettings.model_validate(settings.augmentation),
            levels=settings.levels,
            reach=settings.reach,
            focus=settings.focus,
            narrow=settings.narrow,
            narrowest=settings.narrowest,
        )

    def _noted(self, cases: Iterable[StructureCase]) -> Iterator[StructureCase]:
        for case in cases:
            self.patients.append(case.patient)
            empty = self.settings.empty_share is not None and case.valid.all() and not case.masks.any()
            self.kinds.append("empty" if empty else "labelled")
            yield case
        seed = TrainingSettings.model_validate(self.settings.training).seed
        for number, eye in enumerate(synthetic_eyes(self.settings.synthetic_eyes, seed=seed)):
            self.kinds.append("synthetic")
            case = synthetic_case(eye, f"synthetic-{number:04d}", self.settings.structures)
            self.patients.append(case.patient)
            yield case

    def weights(self, hold_out: Collection[str] = ()) -> list[float]:
        """How often each photograph is drawn, 0 for those of the patients held out.

        Raises:
            ValueError: nothing is left to train on.
        """
        kinds = [
            None if patient in hold_out else kind
            for patient, kind in zip(self.patients, self.kinds, strict=True)
        ]
        counts = Counter(kind for kind in kinds if kind is not None)
        if not counts:
            raise ValueError(f"all {len(kinds)} photographs are held out; at least one is needed")
        wanted = {"synthetic": self.settings.synthetic_share, "empty": self.settings.empty_share or 0.0}
        shares = {kind: share for kind, share in wanted.items() if kind in counts}
        if "labelled" in counts:
            shares["labelled"] = 1 - sum(shares.values())
        if not any(shares.values()):  # all that is left has no share of its own
            shares = dict.fromkeys(counts, 1.0)
        total = sum(shares.values())
        return [shares[kind] / total / counts[kind] if kind else 0.0 for kind in kinds]


def train_structures(
    data: StructureSet,
    *,
    folder: Path | None,
    hold_out: Collection[str] = (),
    progress: bool = True,
) -> Segmenter:
    """Train a segmenter on labelled photographs and synthetic eyes.

    Args:
        data: the photographs; its settings say what is trained, and how.
        folder: for checkpoints; a stopped training goes on there.
        hold_out: patients whose photographs are never drawn.
        progress: show it.

    Returns:
        The trained segmenter in evaluation mode.

    Raises:
        ValueError: all photographs are held out.
    """
    settings = data.settings
    training = TrainingSettings.model_validate(settings.training)
    torch.manual_seed(training.seed)
    model = build_structure_segmenter(settings)
    objective = BceDiceObjective(
        model, dice_weight=settings.dice_weight, class_weights=settings.structure_weights()
    )
    fit(objective, data.patches, training, folder=folder, weights=data.weights(hold_out), progress=progress)
    return model.eval()
