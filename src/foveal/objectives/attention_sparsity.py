"""Log-sum penalty on the attention of any transformer, beside another objective (arXiv 2307.11988)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from foveal.blocks.attention_taps import LayerAttention, attention_tapped, check_attention
from foveal.objectives.base import Batch, Objective
from foveal.settings import unknown_name

PenaltyLayers = Literal["last", "mean", "sum"]
PenaltyTarget = Literal["probs", "logits"]


def log_sum(values: Tensor) -> Tensor:
    """Mean of log(1 + a^2) over all entries, in float32: half precision loses it below 1e-4.

    Of rows of probabilities over N keys it is log(1 + 1/N^2), the least, where they are even, and log(2)/N,
    the most, where one key has all. Making it small therefore spreads attention.

    Args:
        values: of any shape. Entries of -inf, which a mask leaves in logits, do not count.

    Returns:
        Scalar.
    """
    values = values.float()
    masked = values.isneginf()
    if masked.any():
        values = values[~masked]
    return torch.log1p(values.square()).mean()


def attention_penalty(attentions: Sequence[Tensor], *, layers: PenaltyLayers = "last") -> Tensor:
    """`log_sum` of one layer's attention, or of all.

    Args:
        attentions: (B, H, N, M) of each layer, the first layer first.
        layers: "last" takes the last one alone, as the paper's code does, so that others feel it through
            their outputs only; "mean" and "sum" take all.

    Raises:
        ValueError: no layers, or another word.
    """
    _check_word("layers", layers, get_args(PenaltyLayers))
    if not attentions:
        raise ValueError("no attention to penalise; give that of one layer or more")
    if layers == "last":
        return log_sum(attentions[-1])
    each = torch.stack([log_sum(attention) for attention in attentions])
    return each.mean() if layers == "mean" else each.sum()


class AttentionSparsityObjective(Objective):
    """Another objective's loss + sign * weight * S, S the log-sum of its model's attention.

    Fused attention is computed in steps while the objective runs, so S has gradients with any model of timm,
    torchvision or transformers; the model itself is not changed.

    What it does depends on what it is told. On probabilities ("probs", as published) the default sign makes
    attention more even, not sparser; `sign=-1` makes it sharper. On the scaled products before the softmax
    ("logits") the default sign draws most of them to 0. S of probabilities is at most log(2)/N and its
    gradient is as small: with a weight of 0.01 and N = 577 tokens it hardly acts.

    Args:
        objective: with the model as its `model`.
        weight: lambda, at least 0.
        layers: see `attention_penalty`.
        target: "probs" or "logits".
        sign: 1 or -1.

    Raises:
        ValueError: an option out of range, or an objective without `model`.

    Example:
        >>> objective = AttentionSparsityObjective(ClassificationObjective(vit))  # doctest: +SKIP
        >>> fit(objective, samples)  # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Objective,
        *,
        weight: float = 0.01,
        layers: PenaltyLayers = "last",
        target: PenaltyTarget = "probs",
        sign: Literal[1, -1] = 1,
    ) -> None:
        super().__init__()
        if not weight >= 0 or weight == float("inf"):
            raise ValueError(f"weight is {weight}; allowed: 0 or more, and finite")
        _check_word("layers", layers, get_args(PenaltyLayers))
        _check_word("target", target, get_args(PenaltyTarget))
        if sign not in (1, -1):
            raise ValueError(f"sign is {sign}; allowed: 1 or -1")
        if not isinstance(getattr(objective, "model", None), nn.Module):
            raise ValueError(
                f"{type(objective).__name__} has no `model` whose attention could be read; put the penalty "
                "around the objective that owns the model"
            )
        self.objective = objective
        self.weight, self.layers, self.target, self.sign = weight, layers, target, sign

    @property
    def model(self) -> nn.Module:
        """Of the objective."""
        model: nn.Module = self.objective.model  # type: ignore[assignment]
        return model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`; `own`, the other objective's; `attention`, S without weight and sign; and its other losses.

        Raises:
            ValueError: the model has no attention that can be read.
        """
        kept: list[LayerAttention] = []

        def keep(layer: LayerAttention) -> None:
            if not layer.name:  # called outside the model, such as a teacher's
                return
            if self.layers == "last":
                kept.clear()
            kept.append(layer)

        scores = keep if self.target == "logits" else None
        weights = keep if self.target == "probs" else _drop
        with attention_tapped(self.model, read=weights, read_scores=scores):
            losses = self.objective(batch)
        check_attention(self.model, kept)
        penalty = attention_penalty([layer.weights for layer in kept], layers=self.layers)
        own = losses["loss"]
        loss = own + self.sign * self.weight * penalty
        return {**losses, "loss": loss, "own": own, "attention": penalty}


def _drop(_layer: LayerAttention) -> None:
    """Attention that is not wanted."""


def _check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(unknown_name(name, value, allowed))
