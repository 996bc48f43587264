"""Time-invariant state-space layers: S4 (arXiv 2111.00396), S4D (arXiv 2206.11893), S5 (arXiv 2208.04933).

Each core maps (B, L, H) to (B, L, H): `forward` at once, `continued` from a state, `step` for one token. S4
and S4D are one system a channel and are followed by a layer that mixes channels; S5 is one system of all
channels. `StateSpaceMixer` is a core with its activation and mixing.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.state_space_theory import (
    RULES,
    Rates,
    Rule,
    diagonal_rates,
    discretise_diagonal,
    hippo_legs,
    legs_eigenbasis,
    legs_low_rank,
)
from foveal.kernels.long_convolution import (
    causal_convolution,
    diagonal_scan,
    geometric_kernel,
    geometric_state,
)

Gate = Literal["glu", "linear", "self"]
GATES: tuple[Gate, ...] = ("glu", "linear", "self")


class _DiagonalRates(nn.Module):
    """Rates -exp(log_rate) + i speed, whose real part stays below 0 however they are trained."""

    def __init__(self, rates: Tensor) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.log(-rates.real).float())
        self.speed = nn.Parameter(rates.imag.float().clone())

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"log_rate", "speed"}

    def forward(self) -> Tensor:
        return torch.complex(-torch.exp(self.log_rate), self.speed)


class S4D(nn.Module):
    """One diagonal complex system a channel: (B, L, H) to (B, L, H).

    y_l = 2 Re sum_n C_n s_ln + D u_l over N / 2 conjugate pairs; B is 1, as C could take it up.

    Args:
        dim: channels H.
        states: N of each, even.
        rates: of the untrained layer; see `diagonal_rates`.
        rule: of the discretisation.
        step_range: between which steps of channels are log-uniform.

    Raises:
        ValueError: an odd number of states, unknown rates or rule, or steps that are not above 0.
    """

    def __init__(
        self,
        dim: int,
        *,
        states: int = 64,
        rates: Rates = "legs",
        rule: Rule = "zoh",
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"rule={rule!r}; allowed: {', '.join(RULES)}")
        self.rule: Rule = rule
        self.rates = _DiagonalRates(diagonal_rates(states, kind=rates).repeat(dim, 1))
        self.log_step = nn.Parameter(_log_steps(dim, step_range))
        self.C = nn.Parameter(torch.randn(dim, states // 2, 2) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(dim))

    def _system(self) -> tuple[Tensor, Tensor]:
        """log(Ab) and C Bb, (H, N / 2)."""
        log_decay, factor = discretise_diagonal(self.rates(), self.log_step.exp()[:, None], rule=self.rule)
        return log_decay, torch.view_as_complex(self.C) * factor

    def kernel(self, length: int) -> Tensor:
        """K (H, length)."""
        log_decay, weights = self._system()
        return geometric_kernel(weights, log_decay, length)

    def forward(self, u: Tensor) -> Tensor:
        """Convolve from an empty state."""
        return causal_convolution(u, self.kernel(u.shape[1])) + self.D * u

    def continued(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output after a state (B, H, N / 2), complex, and the state after it."""
        y, length = self(u), u.shape[1]
        log_decay, weights = self._system()
        last = geometric_state(u.to(self.D.dtype), log_decay)
        if state is not None:
            state = state * log_decay.exp()
            y = y + geometric_kernel(weights * state, log_decay, length).mT.to(y.dtype)
            last = last + state * torch.exp(log_decay * (length - 1))
        return y, last

    def step(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One token (B, H): its output and the next state."""
        log_decay, weights = self._system()
        new = u[..., None].to(log_decay.dtype)
        state = new.expand(-1, -1, log_decay.shape[1]) if state is None else state * log_decay.exp() + new
        return 2 * (weights * state).sum(dim=-1).real + self.D * u, state


class S4State(NamedTuple):
    """What S4 remembers: `values` (B, H, N), and the system that they belong to, which steps use again.

    `Ab`: (H, N, N); `Bb`, `C`: (H, N); all complex.
    """

    values: Tensor
    Ab: Tensor
    Bb: Tensor
    C: Tensor


class S4(nn.Module):
    """One system a channel, diagonal plus low rank, A = V (diag(lambda) - P P^*) V^*: (B, L, H) to (B, L, H).

    It starts as HiPPO-LegS. The kernel's transform at the roots of unity is that of the bilinear rule, four
    Cauchy sums joined by Woodbury's identity; the inverse transform gives the kernel of any length.

    Args:
        dim: channels H.
        states: N of each, even.
        step_range: between which steps of channels are log-uniform.

    Raises:
        ValueError: an odd number of states, or steps that are not above 0.
    """

    def __init__(self, dim: int, *, states: int = 64, step_range: tuple[float, float] = (1e-3, 1e-1)) -> None:
        super().__init__()
        values, V = legs_eigenbasis(states)
        _, B = hippo_legs(states)
        self.rates = _DiagonalRates(values.repeat(dim, 1))
        self.P = nn.Parameter(_as_real(V.mH @ legs_low_rank(states).to(V.dtype)).repeat(dim, 1, 1))
        self.B = nn.Parameter(_as_real(V.mH @ B.to(V.dtype)).repeat(dim, 1, 1))
        self.C = nn.Parameter(torch.randn(dim, states // 2, 2) * math.sqrt(0.5))
        self.log_step = nn.Parameter(_log_steps(dim, step_range))
        self.D = nn.Parameter(torch.randn(dim))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """lambda, P, B and C with their conjugates, (H, N), and the steps (H, 1)."""
        lam, P, B, C = (
            _pairs(x) for x in (self.rates(), *map(torch.view_as_complex, (self.P, self.B, self.C)))
        )
        return lam, P, B, C, self.log_step.exp()[:, None]

    def system(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ab (H, N, N), Bb (H, N) and C (H, N) of the recurrence, by the bilinear rule."""
        lam, P, B, C, step = self._parts()
        A = torch.diag_embed(lam) - P[..., :, None] * P.conj()[..., None, :]
        identity = torch.eye(lam.shape[-1], dtype=lam.dtype, device=lam.device)
        left = identity - step[..., None] / 2 * A
        both = torch.cat([identity + step[..., None] / 2 * A, (step * B)[..., None]], dim=-1)
        solved = torch.linalg.solve(left, both)
        return solved[..., :-1], solved[..., -1], C

    def kernel(self, length: int) -> Tensor:
        """K (H, length)."""
        if length < 1:
            raise ValueError(f"length={length}; allowed: 1 token or more")
        lam, P, B, C, step = self._parts()
        Ab, _, _ = self.system()
        half = lam.shape[-1] // 2
        lam, P, B, C = (x[:, :half] for x in (lam, P, B, _cut(C, Ab, length)))
        return _kernel_by_cauchy(lam, P, B, C, step, length)

    def forward(self, u: Tensor) -> Tensor:
        """Convolve from an empty state."""
        return causal_convolution(u, self.kernel(u.shape[1])) + self.D * u

    def continued(self, u: Tensor, state: S4State | None) -> tuple[Tensor, S4State]:
        """The output after a state, and the state after it."""
        Ab, Bb, C = self.system() if state is None else state[1:]
        batch, length, dim = u.shape
        size = min(64, length)
        here = Ab.new_zeros(batch, dim, Ab.shape[-1]) if state is None else state.values
        driven, responses = Bb, []
        row, rows = C[:, None], []
        for _ in range(size):
            responses.append(driven)
            driven = (Ab @ driven[..., None])[..., 0]
            row = row @ Ab
            rows.append(row[:, 0])
        free = torch.stack(rows, dim=-1)  # C Ab^(i + 1), (H, N, T)
        driven = torch.stack(responses[::-1], dim=1)  # Ab^(T - 1 - i) Bb, (H, T, N)
        whole = torch.linalg.matrix_power(Ab, size)
        outputs = []
        wide = u.to(self.D.dtype)
        for start in range(0, length, size):
            part = wide[:, start : start + size].transpose(1, 2)  # (B, H, t)
            count = part.shape[-1]
            outputs.append(torch.einsum("bhn,hnt->bth", here, free[..., :count]).real)
            power = whole if count == size else torch.linalg.matrix_power(Ab, count)
            made = torch.einsum("bht,htn->bhn", part.to(driven.dtype), driven[:, size - count :])
            here = torch.einsum("hnm,bhm->bhn", power, here) + made
        y = self(u)
        return (y if state is None else y + torch.cat(outputs, dim=1).to(y.dtype)), S4State(here, Ab, Bb, C)

    def step(self, u: Tensor, state: S4State | None) -> tuple[Tensor, S4State]:
        """One token (B, H): its output and the next state."""
        Ab, Bb, C = self.system() if state is None else state[1:]
        values = Bb * u[..., None]
        if state is not None:
            values = values + torch.einsum("hnm,bhm->bhn", Ab, state.values)
        return (C * values).sum(dim=-1).real + self.D * u, S4State(values, Ab, Bb, C)


class S5(nn.Module):
    """One system of all channels with a diagonal state: (B, L, H) to (B, L, H).

    x_l = exp(lambda d) x_{l-1} + Bb u_l and y = 2 Re(C x) + D u, with B (P / 2, H) and C (H, P / 2) complex,
    in the eigenbasis of LegS's normal part, repeated in blocks along the diagonal.

    Args:
        dim: channels H.
        states: P.
        blocks: into which the states are divided.
        rule: of the discretisation.
        step_range: between which steps of states are log-uniform.

    Raises:
        ValueError: states that do not divide into blocks of an even number, an unknown rule, or bad steps.
    """

    def __init__(
        self,
        dim: int,
        *,
        states: int = 64,
        blocks: int = 1,
        rule: Rule = "zoh",
        step_range: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        if blocks < 1 or states % (2 * blocks):
            raise ValueError(
                f"states={states} in {blocks} blocks; allowed: blocks of an even number of states"
            )
        if rule not in RULES:
            raise ValueError(f"rule={rule!r}; allowed: {', '.join(RULES)}")
        self.rule: Rule = rule
        values, V = legs_eigenbasis(states // blocks)
        V = torch.block_diag(*[V] * blocks)
        self.rates = _DiagonalRates(values.repeat(blocks))
        self.B = nn.Parameter(_as_real(V.mH @ (torch.randn(states, dim) / math.sqrt(dim)).to(V.dtype)))
        self.C = nn.Parameter(_as_real((torch.randn(dim, states) / math.sqrt(states)).to(V.dtype) @ V))
        self.log_step = nn.Parameter(_log_steps(states // 2, step_range))
        self.D = nn.Parameter(torch.randn(dim))

    def _driven(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The decays (P / 2,), and what each token adds to the state, (..., P / 2)."""
        log_decay, factor = discretise_diagonal(self.rates(), self.log_step.exp(), rule=self.rule)
        wide = u.to(self.D.dtype)
        added = torch.complex(F.linear(wide, self.B[..., 0]), F.linear(wide, self.B[..., 1]))
        return log_decay.exp(), factor * added

    def _read(self, x: Tensor, u: Tensor) -> Tensor:
        y = F.linear(x.real, self.C[..., 0]) - F.linear(x.imag, self.C[..., 1])
        return (2 * y + self.D * u).to(u.dtype)

    def forward(self, u: Tensor) -> Tensor:
        """Scan from an empty state."""
        return self.continued(u, None)[0]

    def continued(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output after a state (B, P / 2), complex, and the state after it."""
        x = diagonal_scan(*self._driven(u), state)
        return self._read(x, u), x[:, -1]

    def step(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One token (B, H): its output and the next state."""
        decay, added = self._driven(u)
        state = added if state is None else decay * state + added
        return self._read(state, u), state


class StateSpaceMixer(nn.Module):
    """A core, GELU and a mixing of channels: (B, L, H) to (B, L, H).

    Args:
        core: S4, S4D or S5.
        dim: channels H.
        gate: `glu`: a linear layer to 2 H and GLU; `linear`: a linear layer; `self` (S5): the activation
            times the sigmoid of a linear layer of it.
    """

    def __init__(self, core: S4 | S4D | S5, dim: int, *, gate: Gate = "glu") -> None:
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate={gate!r}; allowed: {', '.join(GATES)}")
        self.core, self.gate = core, gate
        self.mix = nn.Linear(dim, 2 * dim if gate == "glu" else dim)

    def _mixed(self, y: Tensor) -> Tensor:
        y = F.gelu(y)
        if self.gate == "self":
            return y * torch.sigmoid(self.mix(y))
        return F.glu(self.mix(y), dim=-1) if self.gate == "glu" else self.mix(y)

    def forward(self, u: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        return self._mixed(self.core(u))

    def continued(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The output after a state of the core, and the state after it."""
        y, state = self.core.continued(u, state)
        return self._mixed(y), state

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token (B, H): its output and the next state."""
        y, state = self.core.step(u, state)
        return self._mixed(y), state


def _kernel_by_cauchy(lam: Tensor, P: Tensor, B: Tensor, C: Tensor, step: Tensor, length: int) -> Tensor:
    """The kernel whose transform at z is 2 C (2 (1 - z) / d - (1 + z) A)^-1 B; C is cut to the length.

    lam, P, B and C (H, N / 2) are one of each conjugate pair, and half of the roots of unity tell the
    transform of a real kernel. With g = 2 (1 - z) / d and p = 1 + z the terms w / (g - p lam) of a pair are
    together 2 (Re(w) g - Re(w conj(lam)) p) / ((g - p lam) (g - p conj(lam))). All factors are multiplied by
    1 + z, so that z = -1, where Cauchy's sums are infinite, is as any other.
    """
    turns = torch.arange(length // 2 + 1, device=lam.device, dtype=lam.real.dtype) * (-2 * math.pi / length)
    z = torch.polar(torch.ones_like(turns), turns)
    g, p = 2 * (1 - z) / step, 1 + z  # (H, F), (F,)
    poles = (g[:, None] - p * lam[..., None]) * (g[:, None] - p * lam.conj()[..., None])  # (H, N / 2, F)
    terms = torch.view_as_real(1 / poles).flatten(-2)
    weights = torch.stack([C * B, C * P, P.conj() * P, P.conj() * B], dim=1)  # (H, 4, N / 2)
    weights = 2 * torch.cat([weights.real, -(weights * lam.conj()[:, None]).real], dim=1)
    by_g, by_p = torch.view_as_complex((weights @ terms).unflatten(-1, (-1, 2))).chunk(2, dim=1)
    CB, CP, PP, PB = (by_g * g[:, None] + by_p * p).unbind(1)
    return torch.fft.irfft(2 * (CB - CP * (p / (1 + p * PP)) * PB), n=length)


def _cut(C: Tensor, Ab: Tensor, length: int) -> Tensor:
    """C (I - Ab^length): makes the transform of all lags that of the first `length` ones."""
    row, power, left = C[:, None], Ab, length
    while left:
        row = row @ power if left & 1 else row
        left >>= 1
        power = power @ power if left else power
    return C - row[:, 0]


def _log_steps(count: int, step_range: tuple[float, float]) -> Tensor:
    low, high = step_range
    if not 0 < low <= high:
        raise ValueError(f"step_range={step_range}; allowed: two ascending numbers above 0")
    return torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low)


def _as_real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.to(torch.complex64)).clone()


def _pairs(x: Tensor) -> Tensor:
    return torch.cat([x, x.conj()], dim=-1)
