"""MS2D: one scan of a map at full resolution, the others at a lower one (MSVMamba, arXiv 2405.14174)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from timm.layers.squeeze_excite import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import SelectiveScan
from foveal.blocks.scan_routes import scan_routes
from foveal.blocks.ss2d import check_channels_last, depthwise, over_grid, positive
from foveal.kernels.selective_scan import selective_scan_with_state
from foveal.settings import unknown_name

Upsample = Literal["bilinear", "nearest"]
Norm = Literal["shared", "separate", "sum"]


class MS2D(nn.Module):
    """Mix the cells of a map by scans at two resolutions: (B, H, W, D) to (B, H, W, D).

    The low-resolution routes share one set of weights and, as in the released code, one state: each route
    goes on from where the last one ended.

    Args:
        dim: D.
        expand: inner width E over D.
        states: N of each channel.
        rank: of the steps; ceil(D / 16) by default.
        routes_low: scans of the map of low resolution.
        route_full: scan of the map of full resolution.
        low_stride: cells of the full map, along each axis, to one of the low map.
        kernel_size: of the full-resolution convolution, odd.
        low_kernel_size: of the low-resolution convolution, odd.
        reset_state: begin each low-resolution route anew, an extension.
        upsample: of the low-resolution result; "bilinear" in the first version, "nearest" in the second.
        norm: "shared" normalises the result of each branch, each low route before their sum, with one
            module (first version); "separate" has one a branch; "sum" normalises the sum (second).
        se: hidden channels of squeeze-and-excitation are E / se; 0 for none.
        gate: multiply by silu of a second projection.

    Raises:
        ValueError: an option outside what is allowed, or a scan that is not known.
    """

    def __init__(
        self,
        dim: int,
        *,
        expand: float = 2,
        states: int = 1,
        rank: int | None = None,
        routes_low: Sequence[str] = ("row_r", "col", "col_r"),
        route_full: str = "row",
        low_stride: int = 2,
        kernel_size: int = 3,
        low_kernel_size: int = 7,
        reset_state: bool = False,
        upsample: Upsample = "bilinear",
        norm: Norm = "shared",
        se: int = 8,
        gate: bool = True,
    ) -> None:
        super().__init__()
        if upsample not in ("bilinear", "nearest"):
            raise ValueError(unknown_name("upsample", upsample, ("bilinear", "nearest")))
        if norm not in ("shared", "separate", "sum"):
            raise ValueError(unknown_name("norm", norm, ("shared", "separate", "sum")))
        if low_stride < 1 or se < 0 or not routes_low:
            raise ValueError(
                f"low_stride={low_stride}, se={se}, routes_low={tuple(routes_low)}; "
                "allowed: a stride of 1 or more, se of 0 or more, and at least one route"
            )
        width, rank = int(expand * dim), rank or math.ceil(dim / 16)
        self.dim, self.gate, self.upsample, self.norm = dim, gate, upsample, norm
        self.routes_low, self.route_full, self.reset_state = tuple(routes_low), route_full, reset_state
        scan_routes(self.routes_low, 2, 2), scan_routes(route_full, 2, 2)
        self.in_proj = nn.Linear(dim, width * (2 if gate else 1), bias=False)
        self.conv_full = depthwise(width, kernel_size=kernel_size)
        self.conv_low = depthwise(width, kernel_size=low_kernel_size, stride=low_stride)
        self.scan_low = SharedScan(width, states=positive(states), rank=rank)
        self.scan_full = SelectiveScan(width, states=states, rank=rank)
        self.out_norm = nn.LayerNorm(width)
        self.low_norm = nn.LayerNorm(width) if norm == "separate" else None
        self.se = SqueezeExcite(width, rd_channels=max(1, width // se), bias=False) if se else nn.Identity()
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a channels-last map.

        Raises:
            ValueError: channels that are not last.
        """
        check_channels_last(x, self.dim)
        x, z = self.in_proj(x).chunk(2, dim=-1) if self.gate else (self.in_proj(x), None)
        full, low = F.silu(over_grid(self.conv_full, x)), F.silu(over_grid(self.conv_low, x))
        y = over_grid(self.se, self.scan(full, low))
        return self.out_proj(y if z is None else y * F.silu(z))

    def scan(self, full: Tensor, low: Tensor) -> Tensor:
        """Both branches scanned, restored and added: (B, H, W, E) and (B, h, w, E) to (B, H, W, E)."""
        (order,) = scan_routes(self.route_full, *full.shape[1:3])
        y = self.scan_full(full.flatten(1, 2).contiguous(), order=order).view(full.shape)
        parts = self.scan_low.along(
            low.flatten(1, 2).contiguous(),
            scan_routes(self.routes_low, *low.shape[1:3]),
            reset_state=self.reset_state,
        )
        if self.norm != "sum":
            y = self.out_norm(y)
            parts = [(self.low_norm or self.out_norm)(part) for part in parts]
        of_low = parts[0]
        for part in parts[1:]:
            of_low = of_low + part
        y = y + resize(of_low.view(low.shape), full.shape[1:3], mode=self.upsample)
        return self.out_norm(y) if self.norm == "sum" else y


class SharedScan(SelectiveScan):
    """A selective scan along several routes with the same weights, and the same state unless it is reset."""

    def along(self, x: Tensor, orders: Sequence[Tensor], *, reset_state: bool = False) -> list[Tensor]:
        """Outputs of each order, rows where those of x (B, L, E) lie.

        Without a reset the orders are one sequence: the state after one is that before the next. Steps and
        weights of the tokens are computed once for all.
        """
        weights, state, outputs = self._weights(x), None, []
        for order in orders:
            y, last = selective_scan_with_state(
                *weights, dt_bias=self.dt_proj.bias, initial_state=state, order=order
            )
            state = None if reset_state else last
            outputs.append(y)
        return outputs


def resize(x: Tensor, grid: Sequence[int], *, mode: Upsample) -> Tensor:
    """A channels-last map at another grid; one of that grid stays as it is."""
    if tuple(x.shape[1:3]) == tuple(grid):
        return x
    options = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(x.movedim(-1, 1), tuple(grid), mode=mode, **options).movedim(1, -1)


class ConvFeedForward(nn.Module):
    """Feed-forward with a depthwise convolution in its middle: (B, H, W, D) to (B, H, W, D).

    Args:
        dim: D.
        expand: hidden channels over D.
        dropout: after each projection.
        convolve: with the convolution; without it this is the usual perceptron.
    """

    def __init__(self, dim: int, *, expand: float = 2, dropout: float = 0.0, convolve: bool = True) -> None:
        super().__init__()
        hidden = int(expand * dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = depthwise(hidden) if convolve else None
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, without a residual of its own."""
        t = self.dropout(self.fc1(x))
        if self.dwconv is not None:
            t = t + over_grid(self.dwconv, t)
        return self.dropout(self.fc2(F.gelu(t)))
