"""The Mamba-2 mixer (Dao and Gu, arXiv 2405.21060): a gated recurrence with one decay a head."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import CausalConv, MambaState, step_bias
from foveal.kernels.gated_recurrence import Form, gated_recurrence_with_state


class GatedRMSNorm(nn.RMSNorm):
    """RMS norm of y silu(z), in one or more groups of channels: (B, L, E) to (B, L, E)."""

    def __init__(self, width: int, *, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__(width, eps=eps)
        self.groups = groups

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """Gate, then normalise each group in 32 bits."""
        gated = (y.float() if y.dtype != torch.float64 else y) * F.silu(z)
        parts = gated.unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(parts, parts.shape[-1:], eps=self.eps)
        return (normed.flatten(-2) * self.weight).to(y.dtype)


class Mamba2Mixer(nn.Module):
    """Mamba-2's mixer of tokens: (B, L, D) to (B, L, D), each token seeing those before it.

    Parameter names and shapes are those of the original code, so weights copy one to one.

    Args:
        dim: width D of a token.
        states: N, the key width of the recurrence.
        head_dim: P, the value width of a head; there are expand D / P heads.
        groups: of heads that share B and C.
        kernel_size: of the causal convolution.
        expand: inner width E over D.
        form: of the recurrence; see `foveal.kernels.gated_recurrence`.
        chunk: of its chunkwise form.

    Raises:
        ValueError: `head_dim` does not divide the inner width, or `groups` not the heads.
    """

    def __init__(
        self,
        dim: int,
        *,
        states: int = 64,
        head_dim: int = 64,
        groups: int = 1,
        kernel_size: int = 4,
        expand: float = 2,
        form: Form = "chunkwise",
        chunk: int = 64,
    ) -> None:
        super().__init__()
        width = int(expand * dim)
        heads, rest = divmod(width, head_dim)
        if rest:
            raise ValueError(
                f"an inner width of {width} (expand {expand:g} x dim {dim}) does not divide into heads of "
                f"{head_dim}; allowed: a multiple, or another head_dim"
            )
        if groups < 1 or heads % groups:
            raise ValueError(f"groups={groups} of {heads} heads; allowed: a divisor of the heads")
        self.width, self.heads, self.states, self.groups = width, heads, states, groups
        self.form: Form = form
        self.chunk = chunk
        mixed = width + 2 * groups * states
        self.in_proj = nn.Linear(dim, width + mixed + heads, bias=False)
        self.conv1d = CausalConv(mixed, kernel_size=kernel_size)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.dt_bias = nn.Parameter(step_bias(heads))
        self.norm = GatedRMSNorm(width, groups=groups)
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each sequence."""
        z, mixed, steps = self._project(x)
        y, _ = self._recur(self.conv1d.along(mixed, "forward", silu=True), steps, None)
        return self.out_proj(self.norm(y, z))

    def continued(self, x: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState]:
        """Mix the tokens that follow those of `state` (None: the first ones), and the state after them.

        The state holds the last inputs of the convolution, (B, E + 2 G N, K - 1), and the matrix of each
        head, (B, H, N, P) in 32 bits.
        """
        z, mixed, steps = self._project(x)
        memory = self.conv1d.kernel_size[0] - 1
        before = mixed.new_zeros(len(x), mixed.shape[-1], memory) if state is None else state.inputs
        joined = torch.cat([before.transpose(1, 2), mixed], dim=1)
        seen = self.conv1d.along(joined, "forward", silu=True)[:, memory:]
        y, scan = self._recur(seen, steps, None if state is None else state.scan)
        last = joined[:, joined.shape[1] - memory :].transpose(1, 2)
        return self.out_proj(self.norm(y, z)), MambaState(last, scan)

    def step(self, x: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState]:
        """One token (B, D): its output and the next state."""
        y, state = self.continued(x[:, None], state)
        return y[:, 0], state

    def _project(self, x: Tensor) -> list[Tensor]:
        mixed = self.width + 2 * self.groups * self.states
        return list(self.in_proj(x).split([self.width, mixed, self.heads], dim=-1))

    def _recur(self, mixed: Tensor, steps: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """S_t = exp(d_t A) S_{t-1} + d_t B_t^T x_t and y_t = C_t S_t + D x_t, per head."""
        keys = self.groups * self.states
        x, B, C = mixed.split([self.width, keys, keys], dim=-1)
        x = rearrange(x, "b l (h p) -> b l h p", h=self.heads)
        B, C = (rearrange(weights, "b l (g n) -> b l g n", g=self.groups) for weights in (B, C))
        steps = steps if steps.dtype == torch.float64 else steps.float()
        d = F.softplus(steps + self.dt_bias)
        y, state = gated_recurrence_with_state(
            C,
            B,
            d[..., None] * x,
            d * -torch.exp(self.A_log),
            form=self.form,
            chunk=self.chunk,
            initial_state=state,
        )
        return (y + self.D[:, None] * x).flatten(2).to(mixed.dtype), state
