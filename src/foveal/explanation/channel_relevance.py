"""Relevance of each channel and place for a ChannelViT's output (rollout of gradient times attention)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from foveal.blocks.attention_taps import attention_tapped
from foveal.encoders.channelvit import ChannelViT
from foveal.explanation.attention_methods import relevance_rollout


def channel_relevance(
    encoder: ChannelViT,
    images: Tensor,
    target: Callable[[Tensor], Tensor],
    *,
    channels: Tensor | Sequence[int] | Sequence[str] | None = None,
) -> Tensor:
    """How much each patch of each channel speaks for an output.

    Per block A' is the mean over heads of relu(dy/dA * A), with A the attention; R starts as the identity and
    R <- R + A' R. The row of the class token, without itself, is the relevance of the tokens.

    Args:
        encoder: in evaluation mode.
        images: (B, C', H, W).
        target: from the pooled vectors (B, D) to one number an image, (B,), such as a class's logit.
        channels: which channels they are, as in `ChannelViT.forward`.

    Returns:
        (B, C', h, w), at least 0; `channel_shares` sums it up by channel.

    Raises:
        ValueError: the encoder is in training mode, where channels are drawn.
    """
    if encoder.training:
        raise ValueError("the encoder is in training mode, in which channels are drawn; call .eval() first")
    with torch.enable_grad(), torch.inference_mode(False):
        with attention_tapped(encoder) as layers:
            features = encoder(images.clone(), channels)
        maps = [layer.weights for layer in layers]
        gradients = torch.autograd.grad(target(features.pooled).sum(), maps)
    relevance = relevance_rollout(maps, gradients).detach()
    height, width = features.grid
    return rearrange(relevance[:, 0, 1:], "b (c h w) -> b c h w", h=height, w=width)


def channel_shares(relevance: Tensor) -> Tensor:
    """(B, C') share of each channel in a relevance (B, C', h, w); sums to 1, or is 0 where nothing counts."""
    sums = relevance.sum(dim=(2, 3))
    return sums / sums.sum(dim=1, keepdim=True).clamp_min(torch.finfo(sums.dtype).tiny)
