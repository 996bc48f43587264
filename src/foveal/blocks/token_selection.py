"""Which tokens of a transformer go on: attentive ones, the others fused into one (EViT, arXiv 2202.07800)."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from foveal.settings import unknown_name

Unpool = Literal["own", "fused"]


def keep_count(keep_rate: float, tokens: int) -> int:
    """Tokens that are kept of so many: the keep rate's share, rounded up."""
    return math.ceil(keep_rate * tokens - 1e-9)  # 0.55 * 100 is a little above 55 in floating point


def check_keep_rate(keep_rate: float) -> None:
    """Refuse a keep rate that is none.

    Raises:
        ValueError: it is not above 0 to 1.
    """
    if not 0 < keep_rate <= 1:
        raise ValueError(f"keep_rate is {keep_rate}; allowed: above 0 to 1, where 1 keeps every token")


def keep_rate_at(step: int, *, base: float, start: int = 0, steps: int = 0) -> float:
    """The keep rate of a warm-up: 1 before `start`, then half a cosine down to `base`, which stays.

    Args:
        step: of training, from 0.
        base: at the end, above 0 to 1.
        start: step at which it begins to fall.
        steps: that the fall takes; 0 falls at once.

    Raises:
        ValueError: a base out of range, or negative steps.
    """
    check_keep_rate(base)
    if start < 0 or steps < 0:
        raise ValueError(f"start is {start} and steps {steps}; allowed: 0 or more")
    if step < start:
        return 1.0
    if step >= start + steps:
        return base
    return base + (1 - base) * (math.cos(math.pi * (step - start) / steps) + 1) / 2


class TokenSelection(nn.Module):
    """Keep the tokens of the highest scores, and fuse the others into one: sum_j score_j x_j.

    The weights are the scores as they are, so the fused token is small where little attention went. It has no
    parameters. Readers put a forward hook on it: what it returns tells which tokens it kept.

    Args:
        keep_rate: share of the tokens that may be dropped to keep, above 0 to 1.
        fuse: put the others into one token; else they are gone.
        prefix: tokens at the head of the sequence (class, distillation, register) that always go on.

    Attributes:
        current: keep rate that counts now, such as in a warm-up; it starts as `keep_rate`.
        tokens: absolute number to keep in place of it, or None.

    Raises:
        ValueError: a keep rate out of range.
    """

    tokens: int | None

    def __init__(self, *, keep_rate: float, fuse: bool = True, prefix: int = 1) -> None:
        super().__init__()
        check_keep_rate(keep_rate)
        self.keep_rate, self.fuse, self.prefix = keep_rate, fuse, prefix
        self.current, self.tokens = keep_rate, None

    def count(self, tokens: int) -> int:
        """How many are kept of so many.

        Raises:
            ValueError: more are asked for than there are.
        """
        if self.keep_rate == 1:
            return tokens
        if self.tokens is None:
            return keep_count(self.current, tokens)
        if not 1 <= self.tokens <= tokens:
            raise ValueError(
                f"{self.tokens} tokens are to be kept of {tokens}; allowed: 1 to {tokens}, besides "
                f"{self.prefix} at the head"
            )
        return self.tokens

    def rank(self, scores: Tensor) -> Tensor:
        """What tokens are kept for: their scores."""
        return scores

    def forward(self, tokens: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Drop tokens.

        Args:
            tokens: (B, P + n, D), the first P of which are `prefix`.
            scores: (B, n) of the others.

        Returns:
            (B, P + K, D), or one more where the others are fused, the kept ones by falling score; indices
            (B, K) of the kept and (B, n - K) of the others among the n.
        """
        others = tokens.shape[1] - self.prefix
        count = self.count(others)
        order = self.rank(scores.detach()).argsort(dim=1, descending=True)
        kept, dropped = order[:, :count], order[:, count:]
        head, rest = tokens[:, : self.prefix], tokens[:, self.prefix :]
        parts = [head, _pick(rest, kept)]
        if self.fuse and count < others:
            weights = scores.gather(1, dropped).to(rest.dtype)
            parts.append(weights[:, None] @ _pick(rest, dropped))
        return torch.cat(parts, dim=1), kept, dropped


@dataclass
class _Pass:
    """Of one pass through a model: tokens `owner` (B, n) that stand for the n patches, -1 for none."""

    owner: Tensor
    live: Tensor  # (B, n), patches whose own token goes on
    last: Tensor | None = None  # (B, n, D), tokens of the others as they were last


class TokenTrack:
    """Follows patches through the selections of one model, and puts their tokens back on the whole grid.

    Args:
        unpool: what stands in the place of a patch that was dropped: "own", its own token as it was when it
            was dropped, or "fused", the token that it was fused into.
        prefix: tokens at the head of the sequence.

    Raises:
        ValueError: another word.
    """

    def __init__(self, *, unpool: Unpool, prefix: int) -> None:
        if unpool not in get_args(Unpool):
            raise ValueError(unknown_name("unpool", unpool, get_args(Unpool)))
        self.unpool, self.prefix = unpool, prefix
        self._passes: dict[int, _Pass | None] = {}  # of each thread, so that several may use a model at once

    def begin(self) -> None:
        """A pass begins."""
        self._passes[threading.get_ident()] = None

    def advance(self, tokens: Tensor, kept: Tensor, dropped: Tensor, *, fused: bool) -> None:
        """Note a selection.

        Args:
            tokens: (B, P + n, D) before it.
            kept: see `TokenSelection`.
            dropped: the same.
            fused: the dropped ones were put into one token.
        """
        number, count = threading.get_ident(), kept.shape[1]
        at = torch.arange(count + dropped.shape[1], device=kept.device).expand(kept.shape[0], -1)
        before = self._passes.get(number)
        if before is None:
            before = _Pass(at, torch.ones_like(at, dtype=torch.bool))
        place = torch.empty_like(at).scatter(1, torch.cat([kept, dropped], dim=1), at)
        owner = place.gather(1, before.owner.clamp_min(0))
        owner = owner.clamp_max(count) if fused else torch.where(owner < count, owner, -1)
        owner = torch.where(before.owner < 0, before.owner, owner)
        live = before.live & (owner < count) & (owner >= 0)
        last = before.last
        if self.unpool == "own":
            now = _pick(tokens[:, self.prefix :], before.owner.clamp_min(0))
            last = now if last is None else torch.where(before.live[..., None], now, last)
        self._passes[number] = _Pass(owner, live, last)

    def finish(self, _block: nn.Module, _inputs: Any, output: Any) -> Any:
        """Forward hook of the last block: (B, P + n, D) again, for all n patches."""
        done = self._passes.pop(threading.get_ident(), None)
        if done is None:
            return None
        tokens, *others = output if isinstance(output, tuple) else (output,)
        whole = _pick(tokens[:, self.prefix :], done.owner.clamp_min(0))
        if done.last is not None:
            whole = torch.where(done.live[..., None], whole, done.last.to(whole.dtype))
        whole = torch.cat([tokens[:, : self.prefix], whole], dim=1)
        return (whole, *others) if isinstance(output, tuple) else whole


@dataclass(frozen=True)
class Stage:
    """One selection of a pass.

    Attributes:
        block: index of the block.
        kept: (B, K) indices in the list of tokens BEFORE it, by falling score, the prefix not counted.
        dropped: (B, n - K), the rest.
        fused: they were put into one token at the end of the list.
    """

    block: int
    kept: Tensor
    dropped: Tensor
    fused: bool


def original_places(stages: Sequence[Stage]) -> list[Tensor]:
    """Of each stage the patches (B, K) whose own tokens it kept, -1 for fused tokens among them.

    Each stage tells indices of the list that the one before it left; here they are those of the image.
    """
    found: list[Tensor] = []
    before: Tensor | None = None
    for stage in stages:
        kept = stage.kept if before is None else before.gather(1, stage.kept)
        found.append(kept)
        before = torch.cat([kept, torch.full_like(kept[:, :1], -1)], dim=1) if stage.fused else kept
    return found


def _pick(tokens: Tensor, indices: Tensor) -> Tensor:
    """Tokens (B, n, D) at (B, m) indices."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[2]))
