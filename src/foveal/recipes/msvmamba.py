"""Multi-Scale VMamba: a pyramid that scans one route at full and three at half resolution.

foveal train msvmamba --data FOLDER_OR_NPZ --out runs/msvmamba
foveal verify msvmamba
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, MixedSettings, deit_training


def _paper_training() -> dict[str, Any]:
    changes = {"minimum_factor": 0.01, "gradient_clip": 5.0, "ema_decay": 0.9999}
    return deit_training(warmup_steps=20 * 1251, **changes)


class MsvmambaSettings(MixedSettings):
    """Hyper-parameters; the defaults are Tiny's (v1) on ImageNet-1k (300 epochs of 1251 steps, 224 px).

    The base size has `training` with learning_rate 3e-4. Mixed precision is off: scans are computed in 32
    bits. For eyes: size nano or micro at 384 to 512 px.
    """

    size: Literal["nano", "micro", "tiny", "small", "base"] = Field(
        "tiny", description="nano, micro and tiny of v1; tiny, small and base of v2"
    )
    variant: Literal["v1", "v2"] = Field("v1", description="arXiv or NeurIPS version")
    route_full: Literal["row", "row_r", "col", "col_r"] = Field(
        "row", description="the route that is scanned at full resolution"
    )
    reset_state: bool = Field(False, description="begin each low-resolution route anew, an extension")
    drop_path: float | None = Field(None, ge=0, lt=1, description="None takes the size's: 0.2, 0.4 or 0.5")
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


class Msvmamba(EncoderRecipe[MsvmambaSettings]):
    """VMamba with 1.75 in place of 4 full-resolution scans a block."""

    card = Card(
        slug="msvmamba",
        title="MSVMamba: a pyramid of scans, one route at full and three at half resolution",
        paper=Paper(
            citation="Multi-Scale VMamba: Hierarchy in Hierarchy Visual State Space Model, NeurIPS 2024",
            year=2024,
            link="https://arxiv.org/abs/2405.14174",
        ),
        task="An image in; logits or four feature maps of strides 4 to 32 out, for grading, detection and "
        "segmentation, at linear cost.",
        published=(
            "ImageNet-1k top-1: Nano 77.3 (7 M, 0.9 G), Micro 79.8 (12 M, 1.5 G), Tiny 82.8 (33 M, 4.6 G); "
            "v2: Tiny 83.0 (32 M, 5.0 G), Small 84.1 (50 M, 8.8 G), Base 84.4 (91 M, 16.3 G).",
            "VMamba-T 82.6 (30 M, 4.9 G), Swin-T 81.2 (28 M, 4.5 G), Vim-Ti 76.1.",
            "COCO Mask R-CNN box/mask AP, 1x: Micro 43.8/39.9, Tiny 46.9/42.2; 3x: 46.3/41.8, 48.3/43.2.",
            "ADE20K UperNet mIoU, single scale: Micro 45.1, Tiny 47.6 (paper) or 47.8 (repository).",
            "Ablations, direction only: MS2D keeps or raises accuracy at fewer FLOPs than SS2D; SE and "
            "ConvFFN each add; three of four routes at low resolution is the best trade.",
        ),
        original="https://github.com/YuHengsss/MSVMamba",
        licence="none found (derived from VMamba, MIT)",
        faithfulness="Blocks, sizes and the state that runs on from one low-resolution route to the next are "
        "the original's; the parameters of v1 agree to the last one with those derived from the layer list. "
        "Any route may be the one of full resolution: the original restores the third and fourth wrongly. No "
        "route is copied: each scan walks the map where it lies, and the low routes share their projections. "
        "Sides that do not divide by 4 are filled up with zeros. All scans begin with Mamba's steps and "
        "rates. RandAugment, colour jitter and erasing are replaced by foveal's augmentation. Not trained on "
        "ImageNet here.",
        built_from=(
            "kernels.selective_scan",
            "blocks.scan_routes",
            "blocks.ms2d",
            "blocks.ss2d",
            "timm: SqueezeExcite, PatchMerging, DropPath",
        ),
    )
    Settings = MsvmambaSettings

    def encoder_config(self, settings: MsvmambaSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = ("size", "variant", "route_full", "reset_state", "drop_path")
        return "msvmamba", {name: getattr(settings, name) for name in names}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._msvmamba_evidence`."""
        from foveal.recipes._msvmamba_evidence import evidence

        return evidence(scale)


recipe = Msvmamba()
