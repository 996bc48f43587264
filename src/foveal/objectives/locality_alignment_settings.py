"""How an encoder is aligned, as settings; they stand apart so that naming them imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from foveal.settings import Settings


def _paper_training() -> dict[str, Any]:
    """ViT-B: 5 epochs of ImageNet-21k in batches of 1024, no warm-up."""
    return {
        "steps": 64_000,
        "batch_size": 1024,
        "gradient_accumulation": 4,
        "learning_rate": 3e-4,
        "minimum_factor": 0.1,
        "betas": (0.9, 0.95),
        "weight_decay": 0.01,
        "gradient_clip": 1.0,
        "final_weights": "best",
    }


def _paper_augmentation() -> dict[str, Any]:
    return {"crop": 0.8, "crop_mode": "keep_ratio", "rotation": 0.0, "brightness": 0.0, "contrast": 0.0}


def _precursor_masks() -> dict[str, Any]:
    return {"kind": "blockwise", "keep_ratio": 0.6, "blocks": "dropped", "antithetic": False, "whole": False}


class AlignmentSettings(Settings):
    """Encoder, decoder, masks, loss and training; the defaults are the paper's for CLIP ViT-B."""

    encoder: str | None = Field(
        None, description="a vision transformer timm/NAME; None: that of start_from, else CLIP's ViT-B/16"
    )
    encoder_settings: dict[str, Any] = Field(
        default_factory=dict, description="of the encoder; pretrained=true fetches timm's weights"
    )
    start_from: str | None = Field(
        None, description="encoder's weights: an official checkpoint, or a folder of a saved model"
    )
    image_size: int | None = Field(None, ge=8, description="pixels a side; None: the encoder's own")
    in_channels: int = Field(3, description="3, or 1 for grey images")
    mean: tuple[float, ...] | None = Field(None, description="of each channel; None: the encoder's own")
    std: tuple[float, ...] | None = Field(None, description="of each channel; None: the encoder's own")
    view: Literal["whole", "field"] = Field(
        "whole", description="photographs as they are, or the eye's field"
    )

    soft_cap: float | None = Field(30.0, gt=0, description="of the student's attention; None has no cap")
    skip_blocks: int = Field(1, ge=0, description="last blocks that the teacher leaves out")
    head: Literal["linear", "mlp"] = "linear"
    width: int | None = Field(None, description="of the decoder; the encoder's where None")
    depth: int = Field(2, ge=0, description="blocks of the decoder")
    prefix_only: bool = Field(False, description="reconstruct class and register tokens only")
    masks: dict[str, Any] = Field(default_factory=dict, description="of MaskSettings")
    loss: Literal["mse", "cosine", "l1", "masked_mse", "unmasked_mse"] = "mse"

    precursor_steps: int = Field(0, ge=0, description="of masked image modelling before; 0 leaves it out")
    precursor_masks: dict[str, Any] = Field(default_factory=_precursor_masks, description="of MaskSettings")

    training: dict[str, Any] = Field(default_factory=_paper_training, description="of TrainingSettings")
    augmentation: dict[str, Any] = Field(
        default_factory=_paper_augmentation, description="of ImageAugmentation"
    )
    validation_fraction: float = Field(
        0.05, gt=0, lt=1, description="of the images, where the data has no folder val"
    )
    most_validation_images: int = Field(2048, ge=1, description="used for the scale and the validation")
    keep_decoder: bool = Field(True, description="save head and decoder too")
