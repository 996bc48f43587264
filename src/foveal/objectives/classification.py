"""Classification losses: cross-entropy of one class an image, binary cross-entropy of several findings."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective


class ClassificationObjective(Objective):
    """Cross-entropy with label smoothing (Szegedy et al. 2016), or BCE where an image has several findings.

    Args:
        model: images (B, C, H, W), and `channels` where the batch has them, to logits (B, K).
        label_smoothing: share of the target that is spread evenly: over the K classes, or over yes and no.
        several: an image may have any number of the K findings.

    Batch keys: `images` (B, C, H, W); `labels` (B,) int64 classes or (B, K) class probabilities, which mixing
    of images gives; with `several` (B, K) float in [0, 1]. `channels` (B, C) where images lack some, see
    `foveal.models.Classifier`.
    """

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0, several: bool = False) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; allowed: at least 0 and below 1")
        self.model = model
        self.label_smoothing, self.several = label_smoothing, several

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of the batch, `loss`.

        Raises:
            ValueError: labels are not one row of K findings an image where `several` is set.
        """
        channels = [batch["channels"]] if "channels" in batch else []
        logits, labels = self.model(batch["images"], *channels).float(), batch["labels"]
        if not self.several:
            return {"loss": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; with several "
                "findings an image both are (B, K)"
            )
        targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        return {"loss": F.binary_cross_entropy_with_logits(logits, targets)}
