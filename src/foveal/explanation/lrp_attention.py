"""Modified gradients of attention, of scans and of recurrences."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.blocks.torch_attention import attention_in_steps, multi_head_in_steps
from foveal.explanation.lrp_mode import Propagation, by_ratio, half, handles
from foveal.kernels.gated_recurrence import gated_recurrence_with_state
from foveal.kernels.grid_recurrence import grid_recurrence
from foveal.kernels.selective_scan import selective_scan
from foveal.kernels.short_convolution import short_convolution


@handles(torch.softmax, Tensor.softmax, F.softmax)
def _softmax(mode: Propagation, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    weights = func(input, *args, **kwargs)
    if mode.composite.attention == "identity":
        return by_ratio(input, weights)
    return weights.detach() if mode.composite.attention == "cp" else weights


@handles(F.scaled_dot_product_attention)
def _attention(
    mode: Propagation, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Fused attention, taken apart only where relevance goes through its weights."""
    if mode.composite.attention == "cp":
        return F.scaled_dot_product_attention(query.detach(), key.detach(), value, *args, **kwargs)
    with mode:
        return attention_in_steps(query, key, value, *args, **kwargs)


@handles(F.multi_head_attention_forward)
def _multi_head(mode: Propagation, func: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """torch.nn.MultiheadAttention."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return mode.linear(x, weight, bias, F.linear, mode.composite.in_attention)

    return multi_head_in_steps(linear, partial(_attention, mode, func), *args, **kwargs)


@handles(short_convolution)
def _short_convolution(
    mode: Propagation, func: Any, x: Tensor, *args: Any, silu: bool = False, **kwargs: Any
) -> Tensor:
    y = func(x, *args, **kwargs)
    return by_ratio(y, F.silu(y.detach())) if silu else y


@handles(selective_scan)
def _selective_scan(
    mode: Propagation,
    func: Any,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Steps and weights of tokens are held constant (MambaLRP, arXiv 2406.07592); the gate is a factor."""
    y = func(u, dt.detach(), A, B.detach(), C.detach(), D, **options)
    if z is None:
        return y
    if not z.requires_grad:
        return y * F.silu(z)
    return half(y) * half(by_ratio(z, F.silu(z.detach())))


@handles(gated_recurrence_with_state, grid_recurrence)
def _recurrence(
    mode: Propagation, func: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """Linear in the values; queries, keys and decays are held constant, as attention weights are."""
    return func(q.detach(), k.detach(), v, log_decay.detach(), **options)


# Names of operations whose own gradient shares relevance out: sums, means, copies and choices of places.
