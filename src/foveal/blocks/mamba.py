"""The Mamba mixer (Gu and Dao, arXiv 2312.00752): gated causal convolution and selective scan of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.multi_path import Order
from foveal.kernels.selective_scan import selective_scan, selective_scan_step, selective_scan_with_state
from foveal.kernels.short_convolution import short_convolution


class MambaState(NamedTuple):
    """What a mixer remembers of the tokens so far.

    `inputs`: (B, E, K - 1) last inputs of the convolution; `scan`: (B, E, N) state of the scan, float32.
    """

    inputs: Tensor
    scan: Tensor


class SelectiveScan(nn.Module):
    """Input-dependent steps, input and output weights, and the scan over them: (B, L, E) to (B, L, E).

    `x_proj` makes low-rank steps, B and C of each token; `dt_proj` widens the steps. Parameter names and
    shapes are those of the original code, so weights copy one to one.

    Args:
        width: channels E.
        states: N of each channel.
        rank: of the steps.
    """

    def __init__(self, width: int, *, states: int = 16, rank: int) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.x_proj = nn.Linear(width, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(width, 1))
        self.D = nn.Parameter(torch.ones(width))
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step_bias(width))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"A_log"}

    def forward(self, x: Tensor, *, z: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        """Scan x in the order of its rows, or in `order` (L,); `z` is the gate."""
        return selective_scan(*self._weights(x), z=z, dt_bias=self.dt_proj.bias, order=order)

    def continued(self, x: Tensor, state: Tensor | None, *, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan x from a state (B, E, N); returns the output and the state after its last token."""
        return selective_scan_with_state(
            *self._weights(x), z=z, dt_bias=self.dt_proj.bias, initial_state=state
        )

    def step(self, x: Tensor, state: Tensor, *, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token (B, E): its output and the next state."""
        return selective_scan_step(*self._weights(x), z=z, dt_bias=self.dt_proj.bias, state=state)

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        low, B, C = self.x_proj(x).split([self.rank, self.states, self.states], dim=-1)
        rates = self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))
        return x, F.linear(low, self.dt_proj.weight), -torch.exp(rates), B, C, self.D


def step_bias(count: int, *, least: float = 1e-3, most: float = 0.1, floor: float = 1e-4) -> Tensor:
    """Biases whose softplus, the step size of an untrained scan, is log-uniform in [least, most]."""
    steps = torch.exp(torch.rand(count) * (math.log(most) - math.log(least)) + math.log(least))
    steps = steps.clamp(min=floor)
    return steps + torch.log(-torch.expm1(-steps))


class CausalConv(nn.Conv1d):
    """Depthwise convolution over the tokens before and at each token: (B, L, E) to (B, L, E)."""

    def __init__(self, width: int, *, kernel_size: int = 4) -> None:
        super().__init__(width, width, kernel_size, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; what lies before the first token is 0."""
        return self.along(x, "forward")

    def along(self, x: Tensor, order: Order, *, silu: bool = False) -> Tensor:
        """Convolve in an order of the rows, then apply the SiLU if wanted; results lie where rows lie."""
        rows = None if order == "forward" else last_to_first(x) if isinstance(order, str) else order
        return short_convolution(x, self.weight[:, 0], cast(Tensor, self.bias), order=rows, silu=silu)


class MambaMixer(nn.Module):
    """Mamba's mixer of tokens: (B, L, D) to (B, L, D), each token seeing those before it.

    Args:
        dim: width D of a token.
        states: N of the scan.
        kernel_size: of the causal convolution.
        expand: inner width E over D.
        rank: of the steps; ceil(D / 16) by default.
    """

    def __init__(
        self, dim: int, *, states: int = 16, kernel_size: int = 4, expand: float = 2, rank: int | None = None
    ) -> None:
        super().__init__()
        width = int(expand * dim)
        self.in_proj = nn.Linear(dim, 2 * width, bias=False)
        self.conv1d = CausalConv(width, kernel_size=kernel_size)
        self.scan = SelectiveScan(width, states=states, rank=rank or math.ceil(dim / 16))
        self.out_proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each sequence."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        return self.out_proj(self.scan(self.conv1d.along(x, "forward", silu=True), z=z))

    def inner(self, x: Tensor, orders: Sequence[Order]) -> list[Tensor]:
        """What `out_proj` takes, (B, L, E), along each order; rows lie where those of x (B, L, D) lie."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        return [scan_along(self.conv1d, self.scan, x, z, order) for order in orders]

    def continued(self, x: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState]:
        """Mix the tokens that follow those of `state` (None: the first ones), and the state after them."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        memory = self.conv1d.kernel_size[0] - 1
        before = x.new_zeros(len(x), x.shape[-1], memory) if state is None else state.inputs
        joined = torch.cat([before.transpose(1, 2), x], dim=1)
        seen = self.conv1d.along(joined, "forward", silu=True)[:, memory:]
        y, scan = self.scan.continued(seen, None if state is None else state.scan, z=z)
        return self.out_proj(y), MambaState(joined[:, joined.shape[1] - memory :].transpose(1, 2), scan)


def scan_along(conv: CausalConv, scan: SelectiveScan, x: Tensor, z: Tensor, order: Order) -> Tensor:
    """Convolution, SiLU and gated scan of x (B, L, E) in an order of its rows; results lie where they lie."""
    seen = conv.along(x, order, silu=True)
    if isinstance(order, str):
        return scan(seen, z=z, order=None if order == "forward" else last_to_first(x))
    return scan(seen, z=z, order=order)


def last_to_first(x: Tensor) -> Tensor:
    """The order (L,) of the rows of x (B, L, E) from the last to the first."""
    return torch.arange(x.shape[1] - 1, -1, -1, device=x.device)
