"""Two-direction mixer of Vision Mamba (arXiv 2401.09417, "v2"): one projection in and out, two scans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from foveal.blocks.mamba import CausalConv, SelectiveScan, scan_along
from foveal.blocks.multi_path import Order
from foveal.settings import unknown_name

BackwardStart = Literal["symmetric", "official"]
_OPPOSITE: dict[str, Order] = {"forward": "reverse", "reverse": "forward"}


class BidirectionalMamba(nn.Module):
    """Mix tokens from the first to the last and back: (B, L, D) to (B, L, D), each token seeing all.

    Both directions share the gate and the projections in and out; the way back has its own convolution,
    steps, rates and skip weights (`conv1d_b`, `scan_b`). No sequence is turned over: the causal convolution
    of the way back looks ahead, and the scan follows the order from the last row.

    Args:
        dim: width D of a token.
        states: N of the scans.
        kernel_size: of the convolutions.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
        fuse: "mean" of the directions, as in all released models, or "sum".
        init_backward: "symmetric" begins both directions alike; "official" begins the way back with
            torch's weights and no bias of the steps, as the original code does, so that its steps are near
            0.69 rather than 0.001 to 0.1.

    Raises:
        ValueError: `fuse` or `init_backward` is not known.
    """

    def __init__(
        self,
        dim: int,
        *,
        states: int = 16,
        kernel_size: int = 4,
        expand: float = 2,
        rank: int | None = None,
        fuse: Literal["mean", "sum"] = "mean",
        init_backward: BackwardStart = "symmetric",
    ) -> None:
        super().__init__()
        if fuse not in ("mean", "sum"):
            raise ValueError(unknown_name("fuse", fuse, ("mean", "sum")))
        if init_backward not in get_args(BackwardStart):
            raise ValueError(unknown_name("init_backward", init_backward, get_args(BackwardStart)))
        width, rank = int(expand * dim), rank or math.ceil(dim / 16)
        self.fuse = fuse
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.conv1d = CausalConv(width, kernel_size=kernel_size)
        self.scan = SelectiveScan(width, states=states, rank=rank)
        self.conv1d_b = CausalConv(width, kernel_size=kernel_size)
        self.scan_b = SelectiveScan(width, states=states, rank=rank)
        self.out_proj = nn.Linear(width, dim, bias=False)
        if init_backward == "official":
            self.scan_b.dt_proj.reset_parameters()
            nn.init.zeros_(self.scan_b.dt_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each sequence."""
        return self.out_proj(self.inner(x, ["forward"])[0])

    def inner(self, x: Tensor, orders: Sequence[Order]) -> list[Tensor]:
        """What `out_proj` takes, (B, L, E), along each order; rows lie where those of x (B, L, D) lie."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        return [self._both(x, z, order) for order in orders]

    def _both(self, x: Tensor, z: Tensor, order: Order) -> Tensor:
        back = _OPPOSITE[order] if isinstance(order, str) else order.flip(0)
        y = scan_along(self.conv1d, self.scan, x, z, order) + scan_along(
            self.conv1d_b, self.scan_b, x, z, back
        )
        return y / 2 if self.fuse == "mean" else y
