"""Depthwise causal convolution of a few taps, with its SiLU, along any order of the rows.

What stands before every selective scan (arXiv 2312.00752). Channels come last, and an order is followed where
rows lie: nothing is transposed, padded, turned over or gathered.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.fallback import compiled_module
from foveal.kernels.orders import checked_order
from foveal.kernels.overriding import overridable
from foveal.settings import unknown_name

BACKENDS = ("auto", "compiled", "reference")


@overridable
def short_convolution(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    *,
    order: Tensor | None = None,
    silu: bool = False,
    backend: str = "auto",
) -> Tensor:
    """y at order[l] = bias + sum over k of taps_k x at order[l - (K - 1) + k]; before the first row x is 0.

    Args:
        x: (B, L, E).
        taps: (E, K); the last one weighs the token itself.
        bias: (E,).
        order: (L,) a permutation of the rows; by default they are taken as they lie.
        silu: follow it by the SiLU.
        backend: "compiled" (CPU), "reference" (plain torch), or the one that fits the device.

    Returns:
        (B, L, E), each result where its own row lies, of the type that `x` and `taps` promote to.

    Raises:
        ValueError: shapes that do not fit, an order that is no permutation, or an unknown backend.
    """
    if x.ndim != 3 or taps.ndim != 2 or taps.shape[0] != x.shape[2] or bias.shape != taps.shape[:1]:
        raise ValueError(
            f"x of shape {tuple(x.shape)}, taps {tuple(taps.shape)}, bias {tuple(bias.shape)}; allowed: "
            "(B, L, E), (E, K) and (E,)"
        )
    if backend not in BACKENDS:
        raise ValueError(unknown_name("backend", backend, BACKENDS))
    if order is not None:
        order = checked_order(order, x.shape[1], x.device)
    kind = torch.promote_types(x.dtype, taps.dtype)
    compiles = kind in (torch.float32, torch.float64) and x.device.type == "cpu"
    if backend == "auto":
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        backend = "compiled" if compiles and not traced else "reference"
    x, taps, bias = x.to(kind), taps.to(kind), bias.to(kind)
    if backend == "reference":
        return _reference(x, taps, bias, order, silu)
    if not compiles:
        raise ValueError(f"backend='compiled' takes 32 or 64 bits on the CPU; got {kind} on {x.device}")
    compiled = compiled_module("short_convolution_cpu")
    if compiled is None:
        return _reference(x, taps, bias, order, silu)
    return compiled.convolve_on_cpu(x, taps, bias, order, silu)  # type: ignore[no-any-return]


def _reference(x: Tensor, taps: Tensor, bias: Tensor, order: Tensor | None, silu: bool) -> Tensor:
    size, length = taps.shape[1], x.shape[1]
    rows = F.pad(x if order is None else x[:, order], (0, 0, size - 1, 0))
    y = bias + sum(rows[:, k : k + length] * taps[:, k] for k in range(size))
    y = F.silu(y) if silu else y
    return y if order is None else torch.empty_like(y).index_copy(1, order, y)
