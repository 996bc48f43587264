"""Modified gradients of attention, of scans and of recurrences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.explanation.lrp_mode import Propagation, by_ratio, half, handles
from foveal.kernels.gated_recurrence import gated_recurrence_with_state
from foveal.kernels.grid_recurrence import grid_recurrence
from foveal.kernels.selective_scan import selective_scan
from foveal.kernels.short_convolution import short_convolution


@handles(torch.softmax, Tensor.softmax, F.softmax)
def _softmax(mode: Propagation, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    weights = func(input, *args, **kwargs)
    return weights.detach() if mode.composite.attention == "cp" else weights


@handles(F.scaled_dot_product_attention)
def _attention(
    mode: Propagation,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Fused attention, taken apart."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, dim=-3) for x in (key, value))
    with mode:
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
        if is_causal:
            allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, -torch.inf)
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
        return scores.softmax(dim=-1) @ value


@handles(F.multi_head_attention_forward)
def _multi_head(
    mode: Propagation,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """torch.nn.MultiheadAttention, tokens first: (L, B, D)."""
    if in_proj_weight is None or bias_k is not None or add_zero_attn or key_padding_mask is not None:
        raise NotImplementedError("no relevance rule for multi-head attention with these options")
    rule = mode.composite.in_attention
    weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    heads = [
        mode.linear(x, w, b, F.linear, rule).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    ]
    mixed = _attention(mode, F.scaled_dot_product_attention, *heads, attn_mask=attn_mask)
    return mode.linear(
        mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias, F.linear, rule
    ), None


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
