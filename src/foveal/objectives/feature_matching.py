"""Features as those of a teacher, in size and in direction: MSE + (1 - cosine), as DVT (arXiv 2401.02957)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.encoders.base import Encoder
from foveal.objectives.base import Batch, Objective


def feature_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error and one less the mean cosine of vectors (..., D), added.

    Raises:
        ValueError: shapes differ.
    """
    if features.shape != targets.shape:
        raise ValueError(
            f"features of shape {tuple(features.shape)}, targets {tuple(targets.shape)}; both are equal"
        )
    return F.mse_loss(features, targets) + 1 - F.cosine_similarity(features, targets, dim=-1).mean()


class FeatureMatching(Objective):
    """A network from features to features is to give the targets that are stored with them.

    Batch keys: `features` and `targets`, (B, ..., D) each.

    Args:
        network: to train.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss `loss`."""
        return {"loss": feature_distance(self.network(batch["features"]), batch["targets"])}


class FeatureDistillation(Objective):
    """A student encoder is to give the patch tokens of a frozen teacher for the same images.

    Batch keys: `images`, as both encoders take them.

    Args:
        student: all of it is trained.
        teacher: frozen, and in evaluation mode in training.

    Raises:
        ValueError: encoders whose tokens differ in length.
    """

    def __init__(self, student: Encoder, teacher: Encoder) -> None:
        super().__init__()
        if student.dim != teacher.dim:
            raise ValueError(
                f"tokens of {student.dim} channels for a teacher of {teacher.dim}; both are equal"
            )
        self.student: nn.Module = student
        self.teacher: nn.Module = teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Switch the student alone."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss `loss`."""
        with torch.no_grad():
            targets = self.teacher(batch["images"]).patches
        return {"loss": feature_distance(self.student(batch["images"]).patches, targets)}
