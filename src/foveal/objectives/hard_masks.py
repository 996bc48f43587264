"""The usual segmentation loss on hard masks: binary cross-entropy plus Dice."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective


class BceDiceObjective(Objective):
    """Binary cross-entropy plus `dice_weight` times MONAI's Dice loss, on hard masks.

    Args:
        model: images (B, C, H, W) to logits (B, 1, H, W).
        dice_weight: factor on the Dice loss.

    Batch keys: `images` (B, C, H, W), `masks` (B, 1, H, W) in {0, 1}.
    """

    def __init__(self, model: nn.Module, *, dice_weight: float = 1.0) -> None:
        from monai.losses import DiceLoss

        super().__init__()
        self.model = model
        self.dice_weight = dice_weight
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `bce`, `dice` and their weighted sum `loss`."""
        logits = self.model(batch["images"]).float()
        bce = F.binary_cross_entropy_with_logits(logits, batch["masks"])
        dice = self.dice(logits, batch["masks"])
        return {"loss": bce + self.dice_weight * dice, "bce": bce, "dice": dice}
