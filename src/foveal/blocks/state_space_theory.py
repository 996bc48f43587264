"""Continuous linear systems x' = A x + B u: discretisation, HiPPO-LegS, its normal part, diagonal rates.

HiPPO (arXiv 2008.07669), S4 (arXiv 2111.00396), S4D (arXiv 2206.11893).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from foveal.kernels.long_convolution import check_stable

Rule = Literal["zoh", "bilinear", "euler"]
RULES: tuple[Rule, ...] = ("zoh", "bilinear", "euler")
Rates = Literal["lin", "inv", "legs", "real"]
RATES: tuple[Rates, ...] = ("lin", "inv", "legs", "real")


def discretise(A: Tensor, B: Tensor, step: float | Tensor, *, rule: Rule = "zoh") -> tuple[Tensor, Tensor]:
    """The matrices of x_l = Ab x_{l-1} + Bb u_l for a step of time.

    Args:
        A: (..., N, N), B: (..., N, M), real or complex.
        step: d > 0, a number or broadcastable to (..., 1, 1).
        rule: `zoh`: Ab = exp(d A), Bb = A^-1 (Ab - I) B; `bilinear`: Ab = (I - dA/2)^-1 (I + dA/2),
            Bb = (I - dA/2)^-1 d B; `euler` (Mamba): Ab = exp(d A), Bb = d B.

    Raises:
        ValueError: an unknown rule, or a step that is not above 0.
    """
    _check_rule(rule, step)
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)
    if rule == "bilinear":
        left = identity - step / 2 * A
        return torch.linalg.solve(left, identity + step / 2 * A), torch.linalg.solve(left, step * B)
    if rule == "euler":
        return torch.linalg.matrix_exp(step * A), step * B
    # exp of [[A, B], [0, 0]] holds both, and needs no inverse of A, which may be singular.
    inputs = B.shape[-1]
    joined = torch.cat([step * A, step * B], dim=-1)
    joined = torch.cat(
        [joined, torch.zeros_like(joined[..., :1, :]).expand(*joined.shape[:-2], inputs, -1)], -2
    )
    both = torch.linalg.matrix_exp(joined)[..., : A.shape[-1], :]
    return both[..., : A.shape[-1]], both[..., A.shape[-1] :]


def discretise_diagonal(rates: Tensor, step: Tensor, *, rule: Rule = "zoh") -> tuple[Tensor, Tensor]:
    """log(Ab) and Bb / B of a diagonal system with these rates (complex, real part below 0), elementwise.

    Raises:
        ValueError: an unknown rule, a step that is not above 0, or a rate that does not decay.
    """
    _check_rule(rule, step)
    check_stable(rates)
    small = step * rates
    if rule == "bilinear":
        return torch.log1p(small / 2) - torch.log1p(-small / 2), step / (1 - small / 2)
    if rule == "euler":
        return small, step + torch.zeros_like(rates)
    return small, torch.expm1(small) / rates


def hippo_legs(states: int) -> tuple[Tensor, Tensor]:
    """A (N, N) and B (N,) of HiPPO-LegS in 64 bits: projection of the past on Legendre polynomials.

    A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above; B_n = sqrt(2n+1).
    """
    if states < 1:
        raise ValueError(f"states={states}; allowed: 1 or more")
    n = torch.arange(states, dtype=torch.float64)
    B = torch.sqrt(2 * n + 1)
    return -(torch.outer(B, B).tril(-1) + torch.diag(n + 1)), B


def legs_projection(signal: Tensor, *, states: int) -> Tensor:
    """Coefficients (N,) of a signal (L,) on [0, t] by the recurrence c' = (A c + B f) / t, bilinear in time.

    `legs_reconstruction` gives the signal back.
    """
    A, B = hippo_legs(states)
    identity = torch.eye(states, dtype=torch.float64)
    coefficients = torch.zeros(states, dtype=torch.float64)
    for k, value in enumerate(signal.double().tolist(), start=1):
        right = (identity + A / (2 * k)) @ coefficients + B * (value / k)
        coefficients = torch.linalg.solve_triangular(identity - A / (2 * k), right[:, None], upper=False)[
            :, 0
        ]
    return coefficients


def legs_reconstruction(coefficients: Tensor, times: Tensor) -> Tensor:
    """f(x) = sum_n c_n sqrt(2n+1) P_n(2x - 1) at times x in [0, 1] of the past."""
    x, total = 2 * times.double() - 1, torch.zeros_like(times, dtype=torch.float64)
    before, here = torch.zeros_like(x), torch.ones_like(x)
    for n, c in enumerate(coefficients.tolist()):
        total = total + c * math.sqrt(2 * n + 1) * here
        before, here = here, ((2 * n + 1) * x * here - n * before) / (n + 1)
    return total


def legs_low_rank(states: int) -> Tensor:
    """P (N,) with P_n = sqrt(n + 1/2): A + P P^T of HiPPO-LegS is normal."""
    return torch.sqrt(torch.arange(states, dtype=torch.float64) + 0.5)


def legs_eigenbasis(states: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues -1/2 + i w (N / 2,), w > 0 ascending, and eigenvectors V (N, N / 2) of LegS's normal part.

    The other half are the conjugates of these; V with its conjugate is unitary.

    Raises:
        ValueError: an odd number of states.
    """
    if states < 2 or states % 2:
        raise ValueError(f"states={states}; allowed: an even number, as states come in conjugate pairs")
    A, _ = hippo_legs(states)
    P = legs_low_rank(states)
    skew = A + torch.outer(P, P) + 0.5 * torch.eye(states, dtype=torch.float64)
    # i times a skew matrix is Hermitian: its eigenvalues are real to the last digit, and ascending.
    values, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    half = states // 2
    return torch.complex(torch.full((half,), -0.5, dtype=torch.float64), values[half:]), vectors[:, half:]


def diagonal_rates(states: int, *, kind: Rates = "legs") -> Tensor:
    """Rates (N / 2,) of one of each conjugate pair, complex, 64 bits a part.

    `lin`: -1/2 + i pi n; `inv`: -1/2 + i (N / pi)(N / (2n+1) - 1); `legs`: of LegS's normal part; `real`:
    -(n+1).

    Raises:
        ValueError: an unknown kind, or an odd number of states.
    """
    if kind not in RATES:
        raise ValueError(f"kind={kind!r}; allowed: {', '.join(RATES)}")
    if states < 2 or states % 2:
        raise ValueError(f"states={states}; allowed: an even number, as states come in conjugate pairs")
    if kind == "legs":
        return legs_eigenbasis(states)[0]
    n = torch.arange(states // 2, dtype=torch.float64)
    if kind == "real":
        return torch.complex(-(n + 1), torch.zeros_like(n))
    speed = math.pi * n if kind == "lin" else states / math.pi * (states / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), speed)


def kernel_by_powers(Ab: Tensor, Bb: Tensor, C: Tensor, length: int) -> Tensor:
    """K_l = C Ab^l Bb for l < length of one system: Ab (N, N), Bb (N,), C (N,); the naive reference."""
    kernel, state = [], Bb
    for _ in range(length):
        kernel.append((C * state).sum())
        state = Ab @ state
    return torch.stack(kernel)


def _check_rule(rule: str, step: float | Tensor) -> None:
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}; allowed: {', '.join(RULES)}")
    least = float(step.detach().min()) if isinstance(step, Tensor) else step
    if not least > 0:
        raise ValueError(f"step={least}; allowed: above 0")
