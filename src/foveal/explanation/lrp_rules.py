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
        z = layer(x, weight, None if self.zero_bias else bias)
        below = stabilised(z, self.epsilon) if self.signed else z + self.epsilon
        return _pull_back(layer, x, weight, relevance / below)


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
        more = weight + self.gamma * weight.clamp(min=0), weight + self.gamma * weight.clamp(max=0)
        bias = None if self.zero_bias else bias
        shift = (
            (None, None)
            if bias is None
            else (bias + self.gamma * bias.clamp(min=0), bias + self.gamma * bias.clamp(max=0))
        )
        up, down = x.clamp(min=0), x.clamp(max=0)
        z = layer(x, weight, bias)
        parts = []
        for sign in (0, 1):  # outputs above 0, outputs below
            own, other = more[sign], more[1 - sign]
            total = layer(up, own, shift[sign]) + layer(down, other, None)
            chosen = z > 0 if sign == 0 else z < 0
            share = torch.where(chosen, relevance / stabilised(total, self.epsilon), 0.0)
            parts.append((_pull_back(layer, x, own, share), _pull_back(layer, x, other, share)))
        of_up, of_down = parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
        return torch.where(x > 0, of_up, torch.where(x < 0, of_down, 0.0))


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
        up, down = x.clamp(min=0), x.clamp(max=0)
        signed = weight.clamp(min=0), weight.clamp(max=0)
        bias = None if self.zero_bias else bias
        of_up, of_down = torch.zeros_like(x), torch.zeros_like(x)
        for factor, own, other in ((self.alpha, 0, 1), (-self.beta, 1, 0)):
            if factor == 0:
                continue
            shift = None if bias is None else bias.clamp(min=0) if own == 0 else bias.clamp(max=0)
            total = layer(up, signed[own], shift) + layer(down, signed[other], None)
            share = factor * relevance / stabilised(total, self.epsilon)
            of_up = of_up + _pull_back(layer, x, signed[own], share)
            of_down = of_down + _pull_back(layer, x, signed[other], share)
        return torch.where(x > 0, of_up, torch.where(x < 0, of_down, 0.0))


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
        ones, even = torch.ones_like(x), torch.ones_like(weight)
        return _pull_back(layer, x, even, relevance / stabilised(layer(ones, even, None), self.epsilon))


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
        squares = weight.square()
        total = layer(torch.ones_like(x), squares, None)
        return _pull_back(layer, x, squares, relevance / stabilised(total, self.epsilon))


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
        above, below = weight.clamp(min=0), weight.clamp(max=0)
        shifts = (None, None, None) if bias is None else (bias, bias.clamp(min=0), bias.clamp(max=0))
        total = layer(x, weight, shifts[0]) - layer(low, above, shifts[1]) - layer(high, below, shifts[2])
        share = relevance / stabilised(total, self.epsilon)
        return (
            x * _pull_back(layer, x, weight, share)
            - low * _pull_back(layer, x, above, share)
            - high * _pull_back(layer, x, below, share)
        )


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z moved away from 0 by `epsilon` towards its own sign; 0 becomes epsilon."""
    return z + torch.where(z < 0, -epsilon, epsilon)


def _pull_back(layer: Layer, x: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    """Sum over outputs k of weight_jk share_k, at every input j."""
    with torch.enable_grad():
        given = torch.zeros_like(x).requires_grad_()
        return torch.autograd.grad(layer(given, weight, None), given, share)[0]
