"""The usual segmentation loss on hard masks: binary cross-entropy plus Dice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective


class BceDiceObjective(Objective):
    """Binary cross-entropy plus `dice_weight` times MONAI's Dice loss, on hard masks.

    Args:
        model: images (B, C, H, W) to logits (B, K, H, W).
        dice_weight: factor on the Dice loss.
        class_weights: K factors on the cross-entropy of each class; None counts all alike.

    Batch keys: `images` (B, C, H, W), `masks` (B, K, H, W) in {0, 1}; `valid` (B, K, H, W) in {0, 1} where
    given: what is not valid counts for neither loss. Dice is taken of each class over the whole batch.
    """

    class_weights: Tensor

    def __init__(
        self, model: nn.Module, *, dice_weight: float = 1.0, class_weights: Sequence[float] | None = None
    ) -> None:
        from monai.losses import DiceLoss

        super().__init__()
        self.model = model
        self.dice_weight = dice_weight
        self.dice = DiceLoss(sigmoid=True, batch=True)
        weights = torch.ones(1) if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights.view(-1, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `bce`, `dice` and their weighted sum `loss`."""
        logits, masks = self.model(batch["images"]).float(), batch["masks"]
        valid = batch.get("valid")
        each = self.class_weights * F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        if valid is None:
            bce = each.mean()
        else:
            bce = (each * valid).sum() / valid.sum().clamp_min(1)
            # A sure and right background where nothing is known: it adds nothing to either sum of Dice.
            logits, masks = logits.masked_fill(valid == 0, -1e4), masks * valid
        dice = self.dice(logits, masks)
        return {"loss": bce + self.dice_weight * dice, "bce": bce, "dice": dice}
