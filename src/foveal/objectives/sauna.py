"""Image-level regression losses for signed soft labels (SAUNA, arXiv 2405.16815)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective

Base = Literal["l1", "smooth_l1", "l2"]


def stable_focal_l1(
    prediction: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 1.0,
    base: Base = "l1",
    positive_weight: float = 1.0,
    detach_weight: bool = False,
) -> Tensor:
    """mean(w e), e = |p - y|; w = alpha e^beta where the sign of p is right, else 1.

    Args:
        prediction: p, in [-1, 1], any shape.
        target: y, in [-1, 1], the same shape; y > 0 is the positive class.
        alpha: weight of pixels on the right side of zero.
        beta: how fast their weight falls as the error does; 0 and alpha = 1 give the plain base loss.
        base: the error that is weighted; the weight always comes from |p - y|.
        positive_weight: factor on pixels of the positive class.
        detach_weight: hold w constant in the gradient.

    Returns:
        Scalar loss >= 0.

    Raises:
        ValueError: shapes differ, or `base` is unknown.
    """
    _check_shapes(prediction, target)
    error = (prediction - target).abs()
    # (e + tiny)^beta keeps the gradient finite at e = 0 for 0 < beta < 1.
    focal = alpha * error if beta == 1 else alpha * (error + torch.finfo(error.dtype).tiny) ** beta
    weight = torch.where(prediction.sign() == target.sign(), focal, torch.ones_like(error))
    if detach_weight:
        weight = weight.detach()
    if base == "l1":
        loss = error
    elif base == "smooth_l1":
        loss = F.smooth_l1_loss(prediction, target, reduction="none")
    elif base == "l2":
        loss = error.square()
    else:
        raise ValueError(f"unknown base loss {base!r}; allowed: l1, smooth_l1, l2")
    loss = weight * loss
    if positive_weight != 1:
        loss = torch.where(target > 0, positive_weight * loss, loss)
    return loss.mean()


def jaccard_metric_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    low: float = -1.0,
    high: float = 1.0,
    neutral: float | None = None,
    variant: Literal[1, 2] = 2,
    per_image: bool = False,
) -> Tensor:
    """Jaccard distance of two batches, pooled over the batch or (`per_image`) averaged over its images.

    Args and errors are those of `jaccard_distance`; the result is a scalar.
    """
    if not per_image:
        prediction, target = prediction[None], target[None]
    distances = jaccard_distance(prediction, target, low=low, high=high, neutral=neutral, variant=variant)
    return distances.mean()


def jaccard_distance(
    prediction: Tensor,
    target: Tensor,
    *,
    low: float = -1.0,
    high: float = 1.0,
    neutral: float | None = None,
    variant: Literal[1, 2] = 2,
) -> Tensor:
    """Jaccard distance of each pair of maps with values in a hypercube [low, high]^n.

    Both maps are shifted so that `neutral` is 0 and split into their positive and negative parts. For
    non-negative parts u, v: S = sum|u + v|, D = sum|u - v|, intersection S - D, union S + D. Variant 2
    pools both parts, 1 - (I+ + I-) / (U+ + U-), and is a metric; variant 1 adds up the distances of the
    two parts. For hard -1/1 maps, variant 2 is 1 - (TP + TN) / (TP + TN + 2 FP + 2 FN).

    Args:
        prediction: (B, ...) in [low, high].
        target: the same shape and range.
        low: lower end of the range.
        high: upper end of the range.
        neutral: value that belongs to neither class; the middle of the range by default.
        variant: see above.

    Returns:
        (B,) in [0, 1] (variant 1: [0, 2]); 0 exactly where the two maps are equal.

    Raises:
        ValueError: shapes differ, the range is empty or the variant unknown.
    """
    _check_shapes(prediction, target)
    neutral = (low + high) / 2 if neutral is None else neutral
    if not low <= neutral <= high or low == high:
        raise ValueError(f"range [{low}, {high}] with neutral {neutral}: low <= neutral <= high is wanted")
    # The ratio does not depend on the scale of the range, so only the shift is taken.
    p, y = (prediction - neutral).flatten(1), (target - neutral).flatten(1)
    positive = _overlap(F.relu(p), F.relu(y))
    negative = _overlap(F.relu(-p), F.relu(-y))
    if variant == 2:
        return 1 - _ratio(positive[0] + negative[0], positive[1] + negative[1])
    if variant == 1:
        return (1 - _ratio(*positive)) + (1 - _ratio(*negative))
    raise ValueError(f"unknown variant {variant!r}; allowed: 1, 2")


def _overlap(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union, times two, of non-negative maps (B, n)."""
    total, difference = (u + v).sum(1), (u - v).abs().sum(1)
    return total - difference, total + difference


def _ratio(intersection: Tensor, union: Tensor) -> Tensor:
    """Intersection over union; two empty parts agree wholly."""
    empty = union == 0
    one = torch.ones_like(union)
    return torch.where(empty, one, intersection / torch.where(empty, one, union))


def _check_shapes(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape"
        )


class SaunaObjective(Objective):
    """`focal_weight` x Focal-L1 + `jaccard_weight` x Jaccard metric loss on tanh of the model's logits.

    Beyond the paper, `cross_entropy_weight` adds the cross-entropy of sigmoid(2 z) = (1 + tanh z) / 2
    against (1 + y) / 2. It regresses the same soft label y, but to its mean where the L1 loss goes to its
    median, so that a doubtful vessel keeps a rank; and its gradient does not vanish where tanh is flat.

    Args:
        model: images (B, C, H, W) to logits (B, 1, H, W).
        focal_weight: of the Focal-L1 loss.
        alpha: of the Focal-L1 loss.
        beta: of the Focal-L1 loss.
        base: of the Focal-L1 loss.
        jaccard_weight: of the Jaccard loss.
        per_image: of the Jaccard loss.
        cross_entropy_weight: of the cross-entropy; 0 leaves it out.

    Batch keys: `images` (B, C, H, W), `soft_labels` (B, 1, H, W) signed, in [-1, 1] (see `sauna_label`).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        focal_weight: float = 1.0,
        alpha: float = 2.0,
        beta: float = 1.0,
        base: Base = "l1",
        jaccard_weight: float = 1.0,
        per_image: bool = False,
        cross_entropy_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.focal_weight, self.alpha, self.beta, self.base = focal_weight, alpha, beta, base
        self.jaccard_weight, self.per_image = jaccard_weight, per_image
        self.cross_entropy_weight = cross_entropy_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `focal_l1`, `jaccard`, maybe `cross_entropy`, and their weighted sum `loss`."""
        logits, target = self.model(batch["images"]).float(), batch["soft_labels"]
        prediction = torch.tanh(logits)
        focal = stable_focal_l1(prediction, target, alpha=self.alpha, beta=self.beta, base=self.base)
        jaccard = jaccard_metric_loss(prediction, target, per_image=self.per_image)
        total = self.focal_weight * focal + self.jaccard_weight * jaccard
        losses = {"loss": total, "focal_l1": focal, "jaccard": jaccard}
        if self.cross_entropy_weight:
            losses["cross_entropy"] = F.binary_cross_entropy_with_logits(2 * logits, (1 + target) / 2)
            losses["loss"] = total + self.cross_entropy_weight * losses["cross_entropy"]
        return losses
