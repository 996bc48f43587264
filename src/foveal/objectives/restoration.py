"""Distance of restored images to clean ones: L1, or Charbonnier's smooth form of it."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from foveal.objectives.base import Batch, Objective
from foveal.settings import unknown_name

Distance = Literal["l1", "charbonnier"]


class RestorationObjective(Objective):
    """Mean of |d|, or of sqrt(d^2 + epsilon^2), d the difference of a pixel.

    Args:
        model: degraded images to restored ones.
        distance: "l1" or "charbonnier".
        epsilon: of the second, about the size of a difference that does not matter.

    Batch keys: `images` (B, C, *sizes), the degraded ones; `targets`, the clean ones, of the same shape.

    Raises:
        ValueError: a distance that is not known, or an epsilon that is not above 0.
    """

    def __init__(
        self, model: nn.Module, *, distance: Distance = "charbonnier", epsilon: float = 1e-3
    ) -> None:
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(unknown_name("distance", distance, get_args(Distance)))
        if epsilon <= 0:
            raise ValueError(f"epsilon is {epsilon}; allowed: above 0")
        self.model, self.distance, self.epsilon = model, distance, epsilon

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean distance, `loss`.

        Raises:
            ValueError: restored images and targets of different shapes.
        """
        restored, targets = self.model(batch["images"]), batch["targets"]
        if restored.shape != targets.shape:
            raise ValueError(
                f"restored images {tuple(restored.shape)} and targets {tuple(targets.shape)} differ in shape"
            )
        difference = restored.float() - targets
        if self.distance == "l1":
            return {"loss": difference.abs().mean()}
        return {"loss": (difference.square() + self.epsilon**2).sqrt().mean()}
