"""Attention of six known patterns with noise, to hold what is learnt of patterns against."""

from __future__ import annotations

import torch
from torch import Tensor

from foveal.blocks.attention_taps import LayerAttention
from foveal.explanation.attention_patterns import PatternSamples, Representation, patterns_of_attention

FAMILIES = ("self", "local", "shift", "keys", "row", "uniform")


def families(
    count: int = 40, *, side: int = 8, noise: float = 0.5, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """Attention (6, count, n, n) on side x side patches, rows sum to 1, and the families' names.

    Each sample of a family differs: in the width of what is local, in which keys all queries share; and all
    weights are multiplied by log-normal noise and mixed with a little of even attention.
    """
    random = torch.Generator().manual_seed(seed)
    n = side * side
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    steps = places[None] - places[:, None]  # query, key
    made = []
    for family in FAMILIES:
        for _ in range(count):
            drawn = float(torch.rand((), generator=random))
            if family == "self":
                weights = torch.eye(n, dtype=torch.float64)
            elif family == "local":
                weights = (-steps.square().sum(dim=-1) / (2 * (0.9 + 0.4 * drawn) ** 2)).exp()
            elif family == "shift":
                weights = ((steps[..., 0] == 0) & (steps[..., 1] == 1)).double() + 1e-3
            elif family == "keys":
                weights = torch.zeros(n, n, dtype=torch.float64)
                weights[:, torch.randperm(n, generator=random)[:4]] = 1
            elif family == "row":
                weights = (steps[..., 0] == 0).double()
            else:
                weights = torch.ones(n, n, dtype=torch.float64)
            weights = weights / weights.sum(dim=-1, keepdim=True)
            weights = 0.95 * weights + 0.05 / n
            weights = weights * (noise * torch.randn(n, n, generator=random, dtype=torch.float64)).exp()
            made.append(weights / weights.sum(dim=-1, keepdim=True))
    return torch.stack(made).unflatten(0, (len(FAMILIES), count)), list(FAMILIES)


def family_samples(
    count: int = 40,
    *,
    side: int = 8,
    noise: float = 0.5,
    representation: Representation = "offset",
    seed: int = 0,
) -> PatternSamples:
    """The same as patterns of one layer whose six heads are the families."""
    weights, _ = families(count, side=side, noise=noise, seed=seed)
    return patterns_of_attention(
        [LayerAttention("families", weights.transpose(0, 1))],
        torch.zeros(count, 3, side, side),
        representation=representation,
    )
