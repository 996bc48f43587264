"""Kolmogorov-Arnold layers on fixed bases: reflectional switches (FasterKAN), Gaussians, B-splines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveal.settings import unknown_name

Basis = Literal["switch", "bspline", "rbf"]

MEMORY = 64 * 2**20
"""Bytes of basis values above which tokens are taken in chunks."""
_DEGREE = 3


class KANLayer(nn.Module):
    """y_o = sum over i, g of W[o, i * grid + g] b_g(u_i), u = LayerNorm(x): (..., I) to (..., O).

    Liu et al., "KAN: Kolmogorov-Arnold networks" (arXiv 2404.19756), the basis fixed, its weights alone
    learnt. With v = (u - c_g) / width and centres c_g spread evenly over [low, high]:

    - "switch": b = 1 - tanh(v)^2;
    - "rbf": b = exp(-v^2);
    - "bspline": cubic B-splines on `grid` - 3 equal intervals of [low, high].

    Above `MEMORY` bytes of basis values, tokens are taken in chunks, whose values are made again going back.

    Args:
        inputs: I.
        outputs: O.
        basis: see above.
        grid: functions an input.
        low: first centre, or the spline's beginning.
        high: last centre, or the spline's end.
        width: of "switch" and "rbf".
        base_branch: add a linear layer of SiLU(u).
        layer_norm: normalise the inputs of a token; without it u = x.

    Raises:
        ValueError: an unknown basis, or a grid, range or width that makes none.
    """

    centres: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        basis: Basis = "switch",
        grid: int = 8,
        low: float = -2.0,
        high: float = 2.0,
        width: float = 0.33,
        base_branch: bool = False,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        if basis not in get_args(Basis):
            raise ValueError(unknown_name("basis", basis, list(get_args(Basis))))
        least = _DEGREE + 1 if basis == "bspline" else 2
        if grid < least or not low < high or width <= 0:
            raise ValueError(
                f"grid {grid}, low {low}, high {high}, width {width}; allowed for {basis!r}: "
                f"a grid from {least} on, low < high, width > 0"
            )
        self.basis, self.width = basis, width
        if basis == "bspline":
            step = (high - low) / (grid - _DEGREE)
            centres = low + step * (torch.arange(grid, dtype=torch.float64) - (_DEGREE - 1) / 2)
            self.width = step
        else:
            centres = torch.linspace(low, high, grid, dtype=torch.float64)
        self.register_buffer("centres", centres.float())
        self.norm: nn.Module = nn.LayerNorm(inputs) if layer_norm else nn.Identity()
        self.spline = nn.Linear(inputs * grid, outputs, bias=False)
        self.base = nn.Linear(inputs, outputs) if base_branch else None
        nn.init.xavier_uniform_(self.spline.weight)

    def basis_values(self, u: Tensor) -> Tensor:
        """(..., I) to (..., I, grid)."""
        v = (u[..., None] - self.centres) / self.width
        if self.basis == "switch":
            return 1 - torch.tanh(v).square()
        if self.basis == "rbf":
            return torch.exp(-v.square())
        # The cardinal cubic B-spline about 0, of support [-2, 2].
        near = v.abs()
        inner, outer = (1 - near).clamp_min(0), (2 - near).clamp_min(0)
        return (outer**3 - 4 * inner**3) / 6

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        u = self.norm(x).flatten(0, -2)
        step = max(1, MEMORY // (self.spline.in_features * u.element_size()))
        if len(u) <= step:
            y = self._mix(u)
        elif torch.is_grad_enabled():
            y = torch.cat([checkpoint(self._mix, part, use_reentrant=False) for part in u.split(step)])
        else:
            y = torch.cat([self._mix(part) for part in u.split(step)])
        return y.unflatten(0, x.shape[:-1])

    def _mix(self, u: Tensor) -> Tensor:
        y = self.spline(self.basis_values(u).flatten(-2))
        return y if self.base is None else y + self.base(F.silu(u))


class KANBlock(nn.Sequential):
    """KAN layers one after the other: (..., widths[0]) to (..., widths[-1]).

    Args:
        widths: of the input and of each layer's output.
        basis: of every layer.
        grid: see `KANLayer`.
        low: see `KANLayer`.
        high: see `KANLayer`.
        width: see `KANLayer`.
        base_branch: see `KANLayer`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        basis: Basis = "switch",
        grid: int = 8,
        low: float = -2.0,
        high: float = 2.0,
        width: float = 0.33,
        base_branch: bool = False,
    ) -> None:
        super().__init__(
            *(
                KANLayer(
                    inputs,
                    outputs,
                    basis=basis,
                    grid=grid,
                    low=low,
                    high=high,
                    width=width,
                    base_branch=base_branch,
                )
                for inputs, outputs in pairwise(widths)
            )
        )
