"""Recursive gated scans of growing width (H-vmunet, arXiv 2403.13642; recursion of HorNet, 2207.14284)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from foveal.blocks.ss2d import SS2D, check_channels_last


class HighOrderScan(nn.Module):
    """Mix the cells of a grid by products of scans: (B, *grid, C) to the same.

    p, q_0, ..., q_{n-1} = split(Linear x) with widths w_k = C / 2^(n-1-k), p of w_0; p = p SS2D(q_0), then
    p = Linear(p) SS2D(q_k) for the others; a linear layer ends it. The released code's local branch is
    unconfirmed: this is HorNet's recursion with SS2D in place of its 7 x 7 convolution.

    Args:
        dim: C, a multiple of 2^(order - 1).
        order: n.
        dimensions: axes of the grid.
        routes: of each scan.
        **options: of `SS2D`.

    Raises:
        ValueError: an order below 1, or channels that do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        order: int = 3,
        dimensions: int = 2,
        routes: str | Sequence[str] = "cross",
        **options: Any,
    ) -> None:
        super().__init__()
        if order < 1 or dim % 2 ** (order - 1):
            raise ValueError(
                f"{dim} channels for order {order}; allowed: orders from 1, and multiples of 2^(order - 1)"
            )
        self.dim, self.dimensions = dim, dimensions
        self.widths = [dim // 2**k for k in range(order - 1, -1, -1)]
        self.in_proj = nn.Linear(dim, 2 * dim)  # w_0 and the sum of all w_k are 2 C
        self.scans = nn.ModuleList(
            SS2D(width, routes=routes, dimensions=dimensions, **options) for width in self.widths
        )
        self.widen = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(self.widths))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map."""
        check_channels_last(x, self.dim, dimensions=self.dimensions)
        p, *q = self.in_proj(x).split([self.widths[0], *self.widths], dim=-1)
        p = p * self.scans[0](q[0])
        for k, widen in enumerate(self.widen, start=1):
            p = widen(p) * self.scans[k](q[k])
        return self.out_proj(p)
