"""Multi-head retention, attention without softmax (RetNet, arXiv 2307.08621; ViR, arXiv 2310.19731)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.kernels.gated_recurrence import FORMS, Form, gated_recurrence_with_state
from foveal.kernels.grid_recurrence import corner_recurrence, grid_recurrence

GridOrder = Literal["up-left", "corners"]
Post = Literal["ln_gelu", "gn_gate"]


def retention_decays(heads: int, *, decay_range: tuple[float, float] | None = None) -> list[float]:
    """Log decays of the heads, log g, computed in 64 bits.

    Args:
        heads: how many.
        decay_range: (shortest, longest) range 1 / (1 - g) in tokens, spread evenly in its logarithm; RetNet's
            32, 64, 128, ... where None, which for few heads reaches no further than 32 x 2^(heads - 1).

    Raises:
        ValueError: ranges of 1 token or less, or the longest below the shortest.
    """
    if decay_range is None:
        return [math.log1p(-(2.0 ** (-5 - head))) for head in range(heads)]
    shortest, longest = decay_range
    if not 1 < shortest <= longest < math.inf:
        raise ValueError(f"decay_range={decay_range}; allowed: (shortest, longest), 1 < shortest <= longest")
    share = [head / max(heads - 1, 1) for head in range(heads)]
    return [math.log1p(-1 / (shortest * (longest / shortest) ** part)) for part in share]


class Retention(nn.Module):
    """Retention of a sequence or a grid of tokens: (B, L, D) to (B, L, D), in forms that give equal numbers.

    Token n sees tokens m <= n by its product with them times g^(n - m), one decay g a head. The form may be
    changed at any time.

    Args:
        dim: width D of a token.
        heads: of width D / heads each.
        decays: g of each head, in (0, 1); RetNet's by default.
        decay_range: see `retention_decays`; in place of `decays`.
        form: how the recurrence is computed; see `foveal.kernels.gated_recurrence`.
        chunk: tokens of a chunk.
        grid: None for a sequence. "up-left" decays by the distance in rows plus that in columns, and each
            cell sees those up and left of it; "corners" is the mean of this from all four corners. Tokens
            after those of the grid, such as a class token, follow its last corner one by one.
        post: what follows the heads: layer norm over D and GELU, or RetNet's norm of each head and its gate.
        stabilise: RetNet's two divisors of each row: the root of the row sum of decays, and the size of the
            row's sum of scores where that is above 1. They leave the output of `gn_gate` as it is, but for
            the norm's epsilon, and keep numbers in range. Sequences only.
        bias: whether q, k, v have one.

    Raises:
        ValueError: heads that do not divide D, decays outside (0, 1), or options that exclude each other.
    """

    log_decay: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        decays: Sequence[float] | None = None,
        decay_range: tuple[float, float] | None = None,
        form: Form = "chunkwise",
        chunk: int = 64,
        grid: GridOrder | None = None,
        post: Post = "ln_gelu",
        stabilise: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim={dim} does not divide into heads={heads}")
        if decays is not None and decay_range is not None:
            raise ValueError("give decays or decay_range, not both")
        if decays is not None and (len(decays) != heads or not all(0 < g < 1 for g in decays)):
            raise ValueError(
                f"decays={tuple(decays)} of {heads} heads; allowed: one number a head, above 0 and below 1"
            )
        if grid not in (None, "up-left", "corners"):
            raise ValueError(f"grid={grid!r}; allowed: None, 'up-left', 'corners'")
        if post not in ("ln_gelu", "gn_gate"):
            raise ValueError(f"post={post!r}; allowed: 'ln_gelu', 'gn_gate'")
        if stabilise and grid is not None:
            raise ValueError("stabilise is for sequences; set grid=None or stabilise=False")
        self.heads, self.grid, self.stabilise = heads, grid, stabilise
        self.set_form(form, chunk=chunk)
        if decays is None:
            logs = retention_decays(heads, decay_range=decay_range)
        else:
            logs = [math.log(g) for g in decays]
        self.register_buffer("log_decay", torch.tensor(logs, dtype=torch.float64).float(), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.gate = nn.Linear(dim, dim, bias=False) if post == "gn_gate" else None
        self.norm = nn.LayerNorm(dim) if post == "ln_gelu" else nn.GroupNorm(heads, dim, affine=False)
        self.proj = nn.Linear(dim, dim)

    def set_form(self, form: Form, *, chunk: int | None = None) -> None:
        """Compute in another form from now on.

        Raises:
            ValueError: the form is not known, or the chunk has no token.
        """
        if form not in FORMS:
            raise ValueError(f"form={form!r}; allowed: {', '.join(FORMS)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk={chunk}; allowed: 1 token or more")
        self.form: Form = form
        if chunk is not None:
            self.chunk = chunk

    def init_state(self, batch: int) -> Tensor:
        """The state before the first token: (B, heads, d, d) zeros in 32 bits, d = D / heads.

        With `stabilise` it is (B, heads, d + 1, d + 1): one more row and column, that hold the sums of the
        values, of the keys and of the decays.
        """
        side = self.proj.in_features // self.heads + self.stabilise
        return torch.zeros(batch, self.heads, side, side, device=self.log_decay.device)

    def forward(self, x: Tensor, *, shape: tuple[int, int] | None = None) -> Tensor:
        """Retain over a sequence (B, L, D), or a grid of `shape` (h, w) with any tokens after it.

        Raises:
            ValueError: no shape for a grid, or one of more cells than there are tokens.
        """
        q, k, v = self._heads(x)
        if self.grid is None:
            out, _ = self._sequence(q, k, v, self.init_state(len(x)))
        else:
            out = self._over_grid(q, k, v, shape)
        return self._finish(out, x)

    def continued(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Retain over the tokens (B, L, D) that follow those of `state`; the output and the state after them.

        Raises:
            ValueError: over a grid, or a state of another batch size.
            TypeError: a state in half precision.
        """
        if self.grid is not None:
            raise ValueError(f"grid={self.grid!r} has no order of one token after the other; use grid=None")
        q, k, v = self._heads(x)
        out, state = self._sequence(q, k, v, self.init_state(len(x)) if state is None else state)
        return self._finish(out, x), state

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token (B, D): its output and the next state."""
        out, state = self.continued(x[:, None], state)
        return out[:, 0], state

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b l h d", three=3, h=self.heads)
        return q * q.shape[-1] ** -0.5, k, v

    def _sequence(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.stabilise:
            # A column of ones beside the values sums up the scores, one beside the keys the decays.
            q, k, v = F.pad(q, (0, 1)), F.pad(k, (0, 1), value=1.0), F.pad(v, (0, 1), value=1.0)
        before = state
        out, state = gated_recurrence_with_state(
            q, k, v, self.log_decay, form=self.form, chunk=self.chunk, initial_state=before
        )
        if self.stabilise:
            # sqrt(m) max(|s| / sqrt(m), 1) with s the row sum of scores and m that of decays.
            count = torch.arange(1, out.shape[1] + 1, device=out.device)[:, None]
            decayed = torch.exp(count * self.log_decay)  # (L, H)
            sums = decayed * before[:, None, :, -1, -1] + (1 - decayed) / -torch.expm1(self.log_decay)
            out, scores = out[..., :-1], out[..., -1]
            out = out / torch.maximum(scores.abs(), sums.sqrt())[..., None]
        return out, state

    def _over_grid(self, q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int] | None) -> Tensor:
        if shape is None or shape[0] * shape[1] > q.shape[1]:
            raise ValueError(
                f"shape={shape} of {q.shape[1]} tokens; retention over a grid needs its (h, w), of no more "
                "cells than tokens"
            )
        cells = shape[0] * shape[1]
        rows = {"parallel": shape[0], "recurrent": 1, "chunkwise": max(1, self.chunk // shape[1])}[self.form]
        here = tuple(x[:, :cells] for x in (q, k, v))
        if self.grid == "up-left":
            out, state = grid_recurrence(here[0], here[1], here[2], self.log_decay, grid=shape, rows=rows)
            corners = state[None, :, :, -1]
        else:
            out, corners = corner_recurrence(here[0], here[1], here[2], self.log_decay, grid=shape, rows=rows)
        if cells == q.shape[1]:
            return out
        q, k, v = (x[:, cells:] for x in (q, k, v))
        follow = [
            gated_recurrence_with_state(q, k, v, self.log_decay, initial_state=corner)[0]
            for corner in corners
        ]
        return torch.cat([out, torch.stack(follow).mean(dim=0)], dim=1)

    def _finish(self, out: Tensor, x: Tensor) -> Tensor:
        out = rearrange(out, "b l h d -> b l (h d)").to(x.dtype)
        if self.gate is None:
            return self.proj(F.gelu(self.norm(out)))
        normed = self.norm(out.flatten(0, 1)).view_as(out)
        return self.proj(normed * F.silu(self.gate(x)))
