"""Variational inference of PACE: Gaussian topics of patch tokens, weighted by attention (arXiv 2406.12649).

theta ~ Dirichlet(alpha), z_j ~ Cat(theta), token e_j | z_j = k ~ N(mu_k, Sigma_k), each token with a weight
a_j; q(theta) = Dirichlet(gamma), q(z_j) = Cat(phi_j). Shapes: B images, J tokens, K concepts, d dimensions,
N classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.settings import unknown_name

Weighting = Literal["power", "likelihood", "count"]
Start = Literal["even", "random"]
_CHUNK = 4096  # tokens whose distances to all concepts are held at once
_HALVINGS = 6  # of a step of the E-step that would lower the bound


@dataclass(frozen=True, eq=False)
class Concepts:
    """K Gaussians over tokens, the prior of their mixture, and what they say of classes.

    Attributes:
        mean: (K, d).
        covariance: (K, d, d), symmetric and positive definite.
        alpha: (K,) of the Dirichlet prior.
        eta: (N, K) logits of classes by concept; None where no classes are known.
    """

    mean: Tensor
    covariance: Tensor
    alpha: Tensor
    eta: Tensor | None = None

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Inverse Cholesky factors (K, d, d) and log-determinants (K,) of the covariances, float64.

        Raises:
            ValueError: a covariance is not positive definite.
        """
        lower, failed = torch.linalg.cholesky_ex(self.covariance.double())
        if bool(failed.any()):
            raise ValueError(
                f"covariances of concepts {failed.nonzero()[:, 0].tolist()} are not positive definite; "
                "add a multiple of the identity"
            )
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        whiten = torch.linalg.solve_triangular(lower, eye, upper=False)
        return whiten, 2 * lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)

    def log_density(self, tokens: Tensor) -> Tensor:
        """(..., K) log N(e | mu_k, Sigma_k) of tokens (..., d), in their type."""
        whiten, log_det = (x.to(tokens) for x in self.factors)
        count, dim = self.mean.shape
        shift = torch.einsum("kcd,kd->kc", whiten, self.mean.to(tokens))
        rows = whiten.reshape(count * dim, dim).mT
        squares = [
            ((part @ rows).view(-1, count, dim) - shift).square().sum(dim=-1)
            for part in tokens.reshape(-1, dim).split(_CHUNK)
        ]
        found = -0.5 * (torch.cat(squares) + log_det + dim * math.log(2 * math.pi))
        return found.view(*tokens.shape[:-1], count)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is inferred of images.

    Attributes:
        gamma: (B, K) of each image's Dirichlet.
        phi: (B, J, K) chance that a token is of a concept; rows sum to 1.
    """

    gamma: Tensor
    phi: Tensor

    @property
    def theta(self) -> Tensor:
        """(B, K) mean mixture of concepts, which sums to 1."""
        return self.gamma / self.gamma.sum(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Pull:
    """What draws the mean concept vector of an image besides its tokens: its label, and its augmented view.

    Attributes:
        probabilities: (B, N) that the model gives; None leaves the label out.
        views: (B, K) mean concept vectors of augmented views, the first the first image's; None leaves
            them out. Views of the other images are the negatives.
        label_weight: how many times the label counts.
        view_weight: how many times the contrastive term counts.
        temperature: of the contrastive term.
    """

    probabilities: Tensor | None = None
    views: Tensor | None = None
    label_weight: float = 1.0
    view_weight: float = 1.0
    temperature: float = 0.1

    def value(self, mean: Tensor, concepts: Concepts) -> Tensor:
        """(B,) E log p(label) with the softmax's normaliser at the mean, less the InfoNCE of the views."""
        total = mean.new_zeros(len(mean))
        if self.probabilities is not None:
            logits = mean @ _eta(concepts).to(mean).mT
            total = total + self.label_weight * (self.probabilities.to(mean) * logits.log_softmax(-1)).sum(-1)
        if self.views is not None:
            total = total + self.view_weight * self._similarity(mean).log_softmax(-1).diagonal()
        return total

    def gradient(self, mean: Tensor, concepts: Concepts) -> Tensor:
        """(B, K) gradient of `value` with respect to the mean concept vectors."""
        total = torch.zeros_like(mean)
        if self.probabilities is not None:
            eta = _eta(concepts).to(mean)
            given = self.probabilities.to(mean)
            said = (mean @ eta.mT).softmax(-1) * given.sum(dim=-1, keepdim=True)
            total = total + self.label_weight * (given - said) @ eta
        if self.views is not None:
            views = F.normalize(self.views.to(mean), dim=-1)
            unit = F.normalize(mean, dim=-1)
            by_unit = (views - self._similarity(mean).softmax(-1) @ views) / self.temperature
            across = by_unit - (by_unit * unit).sum(dim=-1, keepdim=True) * unit
            total = total + self.view_weight * across / mean.norm(dim=-1, keepdim=True)
        return total

    def _similarity(self, mean: Tensor) -> Tensor:
        views = self.views if self.views is not None else mean
        return F.normalize(mean, dim=-1) @ F.normalize(views.to(mean), dim=-1).mT / self.temperature


@dataclass(frozen=True, eq=False)
class Shares:
    """Powers of the parts of the likelihood for each token, (B, J, 1); `entropy` is that of q(z).

    "power" raises p(z | theta) p(e | z) to the token's weight a; "likelihood" p(e | z) alone, so that gamma
    counts every token once; "count" takes a token a times, each time with a z of its own, which is what
    duplicating it does. All three are coordinate ascent on one bound.
    """

    count: Tensor
    density: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, weights: Tensor, weighting: Weighting) -> Self:
        """Of token weights (B, J), at least 0."""
        if weighting not in get_args(Weighting):
            raise ValueError(unknown_name("weighting", weighting, get_args(Weighting)))
        a = weights.unsqueeze(-1)
        once = torch.ones_like(a)
        return cls(once if weighting == "likelihood" else a, a, a if weighting == "count" else once)

    @property
    def total(self) -> Tensor:
        """(B, 1) tokens that the mean concept vector is taken over."""
        return self.entropy.sum(dim=1)

    def mean(self, phi: Tensor) -> Tensor:
        """(B, K) mean concept vectors of phi (B, J, K)."""
        return (self.entropy * phi).sum(dim=1) / self.total.clamp_min(torch.finfo(phi.dtype).tiny)


def mean_concepts(phi: Tensor, weights: Tensor, *, weighting: Weighting = "power") -> Tensor:
    """(B, K) mean concept vectors of images: over tokens, or over what they count for."""
    return Shares.of(weights, weighting).mean(phi)


def infer(
    tokens: Tensor,
    weights: Tensor,
    concepts: Concepts,
    *,
    weighting: Weighting = "power",
    iterations: int = 10,
    pull: Pull | None = None,
    start: Start = "even",
    seed: int = 0,
) -> Posterior:
    """The E-step: coordinate ascent on `bound` in phi and gamma.

    Args:
        tokens: (B, J, d).
        weights: (B, J) at least 0, how often each token is seen; attention times J, so that their mean is 1.
        concepts: K of them.
        weighting: see `Shares`.
        iterations: of both updates.
        pull: label and augmented views; None is the inference of new images. A step that would lower an
            image's bound is halved until it does not.
        start: "even" begins with a gamma of evenly shared tokens, which makes the result a function of the
            images alone; "random" with phi drawn from a Gamma(K, 1/K), as the paper does.
        seed: of a random start.

    Raises:
        ValueError: tokens of another dimension than the concepts', weights that do not match the tokens, are
            negative or not finite, or tokens that are not finite.
    """
    check_tokens(tokens, weights, concepts.mean.shape[1])
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; at least 1 is wanted")
    shares = Shares.of(weights.to(tokens), weighting)
    alpha = concepts.alpha.to(tokens)
    density = concepts.log_density(tokens)
    fixed = shares.density * density / _positive(shares.entropy)
    of_prior = shares.count / _positive(shares.entropy)
    gamma = alpha + _first_counts(shares, len(alpha), start, seed)
    log_phi: Tensor | None = None
    for _ in range(iterations):
        expected = _expected_log(gamma).unsqueeze(1)
        plain = fixed + of_prior * expected
        if pull is None or log_phi is None:
            log_phi = plain.log_softmax(dim=-1)
        else:
            log_phi = _ascend(log_phi, plain, shares, pull, concepts)
        gamma = alpha + (shares.count * log_phi.exp()).sum(dim=1)
    assert log_phi is not None
    return Posterior(gamma, log_phi.exp())


def bound(
    tokens: Tensor,
    weights: Tensor,
    concepts: Concepts,
    found: Posterior,
    *,
    weighting: Weighting = "power",
    pull: Pull | None = None,
) -> Tensor:
    """(B,) evidence lower bound of each image, in nats: what `infer` and the M-step raise in turn."""
    shares = Shares.of(weights.to(tokens), weighting)
    alpha, gamma, phi = concepts.alpha.to(tokens), found.gamma, found.phi
    expected = _expected_log(gamma)
    prior = torch.lgamma(alpha.sum()) - torch.lgamma(alpha).sum() + ((alpha - 1) * expected).sum(-1)
    of_theta = (
        torch.lgamma(gamma).sum(-1) - torch.lgamma(gamma.sum(-1)) - ((gamma - 1) * expected).sum(dim=-1)
    )
    each = shares.count * expected.unsqueeze(1) + shares.density * concepts.log_density(tokens)
    of_tokens = (phi * each + shares.entropy * torch.special.entr(phi)).sum(dim=(1, 2))
    total = prior + of_theta + of_tokens
    return total if pull is None else total + pull.value(shares.mean(phi), concepts)


def check_tokens(tokens: Tensor, weights: Tensor, dimensions: int) -> None:
    """Refuse tokens (B, J, d) and weights (B, J) that do not fit.

    Raises:
        ValueError: tells what.
    """
    if tokens.ndim != 3 or tokens.shape[-1] != dimensions:
        raise ValueError(f"tokens of shape {tuple(tokens.shape)}; allowed: (B, J, {dimensions})")
    if weights.shape != tokens.shape[:2]:
        raise ValueError(
            f"attention of shape {tuple(weights.shape)} for tokens of {tuple(tokens.shape)}; allowed: one "
            "weight a token, (B, J)"
        )
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError("tokens hold NaN or infinity; check the images and the model")
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError("attention must be finite and at least 0 everywhere")


def _ascend(log_phi: Tensor, plain: Tensor, shares: Shares, pull: Pull, concepts: Concepts) -> Tensor:
    """A step of phi with the pull's gradient in the exponent, halved in images whose bound it would lower."""

    def gain(log_phi: Tensor) -> Tensor:
        phi = log_phi.exp()
        own = (shares.entropy * phi * (plain - log_phi)).sum(dim=(1, 2))
        return own + pull.value(shares.mean(phi), concepts)

    slope = pull.gradient(shares.mean(log_phi.exp()), concepts) / _positive(shares.total)
    target = (plain + slope.unsqueeze(1)).log_softmax(dim=-1)
    before = gain(log_phi)
    least = before - 16 * torch.finfo(before.dtype).eps * before.abs()  # a fall by rounding is none
    best, open_ = log_phi, torch.ones_like(least, dtype=torch.bool)
    for halving in range(_HALVINGS + 1):
        step = 0.5**halving
        tried = target if halving == 0 else ((1 - step) * log_phi + step * target).log_softmax(dim=-1)
        better = open_ & (gain(tried) >= least)
        best = torch.where(better[:, None, None], tried, best)
        open_ = open_ & ~better
        if not bool(open_.any()):
            break
    return best


def _first_counts(shares: Shares, concepts: int, start: Start, seed: int) -> Tensor:
    total = shares.count.sum(dim=1)
    if start == "even":
        return total.expand(-1, concepts) / concepts
    if start != "random":
        raise ValueError(unknown_name("start", start, get_args(Start)))
    generator = torch.Generator().manual_seed(seed)
    shape = (*shares.count.shape[:2], concepts)
    drawn = torch._standard_gamma(torch.full(shape, float(concepts)), generator=generator).to(shares.count)
    return (shares.count * drawn / drawn.sum(dim=-1, keepdim=True)).sum(dim=1)


def _expected_log(gamma: Tensor) -> Tensor:
    return torch.special.digamma(gamma) - torch.special.digamma(gamma.sum(dim=-1, keepdim=True))


def _eta(concepts: Concepts) -> Tensor:
    if concepts.eta is None:
        raise ValueError("these concepts know no classes; leave the probabilities out")
    return concepts.eta


def _positive(x: Tensor) -> Tensor:
    """x, with 1 in place of 0: tokens that count for nothing have no say in what is divided by it."""
    return torch.where(x > 0, x, torch.ones_like(x))
