"""Vision Mamba: a plain image encoder of two-direction selective scans, linear in the number of tokens.

foveal train vim --data FOLDER_OR_NPZ --out runs/vim
foveal verify vim
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from foveal.recipes.base import Card, Evidence, Paper, Scale
from foveal.recipes.encoder_recipe import DeitSettings, EncoderRecipe, deit_training


def _paper_training() -> dict[str, Any]:
    return deit_training(weight_decay=0.1, ema_decay=0.99996)


class VimSettings(DeitSettings):
    """Hyper-parameters; the defaults are those of Vim-Ti on ImageNet-1k (300 epochs of 1251 steps, 224 px).

    Vim-S has `training` with weight_decay 0.05 and `drop_path` 0.05; the "+" models continue 30 epochs at
    `stride` 8 with learning_rate 1e-5 and weight_decay 1e-8. Mixed precision is off, as in the paper: half
    precision is a frequent cause of NaN losses in this family.
    """

    size: Literal["tiny", "small", "base"] = "tiny"
    stride: int | None = Field(None, ge=1, description="pixels from patch to patch; 8 in the + models")
    init_backward: Literal["symmetric", "official"] = Field(
        "symmetric", description="steps of the way back: as those of the way forward, or as released"
    )
    class_token: Literal["middle", "head", "tail", "double", "none"] = "middle"
    pool: Literal["class", "mean"] = "class"
    drop_path: float = Field(0.0, ge=0, lt=1)
    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")


class VimRecipe(EncoderRecipe[VimSettings]):
    """Every attention block of a ViT replaced by a Mamba mixer that reads the tokens both ways."""

    card = Card(
        slug="vim",
        title="Vision Mamba (Vim): a plain image encoder of bidirectional state-space blocks",
        paper=Paper(
            citation="Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space "
            "Model, ICML 2024",
            year=2024,
            link="https://arxiv.org/abs/2401.09417",
        ),
        task="An image in; class logits, a class feature, or all token features for dense heads out, with "
        "compute and memory that grow linearly with the number of tokens.",
        published=(
            "ImageNet-1k top-1 (repository): Vim-Ti 76.1 (7 M), Ti+ 78.3, S 80.5 (26 M; the paper prints "
            "80.3), S+ 81.6, B 81.9 (98 M); DeiT-Ti/S/B 72.2, 79.8, 81.8.",
            "ADE20K UperNet mIoU: Ti 41.0 and S 44.9, DeiT 39.2 and 44.0 (quoted from memory).",
            "COCO Cascade Mask R-CNN box AP: Ti 45.7, DeiT-Ti 44.4 (quoted from memory).",
            "Features of batches at 1248 x 1248 px: 2.8 times faster than DeiT, 86.8 % less GPU memory.",
            "Ablations (quoted from memory): one direction 73.2, two without the second convolution 72.8, "
            "with it 73.9; class token in the middle 76.1, head 75.2, double 74.3, mean pooling 73.9.",
        ),
        original="https://github.com/hustvl/Vim",
        licence="Apache-2.0",
        faithfulness="Layers, sizes, the shifted list of stochastic depth and the layout of the released "
        "weights are the original's; the way back begins like the way forward unless init_backward is "
        "official. No sequence is turned over: the second convolution looks ahead and the scan follows an "
        "order. Mean pooling is honoured although there is a class token. Without repeated augmentation. Not "
        "trained on ImageNet here.",
        built_from=(
            "kernels.selective_scan",
            "blocks.bidirectional",
            "blocks.class_tokens",
            "blocks.patches",
            "timm: DropPath, and VisionTransformer as the baseline",
        ),
    )
    Settings = VimSettings

    def encoder_config(self, settings: VimSettings) -> tuple[str, dict[str, Any]]:
        """Name and settings of the encoder."""
        names = ("size", "stride", "image_size", "init_backward", "class_token", "pool", "drop_path")
        return "vim", {name: getattr(settings, name) for name in names}

    def evidence(self, scale: Scale) -> Iterable[Evidence]:
        """See `foveal.recipes._vim_evidence`."""
        from foveal.recipes._vim_evidence import evidence

        return evidence(scale)


recipe = VimRecipe()
