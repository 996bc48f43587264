"""How a classifier is trained, as settings; they stand apart so that naming them imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from foveal.settings import Settings


class ClassificationSettings(Settings):
    """Loss, mixing of images, augmentation and the loop's settings of a classification training."""

    start_from: str | None = Field(
        None, description="encoder's first weights: an official checkpoint, or a folder of a saved model"
    )
    training: dict[str, Any] = Field(default_factory=dict, description="of TrainingSettings")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="of ImageAugmentation")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0, description="alpha of MixUp's Beta distribution; 0 is off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix's Beta distribution; 0 is off")
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="of the training images, where the data has no validation split"
    )
    view: Literal["whole", "field"] = Field(
        "whole", description="photographs as they are, or the eye's field of view as screening sees it"
    )
    mean: tuple[float, ...] | None = Field(None, description="of each channel; None measures it")
    std: tuple[float, ...] | None = Field(None, description="of each channel; None measures it")
