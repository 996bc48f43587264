"""Attention whose logits are capped smoothly, as locality alignment trains with (arXiv 2410.11087)."""

from __future__ import annotations

from math import isinf
from typing import cast

from einops import rearrange
from timm.layers.attention import Attention, maybe_add_mask, resolve_self_attn_mask
from torch import Tensor, nn


def soft_capped(logits: Tensor, cap: float) -> Tensor:
    """cap tanh(logits / cap): near the logits where they are small, never beyond +-cap; infinite: no cap."""
    return logits if isinf(cap) else cap * (logits / cap).tanh()


class SoftCappedAttention(nn.Module):
    """timm's `Attention` with softmax(soft_capped(q k / sqrt(d))) in place of the fused one, on (B, N, D).

    Its layers are those of the attention that it stands for, under the same names, so weights of either load
    into the other unchanged. Fused attention cannot cap: this one keeps the (B, H, N, N) logits.

    Args:
        attention: whose layers are taken over, not copied.
        cap: largest size of a logit; infinite is the ordinary attention.

    Raises:
        ValueError: `cap` is not positive.
    """

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Module
    norm: nn.Module
    gate: nn.Module
    proj: nn.Module
    proj_drop: nn.Module

    def __init__(self, attention: Attention, *, cap: float = 30.0) -> None:
        super().__init__()
        if not cap > 0:
            raise ValueError(f"cap is {cap}; allowed: above 0, infinite for no cap")
        self.cap, self.num_heads = cap, attention.num_heads
        self.head_dim, self.scale = attention.head_dim, attention.scale
        for name, layer in attention.named_children():
            self.add_module(name, layer)

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Capped logits (B, H, N, N) and values (B, H, N, d) of tokens (B, N, D)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k).transpose(-2, -1)
        if isinf(self.cap):
            return (q * self.scale) @ k, v
        # soft_capped with its division done on the queries: passes over all pairs of tokens are what costs
        small = ((q * (self.scale / self.cap)) @ k).tanh_()
        return (small * self.cap if small.requires_grad else small.mul_(self.cap)), v

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix the tokens (B, N, D); masks are those of timm's `Attention`, added after the cap."""
        logits, v = self.logits(x)
        logits = maybe_add_mask(logits, resolve_self_attn_mask(x.shape[1], logits, attn_mask, is_causal))
        mixed = self.attn_drop(logits.softmax(dim=-1)) @ v
        mixed = self.norm(rearrange(mixed, "b h n d -> b n (h d)"))
        if hasattr(self, "gate"):
            mixed = mixed * self.gate(x).sigmoid()
        return cast(Tensor, self.proj_drop(self.proj(mixed)))


def cap_attention(model: nn.Module, cap: float = 30.0) -> int:
    """Replace every timm `Attention` in a model by the soft-capped one, in place; returns how many.

    Raises:
        ValueError: the model has none, or `cap` is not positive.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is Attention
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no attention of timm's class Attention, whose logits can be capped; "
            "take a vision transformer, such as vit_base_patch16_clip_224"
        )
    for parent, name, child in found:
        setattr(parent, name, SoftCappedAttention(child, cap=cap))
    return len(found)
