"""Masked tokens from the visible ones beside them, as a state carries them: MambaMIM (arXiv 2408.08070)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StateInterpolation(nn.Module):
    """Fill masked tokens between visible ones: (B, L, D) to (B, L, D).

    A token p places after the visible one x and q before the visible one y becomes (a^p x + a^q y) /
    (a^p + a^q), with a decay a in (0, 1) learnt for each channel: what a state that decays by a keeps of
    either end. Before the first and after the last visible token there is one end alone. The details of the
    released code are unconfirmed.

    Args:
        dim: D.
        decay: a at first.

    Raises:
        ValueError: a decay outside (0, 1).
    """

    def __init__(self, dim: int, *, decay: float = 0.9) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}; allowed: between 0 and 1")
        self.logit = nn.Parameter(torch.full((dim,), decay).logit())

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Fill.

        Args:
            x: (B, L, D); what it holds at masked places does not count.
            visible: (B, L) bool.

        Raises:
            ValueError: a mask of another shape or kind, or a sequence without a visible token.
        """
        if visible.shape != x.shape[:2] or visible.dtype != torch.bool:
            found = f"{tuple(visible.shape)} of {visible.dtype}"
            raise ValueError(
                f"a mask {found}; allowed: {tuple(x.shape[:2])} of torch.bool, true where visible"
            )
        if not bool(visible.any(dim=1).all()):
            raise ValueError("a sequence has no visible token to interpolate from")
        length = x.shape[1]
        place = torch.arange(length, device=x.device).expand_as(visible)
        before = torch.where(visible, place, -1).cummax(dim=1).values
        after = torch.where(visible, place, length).flip(1).cummin(dim=1).values.flip(1)
        log_decay = F.logsigmoid(self.logit)
        # Of two ends the weights are softmax(p log a, q log a); a missing end has -infinity.
        scores = torch.stack(
            [
                ((place - before)[..., None] * log_decay).masked_fill((before < 0)[..., None], -torch.inf),
                ((after - place)[..., None] * log_decay).masked_fill(
                    (after >= length)[..., None], -torch.inf
                ),
            ]
        )
        weights = scores.softmax(dim=0)
        ends = [x.gather(1, index.clamp(0, length - 1)[..., None].expand_as(x)) for index in (before, after)]
        return torch.where(visible[..., None], x, weights[0] * ends[0] + weights[1] * ends[1])
