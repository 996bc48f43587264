"""Cross-entropy of bags of instances, padded to one length."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective


class BagObjective(Objective):
    """Cross-entropy of one class a bag.

    Args:
        model: bags (B, L, D) and a mask (B, L) to logits (B, K).

    Batch keys: `bags` (B, L, D) float; `present` (B, L) bool, true where an instance is real, those first;
    all are without it; `labels` (B,) int64.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of the batch, `loss`."""
        logits = self.model(batch["bags"], batch.get("present")).float()
        return {"loss": F.cross_entropy(logits, batch["labels"])}
