"""PACE's M-step: Gaussians from weighted sums over tokens, and classes by concept (arXiv 2406.12649).

Shapes as in `pace_inference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from foveal.explanation.pace_inference import Concepts


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over tokens, weighted by a_j phi_jk, float64: all that the M-step needs.

    Attributes:
        weight: (K,).
        first: (K, d), of e.
        second: (K, d, d), of e e^T.
    """

    weight: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, tokens: Tensor, weights: Tensor, phi: Tensor) -> Self:
        """Of tokens (B, J, d) with weights (B, J) and responsibilities (B, J, K)."""
        e = tokens.double().flatten(0, 1)
        w = (phi.double() * weights.double().unsqueeze(-1)).flatten(0, 1)
        outer = (e.unsqueeze(2) * e.unsqueeze(1)).flatten(1)
        return cls(w.sum(dim=0), w.mT @ e, (w.mT @ outer).unflatten(1, (e.shape[1], e.shape[1])))

    def plus(self, other: Statistics, *, keep: float = 1.0, take: float = 1.0) -> Statistics:
        """keep * self + take * other; weight is conserved where both add to 1."""
        return Statistics(
            keep * self.weight + take * other.weight,
            keep * self.first + take * other.first,
            keep * self.second + take * other.second,
        )


@dataclass(frozen=True, eq=False)
class Prior:
    """`strength` tokens more of each concept, spread as N(mu0_k, S).

    Attributes:
        mean: (K, d).
        strength: 0 is none.
        spread: (d, d) S; None is the identity.
    """

    mean: Tensor
    strength: float
    spread: Tensor | None = None

    def log_density(self, concepts: Concepts) -> Tensor:
        """Its share of what `maximise` raises: expected log-likelihood of those tokens, up to a constant."""
        whiten, log_det = concepts.factors
        shift = torch.einsum("kcd,kd->kc", whiten, concepts.mean.double() - self.mean.double())
        known = torch.eye(shift.shape[1]).to(shift) if self.spread is None else self.spread.to(shift)
        trace = torch.einsum("kcd,de,kce->k", whiten, known, whiten)
        return -0.5 * self.strength * (log_det + trace + shift.square().sum(dim=1)).sum()


def maximise(
    statistics: Statistics, prior: Prior, *, seen: float | Tensor | None = None, ridge: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """The M-step: means (K, d) and covariances (K, d, d), float64.

    The mean of tokens and prior, and their covariance about the new mean: of both together the exact
    maximum, but for the ridge. A concept without tokens falls back to the prior.

    Args:
        statistics: of the tokens.
        prior: what is known before.
        seen: number that the tokens count for against the prior's strength, of each concept or of all; their
            weight by default.
        ridge: added to the diagonals.
    """
    weight = statistics.weight
    n = weight if seen is None else torch.as_tensor(seen, dtype=weight.dtype, device=weight.device)
    n = torch.where(weight > torch.finfo(weight.dtype).tiny, n, torch.zeros_like(weight))
    share = (n / (n + prior.strength)).nan_to_num(0.0).unsqueeze(-1)
    safe = weight.clamp_min(torch.finfo(weight.dtype).tiny).unsqueeze(-1)
    before = prior.mean.to(weight)
    own = statistics.first / safe
    mean = share * own + (1 - share) * before
    scatter = statistics.second / safe.unsqueeze(-1) - _outer(own) + _outer(own - mean)
    eye = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
    share = share.unsqueeze(-1)
    known = eye if prior.spread is None else prior.spread.to(mean)
    covariance = share * scatter + (1 - share) * (known + _outer(mean - before)) + ridge * eye
    return mean, (covariance + covariance.mT) / 2


def learn_labels(
    eta: Tensor, mean: Tensor, probabilities: Tensor, *, learning_rate: float, steps: int = 1
) -> Tensor:
    """Gradient ascent of eta (N, K) on the mean log-likelihood of soft labels (B, N) of images (B, K)."""
    mean, given = mean.to(eta), probabilities.to(eta)
    for _ in range(steps):
        missed = given - (mean @ eta.mT).softmax(dim=-1)
        eta = eta + learning_rate * missed.mT @ mean / len(mean)
    return eta


def _outer(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) * x.unsqueeze(-2)
