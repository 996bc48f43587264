"""Likeness of registered images and smoothness of the flow: the loss of VoxelMorph (arXiv 1809.05231)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.warping import warp
from foveal.objectives.base import Batch, Objective
from foveal.settings import unknown_name

Likeness = Literal["ncc", "mse"]
Smoothness = Literal["gradient", "bending"]


def roughness(flow: Tensor) -> Tensor:
    """Mean square of the steps between neighbours of a flow (B, axes, *grid), summed over the axes.

    Steps forward, as VoxelMorph's: those over two cells, as MONAI's, do not see what alternates.
    """
    return torch.stack([flow.diff(dim=axis).square().mean() for axis in range(2, flow.ndim)]).sum()


def bending(flow: Tensor) -> Tensor:
    """Mean square of all second differences of a flow (B, axes, *grid), summed over pairs of axes."""
    axes = range(2, flow.ndim)
    return torch.stack([flow.diff(dim=a).diff(dim=b).square().mean() for a in axes for b in axes]).sum()


class RegistrationObjective(Objective):
    """Local correlation or squared difference of images, smoothness of the flow, and Dice of masks.

    Args:
        model: moving and fixed images to an object with `warped` and `flow`, such as `RegistrationModel`.
        likeness: "ncc", squared cross-correlation in windows, for images of one kind of scanner; or "mse".
        window: cells along each side of a window of "ncc", odd.
        smoothness: "gradient", mean square of the flow's slopes, or "bending", of its second derivatives.
        smoothness_weight: of the smoothness beside the likeness.
        dice_weight: of Dice beside them, where a batch has masks.

    Batch keys: `moving`, `fixed` (B, C, *grid) float; `moving_masks`, `fixed_masks` (B, K, *grid) in [0, 1]
    where `dice_weight` is above 0.

    Raises:
        ValueError: a likeness or smoothness that is not known, an even window, or a weight below 0.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        likeness: Likeness = "ncc",
        window: int = 9,
        smoothness: Smoothness = "gradient",
        smoothness_weight: float = 1.0,
        dice_weight: float = 0.0,
    ) -> None:
        from monai.losses import DiceLoss

        super().__init__()
        if likeness not in get_args(Likeness):
            raise ValueError(unknown_name("likeness", likeness, get_args(Likeness)))
        if smoothness not in get_args(Smoothness):
            raise ValueError(unknown_name("smoothness", smoothness, get_args(Smoothness)))
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window is {window}; allowed: odd numbers from 3 on")
        if smoothness_weight < 0 or dice_weight < 0:
            raise ValueError(f"weights are {smoothness_weight} and {dice_weight}; allowed: 0 or more")
        self.model, self.likeness, self.window = model, likeness, window
        self.smoothness_weight, self.dice_weight = smoothness_weight, dice_weight
        self.smoothness = roughness if smoothness == "gradient" else bending
        self.dice = DiceLoss()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `likeness`, `smoothness`, `dice` where masks count, and their weighted sum `loss`."""
        moving, fixed = batch["moving"], batch["fixed"]
        found = self.model(moving, fixed)
        losses = {
            "likeness": self._difference(found.warped, fixed),
            "smoothness": self.smoothness(found.flow),
        }
        losses["loss"] = losses["likeness"] + self.smoothness_weight * losses["smoothness"]
        if self.dice_weight:
            moved = warp(batch["moving_masks"], found.flow)
            losses["dice"] = self.dice(moved, batch["fixed_masks"])
            losses["loss"] = losses["loss"] + self.dice_weight * losses["dice"]
        return losses

    def _difference(self, warped: Tensor, fixed: Tensor) -> Tensor:
        if self.likeness == "mse":
            return F.mse_loss(warped, fixed)
        from monai.losses import LocalNormalizedCrossCorrelationLoss

        ncc = LocalNormalizedCrossCorrelationLoss(spatial_dims=fixed.ndim - 2, kernel_size=self.window)
        return ncc(warped, fixed)
