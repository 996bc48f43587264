"""Patch-size scaling: a causal encoder of linear cost, and a sweep that says which patch size pays off.

foveal train patch-scaling --data FOLDER_OR_NPZ --out runs/adventurer
foveal verify patch-scaling
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import EncoderRecipe, MixedSettings, deit_training


class PatchScalingSettings(MixedSettings):
    """Hyper-parameters; the defaults are the paper's first stage: 300 epochs at 128 px, base model.

    The second stage goes on for 100 epochs at 224 px with `drop_path` 0.4, the third for 20 at 224 px with
    learning_rate 1e-5, weight_decay 0.1, label_smoothing 0.1, `drop_path` 0.6 and batches of 512. Positions
    are interpolated between stages. At one token a pixel raise `gradient_accumulation` of the training.
    """

    size: Literal["tiny", "small", "base", "large"] = "base"
    image_size: int = Field(128, ge=16, description="pixels along each side of the square input")
    patch_size: int = Field(16, ge=1, description="pixels; 1 gives each its token")
    flip: Literal["every_other", "released", "none"] = Field(
        "every_other", description="blocks that read backwards; 'released' matches published weights"
    )
    heading: bool = Field(True, description="put the mean of all tokens before the first")
    drop_path: float = Field(0.1, ge=0, lt=1)
    training: dict[str, Any] = Field(default_factory=deit_training, description="of TrainingSettings")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class PatchScaling(EncoderRecipe[PatchScalingSettings]):
    """Adventurer, and `foveal.evaluation.patch_scaling.PatchSweep` over any encoder."""

    card = Card(
        slug="patch-scaling",
        title="Patchification scaling: patches down to single pixels with a linear-time causal encoder",
        paper=Paper(
            citation="Scaling Laws in Patchification: An Image Is Worth 50,176 Tokens And More, ICML 2025; "
            "encoder: Causal Image Modeling for Efficient Visual Understanding, arXiv 2410.07599",
            year=2025,
            link="https://arxiv.org/abs/2502.03738",
        ),
        task="An encoder whose cost is linear in tokens, so that patches of 1 to 4 px are possible, and a "
        "sweep that trains one model a patch size, fits the test loss against the tokens and says what pays.",
        published=(
            "ImageNet-1k top-1 at patch size 1, Base / Small / Tiny: 84.6 / 83.8 / 81.9 at 224 px, 82.4 / "
            "81.4 / 80.7 at 128 px, 80.9 / 80.5 / 77.4 at 64 px.",
            "The same encoder at 224 px and patch size 16: Tiny 78.2, Small 81.8, Base 82.6, Large 83.4; "
            "Base at patch size 8: 83.9; at patch size 16 and 384 px 84.2, 448 px 84.3; at patch size 8 and "
            "448 px 84.8.",
            "DeiT-B at 64 px rises by several points from patch size 16 to 1 (a curve only).",
        ),
        original="https://github.com/wangf3014/Patch_Scaling, https://github.com/wangf3014/Adventurer",
        licence="none",
        faithfulness="Written from the papers' description: layers, sizes, tail class token, heading average "
        "and local flips are theirs; the released code flips blocks 2 and 3 alone, which is an option. The "
        "recurrence is plain torch in chunks and needs no Triton. Smaller patches of trained weights by "
        "FlexiViT's pseudo-inverse are ours, where the paper trains from scratch or fine-tunes. Repeated "
        "augmentation and 3-Augment are not used. Not trained on ImageNet here.",
        built_from=(
            "kernels.gated_recurrence",
            "blocks.mamba2",
            "blocks.class_tokens",
            "encoders.adventurer",
            "encoders.resize_patch",
            "evaluation.patch_scaling",
            "evaluation.power_law",
            "timm: SwiGLU, DropPath, and VisionTransformer as the baseline",
        ),
    )
    Settings = PatchScalingSettings

    def encoder_config(self, settings: PatchScalingSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = ("size", "image_size", "patch_size", "flip", "heading", "drop_path")
        return "adventurer", {name: getattr(settings, name) for name in names}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._patch_scaling_evidence`."""
        from foveal.recipes._patch_scaling_evidence import evidence

        return evidence(scale)


recipe = PatchScaling()
