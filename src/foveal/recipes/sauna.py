"""SAUNA: uncertainty-aware soft labels and image-level regression losses for retinal vessels.

foveal train sauna --data FOLDER --out runs/sauna
foveal verify sauna
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from foveal.models.segmenter import Segmenter
    from foveal.scans.vessel_datasets import VesselCase


def _pretrained() -> dict[str, object]:
    return {"pretrained": True}


def _paper_augmentation() -> dict[str, object]:
    return {"zoom": 0.0}


def _paper_training() -> dict[str, object]:
    return {
        "steps": 30_000,
        "batch_size": 6,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 1e-5,
        "schedule": "step",
        "step_every": 20_000,
    }


class SaunaSettings(Settings):
    """Hyper-parameters; the defaults are the paper's (600 FIVES images, 300 epochs of 100 steps).

    The settings of the shipped model are in `models/weights/vessels/training.json`.
    """

    loss: Literal["sauna", "bce-dice"] = "sauna"
    focal_weight: float = Field(1.0, ge=0)
    alpha: float = Field(2.0, gt=0, description="of the Focal-L1 loss")
    beta: float = Field(1.0, ge=0, description="of the Focal-L1 loss")
    jaccard_weight: float = Field(1.0, ge=0)
    per_image: bool = Field(False, description="Jaccard sums over each image rather than the batch")
    cross_entropy_weight: float = Field(0.0, ge=0, description="beyond the paper; see SaunaObjective")
    label_mode: Literal["h", "c", "hh"] = "h"
    label_metric: Literal["euclidean", "chamfer5"] = "chamfer5"

    network: str = Field("unet", description="unet, unet++ or a class of monai.networks.nets")
    encoder: str = "timm/resnet50"
    encoder_settings: dict[str, object] = Field(default_factory=_pretrained)
    network_settings: dict[str, object] = Field(default_factory=dict)
    working_diameter: int = Field(512, ge=32, description="pixels across the field of view")
    contrast_sigma: float = Field(0.0, ge=0, description="pixels; local contrast in place of mean and std")
    mean: tuple[float, float, float] = (0.34, 0.15, 0.07)
    std: tuple[float, float, float] = (0.4, 0.3, 0.2)
    patch_size: int = Field(512, ge=32, description="pixels; at most the frame of the working diameter")

    augmentation: dict[str, object] = Field(
        default_factory=_paper_augmentation, description="changes to AugmentationSettings"
    )
    synthetic_eyes: int = Field(0, ge=0, description="generated photographs, beside or without real ones")
    synthetic_share: float = Field(
        0.15, ge=0, le=1, description="share of patches from them, beside real ones"
    )
    start_from: str | None = Field(None, description="folder of a saved model to begin with")
    training: dict[str, object] = Field(
        default_factory=_paper_training,
        description="of TrainingSettings",
    )


class Sauna(Recipe[SaunaSettings]):
    """Soft labels from one hard mask, and the two losses that regress them."""

    card = Card(
        slug="sauna",
        title="SAUNA: uncertainty-aware soft labels for retinal vessel segmentation",
        paper=Paper(
            citation="Image-level Regression for Uncertainty-aware Retinal Image Segmentation, WACV 2025",
            year=2025,
            link="https://arxiv.org/abs/2405.16815",
        ),
        task="A fundus photograph in; a signed vessel map out, whose sign is the class and whose magnitude "
        "is the confidence.",
        published=(
            "Soft labels with the two losses raise U-Net, U-Net++ and seven specialised networks over Dice "
            "and BCE on hard labels (FIVES; zero-shot on STARE, CHASE_DB1, DRIVE and HRF).",
            "One 512-pixel pass exceeds patch-based 2048-pixel methods at a much higher throughput.",
        ),
        original="https://github.com/Oulu-IMEDS/SAUNA",
        licence="MIT",
        faithfulness="Labels, losses and decision rule are the paper's; its network, optimiser and schedule "
        "are the default settings, its augmentation is ours without scaling. The shipped vessel model is not "
        "SAUNA's: in our short trainings hard labels with BCE + Dice scored higher on an unseen camera, so a "
        "network of 0.47 M parameters on local contrast was trained with those, from synthetic eyes on.",
        built_from=(
            "segmentation.soft_labels",
            "objectives.sauna",
            "models.Segmenter",
            "segmentation.patches",
            "training.fit",
        ),
    )
    Settings = SaunaSettings

    def build(self, settings: SaunaSettings) -> Segmenter:
        """The untrained segmenter."""
        from foveal.models.segmenter import Preprocess, Segmenter, SegmenterConfig

        return Segmenter(
            SegmenterConfig(
                network=settings.network,
                encoder=settings.encoder,
                encoder_settings=settings.encoder_settings,
                network_settings=settings.network_settings,
                activation="tanh" if settings.loss == "sauna" else "sigmoid",
                preprocess=Preprocess(
                    working_diameter=settings.working_diameter,
                    contrast_sigma=settings.contrast_sigma,
                    mean=settings.mean,
                    std=settings.std,
                ),
            )
        )

    def train(self, settings: SaunaSettings, *, data: Path | None, out: Path) -> None:
        """Train on the vessel data sets in `data` and save the model to `out`/model."""
        from foveal.scans.vessel_datasets import read_vessel_cases

        if data is None and not settings.synthetic_eyes:
            raise ValueError("nothing to train on: name a folder with --data, or set synthetic_eyes")
        model = self.fit(settings, [] if data is None else read_vessel_cases(data), folder=out)
        model.save_pretrained(out / "model")

    def fit(
        self,
        settings: SaunaSettings,
        cases: Sequence[VesselCase],
        *,
        folder: Path | None,
        progress: bool = True,
    ) -> Segmenter:
        """Train on labelled photographs and `synthetic_eyes`; returns the model in evaluation mode."""
        import torch

        from foveal.objectives.hard_masks import BceDiceObjective
        from foveal.objectives.sauna import SaunaObjective
        from foveal.scans.vessel_datasets import synthetic_vessel_cases
        from foveal.segmentation.augmentation import AugmentationSettings
        from foveal.segmentation.patches import VesselPatches
        from foveal.training import TrainingSettings, fit

        training = TrainingSettings.model_validate(settings.training)
        torch.manual_seed(training.seed)
        model = self.build(settings)
        if settings.start_from is not None:
            model.load_state_dict(type(model).from_pretrained(settings.start_from).state_dict())
        synthetic = synthetic_vessel_cases(settings.synthetic_eyes, seed=training.seed)
        patches = VesselPatches(
            [*cases, *synthetic],
            size=settings.patch_size,
            diameter=settings.working_diameter,
            augmentation=AugmentationSettings.model_validate(settings.augmentation),
            mode=settings.label_mode,
            metric=settings.label_metric,
        )
        weights = None
        if cases and synthetic:
            real_weight = (1 - settings.synthetic_share) / len(cases)
            weights = [real_weight] * len(cases) + [settings.synthetic_share / len(synthetic)] * len(
                synthetic
            )
        objective = (
            SaunaObjective(
                model,
                focal_weight=settings.focal_weight,
                alpha=settings.alpha,
                beta=settings.beta,
                jaccard_weight=settings.jaccard_weight,
                per_image=settings.per_image,
                cross_entropy_weight=settings.cross_entropy_weight,
            )
            if settings.loss == "sauna"
            else BceDiceObjective(model)
        )
        fit(objective, patches, training, folder=folder, weights=weights, progress=progress)
        return model.eval()

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._sauna_evidence`."""
        from foveal.recipes._sauna_evidence import evidence

        return evidence(self, scale)


recipe = Sauna()
