"""Bags of instances: reordered Mamba (MambaMIL, arXiv 2403.06800), pooling by attention (ABMIL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from foveal.blocks.mamba import CausalConv, SelectiveScan


def pad_bags(bags: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Bags (L_i, D) of any length as one tensor (B, L, D), zeros behind, and a mask (B, L), true where real.

    Raises:
        ValueError: no bag, or one without an instance.
    """
    if not bags or any(len(bag) == 0 for bag in bags):
        raise ValueError(
            f"bags of {[len(bag) for bag in bags]} instances; allowed: at least one bag, none empty"
        )
    lengths = torch.tensor([len(bag) for bag in bags], device=bags[0].device)
    padded = pad_sequence(list(bags), batch_first=True)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]


def bag_lengths(x: Tensor, mask: Tensor | None) -> Tensor:
    """Instances (B,) of bags (B, L, D).

    Raises:
        ValueError: bags of other axes, a mask of another shape, an empty bag, or padding before an instance.
    """
    if x.ndim != 3 or x.shape[1] == 0:
        raise ValueError(f"bags of shape {tuple(x.shape)}; allowed: (B, L, D) with L at least 1")
    if mask is None:
        return torch.full((len(x),), x.shape[1], device=x.device)
    if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
        found = f"{tuple(mask.shape)} of {mask.dtype}"
        raise ValueError(f"a mask {found}; allowed: {tuple(x.shape[:2])} of torch.bool, true where real")
    lengths = mask.sum(dim=1)
    first = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    if bool((lengths == 0).any()) or not torch.equal(first, mask):
        raise ValueError("a bag is empty or has padding before an instance; see pad_bags")
    return lengths


def reordered(lengths: Tensor, length: int, rate: int) -> Tensor:
    """Orders (B, length) int64: instances laid out in rows of `rate`, read column by column; padding last.

    A bag of L instances, L a multiple of `rate`, becomes (L / rate, rate) and is transposed.

    Args:
        lengths: (B,) instances of the bags.
        length: of the padded bags.
        rate: r.
    """
    place = torch.arange(length, device=lengths.device)
    rows = (lengths[:, None] + rate - 1) // rate
    rank = (place % rate) * rows + place // rate
    return torch.where(place < lengths[:, None], rank, length * rate + place).argsort(dim=1)


class SRMamba(nn.Module):
    """Mix a bag along its order and along a reordered copy, summed: (B, L, D) to (B, L, D).

    Both scans share the projections and the gate; each has a convolution and a scan of its own. With a mask
    the result at an instance is that of its bag alone.

    Args:
        dim: D.
        rate: r of the reordering: instances that lie r apart become neighbours.
        states: N of the scans.
        kernel_size: of the causal convolutions.
        expand: inner width E over D.

    Raises:
        ValueError: a rate below 1.
    """

    def __init__(
        self, dim: int, *, rate: int = 10, states: int = 16, kernel_size: int = 4, expand: float = 2
    ) -> None:
        super().__init__()
        if rate < 1:
            raise ValueError(f"rate is {rate}; allowed: 1 or more")
        width, rank = int(expand * dim), math.ceil(dim / 16)
        self.rate = rate
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.convs = nn.ModuleList(CausalConv(width, kernel_size=kernel_size) for _ in range(2))
        self.scans = nn.ModuleList(SelectiveScan(width, states=states, rank=rank) for _ in range(2))
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the instances of each bag; `mask` (B, L) is true where one is real, and those come first."""
        order = reordered(bag_lengths(x, mask), x.shape[1], self.rate)[..., None]
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y = self._scan(0, x)
        turned = self._scan(1, x.gather(1, order.expand_as(x)))
        y = y + turned.gather(1, order.argsort(dim=1).expand_as(turned))
        return self.out_proj(y * F.silu(z))

    def _scan(self, number: int, x: Tensor) -> Tensor:
        conv = cast(CausalConv, self.convs[number])
        return self.scans[number](conv.along(x, "forward", silu=True))


class GatedAttentionPool(nn.Module):
    """Weighted mean of a bag's instances: (B, L, D) to (B, D).

    a_l = softmax_l w^T (tanh(V h_l) * sigmoid(U h_l)).

    Args:
        dim: D.
        hidden: rows of V and U.
    """

    def __init__(self, dim: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.content, self.gate = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L), each row of sum 1, 0 at padding."""
        bag_lengths(x, mask)
        scores = self.score(self.content(x).tanh() * self.gate(x).sigmoid())[..., 0]
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool each bag."""
        return torch.einsum("bl,bld->bd", self.weights(x, mask), x)


class MeanPool(nn.Module):
    """Mean of a bag's instances: (B, L, D) to (B, D)."""

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L), 1 / L_b at the instances of a bag of L_b."""
        lengths = bag_lengths(x, mask)
        real = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        return real / lengths[:, None]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool each bag."""
        return torch.einsum("bl,bld->bd", self.weights(x, mask), x)
