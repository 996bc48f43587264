"""Short causal convolution on the CPU: forward and backward as Numba kernels over blocks of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from foveal.kernels.fast_exp import logistic
from foveal.kernels.threads import on_threads

_MATHS = {"reassoc", "contract", "nsz", "arcp"}
NARROWEST = 64  # channels of an item, where there are more threads than sequences
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": _MATHS, "error_model": "numpy"}


def convolve_on_cpu(x: Tensor, taps: Tensor, bias: Tensor, order: Tensor | None, silu: bool) -> Tensor:
    """Checked tensors of one type, as `short_convolution` takes them."""
    return _CpuConvolution.apply(x, taps, bias, order, silu)


class _CpuConvolution(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx, x: Tensor, taps: Tensor, bias: Tensor, order: Tensor | None, silu: bool
    ) -> Tensor:
        # no gradient: an order may come from inference mode, whose tensors cannot be saved
        ctx.save_for_backward(x, taps, bias)
        ctx.order, ctx.silu = order, silu  # type: ignore[attr-defined]
        arrays = _arrays(x, taps, bias, order)
        y = np.empty(x.shape, arrays[0].dtype)
        on_threads(lambda some: _forward(some, *arrays, silu, y), _items(*x.shape[::2]))
        return torch.from_numpy(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, taps, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        arrays = _arrays(x, taps, bias, ctx.order)  # type: ignore[attr-defined]
        gy = gradient.contiguous().numpy()
        dx = np.zeros(x.shape, gy.dtype)
        dtaps = np.zeros((x.shape[0], taps.shape[1], x.shape[2]), gy.dtype)
        dbias = np.zeros((x.shape[0], x.shape[2]), gy.dtype)
        silu = ctx.silu  # type: ignore[attr-defined]
        on_threads(lambda some: _backward(some, *arrays, silu, gy, dx, dtaps, dbias), _items(*x.shape[::2]))
        of_taps = torch.from_numpy(dtaps).sum(0).T.contiguous()
        return torch.from_numpy(dx), of_taps, torch.from_numpy(dbias).sum(0), None, None


def _arrays(x: Tensor, taps: Tensor, bias: Tensor, order: Tensor | None) -> tuple[np.ndarray, ...]:
    """x, the taps as (K, E), the bias and the order (empty: as the rows lie)."""
    rows = np.zeros(0, np.int64) if order is None else order.to(torch.int64).numpy()
    return (
        x.detach().contiguous().numpy(),
        taps.detach().T.contiguous().numpy(),
        bias.detach().contiguous().numpy(),
        rows,
    )


def _items(batch: int, channels: int) -> np.ndarray:
    """(M, 3): sequence, first and last channel."""
    blocks = max(1, min(-(-torch.get_num_threads() // max(batch, 1)), channels // NARROWEST))
    edges = np.linspace(0, channels, blocks + 1).astype(int)
    return np.array([(b, edges[k], edges[k + 1]) for b in range(batch) for k in range(blocks)], np.int64)


@njit(**_OPTIONS)
def _convolve_row(x, s, low, high, order, place, taps, out):  # type: ignore[no-untyped-def]
    """Add the weighted rows at and before `place`; `out` holds the bias."""
    size = taps.shape[0]
    for k in range(max(0, size - 1 - place), size):
        t = place - (size - 1) + k
        _add_product(out, x[s, order[t] if order.size else t, low:high], taps[k, low:high])


@njit(**_OPTIONS)
def _add_product(total, x, y):  # type: ignore[no-untyped-def]
    for j in range(total.size):
        total[j] += x[j] * y[j]


@njit(**_OPTIONS)
def _copy(x, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] = x[j]


@njit(**_OPTIONS)
def _silu(x, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] = x[j] * logistic(x[j])


@njit(**_OPTIONS)
def _silu_gradient(x, grad, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        o = logistic(x[j])
        out[j] = grad[j] * o * (1 + x[j] * (1 - o))


@njit(**_OPTIONS)
def _forward(items, x, taps, bias, order, silu, y):  # type: ignore[no-untyped-def]
    length = x.shape[1]
    for item in range(items.shape[0]):
        s, low, high = items[item]
        shift, inner = bias[low:high].copy(), np.empty(high - low, x.dtype)
        for place in range(length):
            t = order[place] if order.size else place
            _copy(shift, inner)
            _convolve_row(x, s, low, high, order, place, taps, inner)
            if silu:
                _silu(inner, y[s, t, low:high])
            else:
                _copy(inner, y[s, t, low:high])


@njit(**_OPTIONS)
def _backward(items, x, taps, bias, order, silu, gy, dx, dtaps, dbias):  # type: ignore[no-untyped-def]
    length, size = x.shape[1], taps.shape[0]
    for item in range(items.shape[0]):
        s, low, high = items[item]
        shift, inner = bias[low:high].copy(), np.empty(high - low, x.dtype)
        g = np.empty(high - low, x.dtype)
        for place in range(length):
            t = order[place] if order.size else place
            if silu:
                _copy(shift, inner)
                _convolve_row(x, s, low, high, order, place, taps, inner)
                _silu_gradient(inner, gy[s, t, low:high], g)
            else:
                _copy(gy[s, t, low:high], g)
            for j in range(g.size):
                dbias[s, low + j] += g[j]
            for k in range(max(0, size - 1 - place), size):
                row = place - (size - 1) + k
                r = order[row] if order.size else row
                _add_product(dx[s, r, low:high], g, taps[k, low:high])
                _add_product(dtaps[s, k, low:high], g, x[s, r, low:high])
