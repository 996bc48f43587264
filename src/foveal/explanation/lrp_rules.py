"""Rules of layer-wise relevance propagation for layers that are linear: how outputs share out relevance.

The relevance of an output k, R_k, goes to the inputs j in proportion to what they add to it. Every rule is
told by the contributions z_jk that it counts (Bach et al., PLOS ONE 2015; Montavon et al., 2017; Andeol et
al., 2021).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_SIDES: tuple[dict[str, float], ...] = ({"min": 0}, {"max": 0})
Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A linear map of inputs, weights and a bias: F.linear, a convolution."""


class Rule(ABC):
    """Shares the relevance of a layer's outputs out to its inputs."""

    @abstractmethod
    def relevance(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """Relevance of the inputs, of the shape of `x`, from that of the outputs."""

    def gradient(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """What times x is the relevance of x; 0 where x is 0, whatever its relevance."""
        found = self.relevance(layer, x, weight, bias, relevance)
        return torch.where(
            x == 0, torch.zeros_like(found), found / torch.where(x == 0, torch.ones_like(x), x)
        )


class _ByContribution(Rule):
    """A rule by which an input of 0 has no relevance; it tells the modified gradient."""

    @abstractmethod
    def gradient(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""

    def relevance(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        return x * self.gradient(layer, x, weight, bias, relevance)


@dataclass(frozen=True)
class Epsilon(_ByContribution):
    """z_jk = x_j w_jk, over the output plus a little of its sign; the bias keeps its share.

    Attributes:
        epsilon: added to the output, away from 0.
        zero_bias: share out what the bias keeps as well.
        signed: add by the output's sign; unsigned, as the official code does, it may explode near -epsilon.
    """

    epsilon: float = 1e-6
    zero_bias: bool = False
    signed: bool = True

    def gradient(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        z, pull = _passed(layer, x, weight, None if self.zero_bias else bias)
        return pull(relevance / self._below(z))

    def factor(self, z: Tensor, bias: Tensor | None) -> Tensor:
        """What the gradient at an output z, whose bias broadcasts to it, is times under this rule."""
        return z / self._below(z - bias if self.zero_bias and bias is not None else z)

    def _below(self, z: Tensor) -> Tensor:
        return stabilised(z, self.epsilon) if self.signed else z + self.epsilon


@dataclass(frozen=True)
class Gamma(_ByContribution):
    """Contributions of the output's own sign count 1 + gamma times; gamma = 0 is `Epsilon`.

    Attributes:
        gamma: how much more; for inputs and outputs of either sign.
        epsilon: of the division.
        zero_bias: share out what the bias keeps as well.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    zero_bias: bool = False

    def gradient(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        bias = None if self.zero_bias else bias
        weights = [weight + self.gamma * weight.clamp(**side) for side in _SIDES]
        shifts = [None if bias is None else bias + self.gamma * bias.clamp(**side) for side in _SIDES]
        z = layer(x, weight, bias)
        gradient = torch.zeros_like(x)
        for own, chosen in enumerate((z > 0, z < 0)):  # outputs above 0, outputs below
            total, pull = _by_sign(layer, x, weights[own], weights[1 - own], shifts[own])
            gradient += pull(torch.where(chosen, relevance / stabilised(total, self.epsilon), 0.0))
        return gradient


@dataclass(frozen=True)
class AlphaBeta(_ByContribution):
    """Contributions above 0 get alpha of the relevance, those below -beta; alpha - beta = 1.

    alpha = 1 is the z+ rule: relevance of outputs that is not negative makes that of inputs so.

    Attributes:
        alpha: at least 1.
        beta: at least 0.
        epsilon: of the divisions.
        zero_bias: share out what the bias keeps as well.
    """

    alpha: float = 1.0
    beta: float = 0.0
    epsilon: float = 1e-6
    zero_bias: bool = False

    def __post_init__(self) -> None:
        if self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(
                f"alpha is {self.alpha}, beta {self.beta}; allowed: alpha - beta = 1 and beta at least 0"
            )

    def gradient(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        bias = None if self.zero_bias else bias
        weights = [weight.clamp(**side) for side in _SIDES]
        gradient = torch.zeros_like(x)
        for own, factor in enumerate((self.alpha, -self.beta)):
            if factor == 0:
                continue
            shift = None if bias is None else bias.clamp(**_SIDES[own])
            total, pull = _by_sign(layer, x, weights[own], weights[1 - own], shift)
            gradient += pull(factor * relevance / stabilised(total, self.epsilon))
        return gradient


@dataclass(frozen=True)
class Flat(Rule):
    """Every input of an output gets the same, whatever its value; for pixels.

    Attributes:
        epsilon: of the division.
    """

    epsilon: float = 1e-6

    def relevance(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        total, pull = _passed(layer, torch.ones_like(x), torch.ones_like(weight), None)
        return pull(relevance / stabilised(total, self.epsilon))


@dataclass(frozen=True)
class WSquare(Rule):
    """Inputs get by the square of their weights, whatever their values; for pixels.

    Attributes:
        epsilon: of the division.
    """

    epsilon: float = 1e-6

    def relevance(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        total, pull = _passed(layer, torch.ones_like(x), weight.square(), None)
        return pull(relevance / stabilised(total, self.epsilon))


@dataclass(frozen=True)
class Box(Rule):
    """z_jk = x_j w_jk - l_j w_jk^+ - h_j w_jk^-, for inputs known to lie in [l, h]; for pixels.

    Attributes:
        low: l, a number or a tensor that broadcasts to the inputs.
        high: h.
        epsilon: of the division.
    """

    low: float | Tensor
    high: float | Tensor
    epsilon: float = 1e-6

    def relevance(
        self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor
    ) -> Tensor:
        """See `Rule`."""
        low, high = (
            torch.as_tensor(end, dtype=x.dtype, device=x.device).expand_as(x) for end in (self.low, self.high)
        )
        above, below = (weight.clamp(**side) for side in _SIDES)
        shifts = (None, None, None) if bias is None else (bias, *(bias.clamp(**side) for side in _SIDES))
        (z, of_x), (z_low, of_low), (z_high, of_high) = (
            _passed(layer, *given)
            for given in ((x, weight, shifts[0]), (low, above, shifts[1]), (high, below, shifts[2]))
        )
        share = relevance / stabilised(z - z_low - z_high, self.epsilon)
        return x * of_x(share) - low * of_low(share) - high * of_high(share)


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z moved away from 0 by `epsilon` towards its own sign, that of 0 too."""
    return z + torch.copysign(torch.tensor(epsilon, dtype=z.dtype), z)  # a third of the time of `where`


def _passed(
    layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The outputs, and a function from shares of them to sum over k of weight_jk share_k at every input j."""
    with torch.enable_grad():
        given = x.detach().requires_grad_()
        z = layer(given, weight, bias)
    return z.detach(), lambda share: torch.autograd.grad(z, given, share)[0]


def _by_sign(
    layer: Layer, x: Tensor, weight_above: Tensor, weight_below: Tensor, bias: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Like `_passed`, with one weight for inputs above 0 and another for those below; 0 where x is 0."""
    total, pull = _passed(layer, x.clamp(min=0), weight_above, bias)
    if bool((x >= 0).all()):  # as after a ReLU
        return total, lambda share: torch.where(x > 0, pull(share), 0.0)
    more, pull_below = _passed(layer, x.clamp(max=0), weight_below, None)

    def both(share: Tensor) -> Tensor:
        return torch.where(x > 0, pull(share), torch.where(x < 0, pull_below(share), 0.0))

    return total + more, both
