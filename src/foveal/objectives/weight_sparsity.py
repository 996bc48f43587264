"""Penalty on the absolute values of a model's weights beside another objective, which pruning likes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foveal.objectives.base import Batch, Objective


class WeightSparsityObjective(Objective):
    """Another objective's loss + weight * mean |w|, biases and norms left out (Tibshirani 1996).

    Args:
        objective: with the model as its `model`.
        weight: at least 0. A mean, like that of a penalty on attention, so that weights are comparable.
    """

    def __init__(self, objective: Objective, *, weight: float = 0.01) -> None:
        super().__init__()
        if not weight >= 0 or math.isinf(weight):
            raise ValueError(f"weight is {weight}; allowed: 0 or more, and finite")
        self.objective, self.weight = objective, weight

    @property
    def model(self) -> nn.Module:
        """Of the objective."""
        model: nn.Module = self.objective.model  # type: ignore[assignment]
        return model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`; `own`, the other objective's; `weights`, the mean; and its other losses."""
        losses = self.objective(batch)
        matrices = [value for value in self.model.parameters() if value.ndim > 1 and value.requires_grad]
        total = torch.stack([value.abs().sum() for value in matrices]).sum()
        mean = total / sum(value.numel() for value in matrices)
        return {**losses, "loss": losses["loss"] + self.weight * mean, "own": losses["loss"], "weights": mean}
