"""torch's own attention taken apart into its steps, so that its weights can be met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def attention_in_steps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    scored: Callable[[Tensor], None] | None = None,
    met: Callable[[Tensor], Tensor] | None = None,
    mixed: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`scaled_dot_product_attention`, with `met` called on its weights, `mixed` on what it gives.

    Weights are (B, H, N, M), what it gives is (B, H, N, D). `scored` is shown the scaled products of queries
    and keys (B, H, N, M), before masks.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, dim=-3) for x in (key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if scored is not None:
        scored(scores)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if boolean else scores + attn_mask
    weights = scores.softmax(dim=-1)
    weights = weights if met is None else met(weights)
    output = F.dropout(weights, dropout_p) @ value
    return output if mixed is None else mixed(output)


def multi_head_in_steps(
    linear: Linear,
    attend: Callable[..., Tensor],
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
    """`multi_head_attention_forward` of tokens (L, B, D) by a linear map and an attention of one's own.

    Raises:
        NotImplementedError: projections of their own for keys, or masks of padding.
    """
    if in_proj_weight is None or bias_k is not None or add_zero_attn or key_padding_mask is not None:
        raise NotImplementedError("torch's multi-head attention with these options cannot be taken apart")
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    # Tokens turned by `batch_first` are laid out in memory once; torch would multiply them batch by batch.
    laid_out = {id(x): x.contiguous() for x in (query, key, value)}
    query, key, value = (laid_out[id(x)] for x in (query, key, value))
    heads = [
        linear(x, w, b).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)
        for x, w, b in zip((query, key, value), in_proj_weight.chunk(3), biases, strict=True)
    ]
    dropout = {"dropout_p": dropout_p} if training and dropout_p else {}
    mixed = attend(*heads, attn_mask=attn_mask, **dropout)
    return linear(mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None
