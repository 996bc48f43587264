"""Binary cross-entropy plus Dice of each image: the loss of VM-UNet and MHS-VM."""

from __future__ import annotations

from torch import Tensor, nn

from foveal.objectives.base import Batch
from foveal.objectives.hard_masks import BceDiceObjective


class BceImageDiceObjective(BceDiceObjective):
    """Binary cross-entropy plus `dice_weight` times Dice taken of each image and class, then averaged.

    Dice has 1 added above and below the line. Both are computed from logits, which is stabler than from
    probabilities and the same number.

    Args:
        model: images (B, C, H, W) to logits (B, K, H, W).
        dice_weight: factor on the Dice loss.

    Batch keys: as of `BceDiceObjective`, with masks anywhere in [0, 1].
    """

    def __init__(self, model: nn.Module, *, dice_weight: float = 1.0) -> None:
        from monai.losses import DiceLoss

        super().__init__(model, dice_weight=dice_weight)
        self.dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `bce`, `dice` and their weighted sum `loss`.

        Raises:
            ValueError: masks with values outside [0, 1].
        """
        low, high = float(batch["masks"].min()), float(batch["masks"].max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"masks have values from {low:.4g} to {high:.4g}; allowed: 0 to 1, divide 0/255 by 255"
            )
        return super().forward(batch)
