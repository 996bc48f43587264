"""MHS-VM: a U-shaped segmenter whose heads of channels scan along patterns of their own.

foveal train mhs-vm --data FOLDER --out runs/mhs-vm
foveal verify mhs-vm
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Recipe, Scale
from foveal.settings import Settings

if TYPE_CHECKING:
    from foveal.models.segmenter import Segmenter


def _paper_training() -> dict[str, Any]:
    return {
        "steps": 300 * 47,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "weight_decay": 1e-2,
        "minimum_factor": 0.01,
        "seed": 42,
    }


def _paper_augmentation() -> dict[str, Any]:
    off = "zoom gamma channel_gamma gain mix grey swap illumination haze blur low_resolution noise jpeg blobs"
    return {"rotate": True, "flip": True} | dict.fromkeys(off.split(), 0.0)


class MhsVmSettings(Settings):
    """Hyper-parameters; the defaults are the paper's for skin lesions (300 epochs of 47 steps, 256 px).

    `t` was 0.5 on ISIC18 and 0 on ISIC17. For vessels raise `working_diameter` and `patch_size` to 512 and
    drop `augmentation` for foveal's.
    """

    block: Literal["mhs", "ss2d"] = Field("mhs", description="ss2d is the plain VM-UNet")
    heads: int | tuple[str, ...] = Field(4, description="3, 4, or the scan of each head")
    fuse: Literal["sra", "sum", "mean"] = Field("sra", description="how the routes of a head are joined")
    t: float | Literal["learn"] = Field(0.5, description="threshold of scan route attention")
    sigma: Literal["relu", "sigmoid", "power", "exp"] = Field("relu", description="of scan route attention")
    states: int = Field(16, ge=1, description="of each channel")
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths_enc: tuple[int, ...] = (2, 2, 2, 2)
    depths_dec: tuple[int, ...] = (2, 2, 2, 1)
    drop_path: float = Field(0.2, ge=0, lt=1)
    classes: tuple[str, ...] = ("vessel",)

    working_diameter: int = Field(256, ge=32, description="pixels across the field of view")
    contrast_sigma: float = Field(0.0, ge=0, description="pixels; local contrast in place of mean and std")
    mean: tuple[float, float, float] = (0.34, 0.15, 0.07)
    std: tuple[float, float, float] = (0.4, 0.3, 0.2)
    patch_size: int = Field(256, ge=32, description="pixels; a multiple of the coarsest stride, 32")
    augmentation: dict[str, Any] = Field(
        default_factory=_paper_augmentation, description="changes to AugmentationSettings"
    )
    dice_weight: float = Field(1.0, ge=0)
    synthetic_eyes: int = Field(0, ge=0, description="generated photographs, beside or without real ones")
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


class MhsVm(Recipe[MhsVmSettings]):
    """A lighter drop-in for the scan of a grid, shipped inside VM-UNet."""

    card = Card(
        slug="mhs-vm",
        title="MHS-VM: multi-head scanning in parallel subspaces, in a VM-UNet segmenter",
        paper=Paper(
            citation="MHS-VM: Multi-Head Scanning in Parallel Subspaces for Vision Mamba, 2024",
            year=2024,
            link="https://arxiv.org/abs/2406.05992",
        ),
        task="An image in; a mask or class logits out, from a network of 17 million parameters that is "
        "trained from scratch.",
        published=(
            "Four heads trained on ISIC18 (repository): ISIC18 mIoU 80.85, Dice 89.41; the same weights on "
            "ISIC17 82.02, 90.12.",
            "VM-UNet, 27.43 M with a pretrained encoder (quoted from memory): ISIC17 80.23, 89.03; ISIC18 "
            "81.35, 89.71.",
            "The paper's claim: better than VM-UNet trained from scratch, with fewer parameters (the exact "
            "table is unconfirmed).",
        ),
        original="https://github.com/PixDeep/MHS-VM",
        licence="Apache-2.0",
        faithfulness="Routes, heads, fusion, gated block and frame are the original's, and so are the "
        "parameter counts derived from its layer list. No route is gathered: each scan walks the map where "
        "it lies, at any size. Equal responses have a deviation of exactly 0 with gradient 0, where the "
        "original's gradient is NaN. The rate falls along one cosine, where the original's rises again after "
        "50 epochs. The loss is taken from logits. Pooled scores are those of metrics.segmentation. Not "
        "trained on skin lesions here.",
        built_from=(
            "kernels.selective_scan",
            "blocks.scan_routes",
            "blocks.multi_head_scan",
            "models.networks.vm_unet",
            "objectives.image_dice",
            "segmentation.patches",
            "training.fit",
        ),
    )
    Settings = MhsVmSettings

    def build(self, settings: MhsVmSettings) -> Segmenter:
        """The untrained segmenter."""
        from foveal.models.segmenter import Preprocess, Segmenter, SegmenterConfig

        block: dict[str, Any] = {"states": settings.states}
        if settings.block == "mhs":
            block |= {name: getattr(settings, name) for name in ("heads", "fuse", "t", "sigma")}
        network = {name: getattr(settings, name) for name in ("block", "dims", "depths_enc", "depths_dec")}
        return Segmenter(
            SegmenterConfig(
                network="vm-unet",
                network_settings={**network, "drop_path": settings.drop_path, "block_settings": block},
                classes=settings.classes,
                activation="sigmoid",
                preprocess=Preprocess(
                    working_diameter=settings.working_diameter,
                    contrast_sigma=settings.contrast_sigma,
                    mean=settings.mean,
                    std=settings.std,
                ),
            )
        )

    def train(self, settings: MhsVmSettings, *, data: Path | None, out: Path) -> None:
        """Train on the vessel data sets in `data`, and on synthetic eyes; save the model to `out`/model.

        Raises:
            ValueError: nothing to train on, or more classes than vessels.
        """
        import torch

        from foveal.objectives.image_dice import BceImageDiceObjective
        from foveal.scans.vessel_datasets import read_vessel_cases, synthetic_vessel_cases
        from foveal.segmentation.augmentation import AugmentationSettings
        from foveal.segmentation.patches import VesselPatches
        from foveal.training import TrainingSettings, fit

        if data is None and not settings.synthetic_eyes:
            raise ValueError("nothing to train on: name a folder with --data, or set synthetic_eyes")
        if settings.classes != ("vessel",):
            raise ValueError(f"classes are {settings.classes}; allowed in this training: ('vessel',)")
        training = TrainingSettings.model_validate(settings.training)
        torch.manual_seed(training.seed)
        model = self.build(settings)
        cases = [] if data is None else read_vessel_cases(data)
        patches = VesselPatches(
            [*cases, *synthetic_vessel_cases(settings.synthetic_eyes, seed=training.seed)],
            size=settings.patch_size,
            diameter=settings.working_diameter,
            augmentation=AugmentationSettings.model_validate(settings.augmentation),
        )
        fit(BceImageDiceObjective(model, dice_weight=settings.dice_weight), patches, training, folder=out)
        model.eval().save_pretrained(out / "model")

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._mhs_vm_evidence`."""
        from foveal.recipes._mhs_vm_evidence import evidence

        return evidence(scale)


recipe = MhsVm()
