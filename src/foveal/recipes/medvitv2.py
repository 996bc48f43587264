"""MedViTV2: KAN and dilated neighbourhood attention for clean and corrupted medical images.

foveal train medvitv2 --data FOLDER_OR_NPZ --out runs/medvitv2
foveal verify medvitv2
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, EncoderSettings
from foveal.settings import Settings


def _paper_training() -> dict[str, Any]:
    return {
        "steps": 100 * 100,
        "batch_size": 24,
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "minimum_factor": 0.05,
        "final_weights": "best",
    }


def _paper_augmentation() -> dict[str, Any]:
    crop = {"crop": 0.08, "horizontal_flip": 0.4, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0}
    return crop | {"policy": "augmix", "augmix_alpha": 0.4}


class KanSettings(Settings):
    """The layers that mix channels in global blocks; see `blocks.kan.KANLayer`."""

    basis: Literal["switch", "bspline", "rbf"] = "switch"
    grid: int = Field(8, ge=2, description="functions an input")
    low: float = -2.0
    high: float = 2.0
    width: float = Field(0.33, gt=0)
    base_branch: bool = Field(False, description="a linear layer of SiLU(u) besides")


class MedViTV2Settings(EncoderSettings):
    """Hyper-parameters; the defaults are the paper's (100 epochs, of 100 steps as for Kvasir, 224 px)."""

    size: Literal["tiny", "small", "base", "large"] = "tiny"
    layout: Literal["correct", "released"] = Field(
        "correct", description="'released' repeats the slips of the released code, for its weights"
    )
    dilation: Literal["released", "alternate"] = Field(
        "released", description="1 everywhere, or in every second local block the widest there is room for"
    )
    kan: KanSettings = Field(default_factory=KanSettings)
    drop_path: float | None = Field(None, ge=0, lt=1, description="None is the size's: 0.1 or 0.2")
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")
    augmentation: dict[str, Any] = Field(
        default_factory=_paper_augmentation, description="of ImageAugmentation"
    )
    mean: tuple[float, ...] | None = (0.5, 0.5, 0.5)
    std: tuple[float, ...] | None = (0.5, 0.5, 0.5)


class MedViTV2(EncoderRecipe[MedViTV2Settings]):
    """Neighbours first, everything after, and learnt functions of each channel at the end of every stage."""

    card = Card(
        slug="medvitv2",
        title="MedViTV2: KAN and dilated neighbourhood attention, for clean and corrupted medical images",
        paper=Paper(
            citation="Medical Image Classification with KAN-Integrated Transformers and Dilated Neighborhood "
            "Attention, Applied Soft Computing 2025",
            year=2025,
            link="https://arxiv.org/abs/2502.13693",
        ),
        task="An image in; class logits and a pyramid of four maps out, in four sizes (10 to 106 M "
        "parameters), with a report of how far the classifier falls on corrupted images.",
        published=(
            "Accuracy, T/S/B/L: PathMNIST 95.9/96.5/97.0/97.7; DermaMNIST 78.1/79.2/80.8/81.7; OCTMNIST "
            "92.7/94.2/94.4/95.2; PneumoniaMNIST 95.1/96.5/96.9/97.3; RetinaMNIST 54.7/56.2/57.5/57.8; "
            "BreastMNIST 88.2/89.5/90.4/91.0.",
            "Accuracy, T/S/B/L: BloodMNIST 97.9/98.5/98.5/98.7; TissueMNIST 69.9/70.5/71.1/71.6; OrganA "
            "95.8/96.6/96.9/97.3; OrganC 93.5/95.0/95.3/96.1; OrganS 82.4/83.9/84.4/85.1; ChestMNIST "
            "96.3/96.4/96.4/96.7.",
            "Others: PAD-UFES 63.6 (T), ISIC18 77.1 (T), CPN 95.3 (S), Kvasir 82.8 (S), Fetal 95.3 (B).",
            "First in 27 of 29 experiments; 44% less computation than MedViT; 4.6% above it on MedMNIST, "
            "5.8% on other sets, 13.4% on MedMNIST-C.",
            "The released training takes the checkpoint with the best AUC on the test set, so that these "
            "figures are optimistic.",
        ),
        original="https://github.com/Omid-Nejati/MedViTV2",
        licence="MIT",
        faithfulness="Layers, sizes and parameter counts are the paper's, without the released code's branch "
        "that is never used. Two layouts: the released code reads maps as tokens without transposing them, "
        "which layout=released repeats for its weights; names of those weights load. How the paper assigns "
        "dilations is not told: 1 everywhere as released, or the widest in every second local block. "
        "Checkpoints are chosen on the validation split, several findings are answered by sigmoids, a tail "
        "of tokens is averaged, and the two feed-forward layers take any shape. AugMix comes before "
        "the crop. Not trained on MedMNIST at 224 px here.",
        built_from=(
            "blocks.neighbourhood_attention",
            "blocks.kan",
            "blocks.local_feed_forward",
            "blocks.hybrid",
            "scans.corruptions",
            "evaluation.robustness",
            "torchvision AugMix",
        ),
    )
    Settings = MedViTV2Settings

    def encoder_config(self, settings: MedViTV2Settings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = ("size", "layout", "dilation", "drop_path")
        return "medvit-v2", {
            **{name: getattr(settings, name) for name in names},
            "kan": settings.kan.model_dump(),
        }

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._medvitv2_evidence`."""
        from foveal.recipes._medvitv2_evidence import evidence

        return evidence(scale)


recipe = MedViTV2()
