"""Relevance from attention weights: rollout, flow, and attention weighted by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from foveal.blocks.attention_taps import attention_tapped, check_attention
from foveal.explanation.cam import enlarged
from foveal.explanation.methods import Question, register_method
from foveal.explanation.taps import as_maps, prefix_tokens_of
from foveal.settings import unknown_name

Heads = Literal["mean", "max", "min"]
_CAPACITIES = 1_000_000  # parts into which an attention of 1 is cut, as flows are whole numbers


@register_method("attention-rollout", "attention", signed=False)
def attention_rollout(
    asked: Question,
    *,
    heads: Heads = "mean",
    discard: float = 0.0,
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Attention of all layers multiplied, half of each token its own (Abnar and Zuidema, arXiv 2005.00928).

    It does not depend on the class. `discard` sets that share of the smallest weights of each image to 0.
    """
    layers = [_fused_heads(weights, heads) for weights in _weights(asked)]
    if not 0 <= discard < 1:
        raise ValueError(f"discard is {discard}; allowed: at least 0 and below 1")
    if discard:
        layers = [_without_smallest(weights, discard) for weights in layers]
    joint = rollout([with_residual(weights) for weights in layers])
    return _on_grid(joint, asked, prefix_tokens, grid)


@register_method("attention-flow", "attention", signed=False)
def attention_flow(
    asked: Question,
    *,
    heads: Heads = "mean",
    prefix_tokens: int | None = None,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """Largest flow from the class token to each token through attention (arXiv 2005.00928).

    It does not depend on the class. The time grows with the cube of the tokens: for small grids.
    """
    layers = [with_residual(_fused_heads(weights, heads)) for weights in _weights(asked)]
    flows = [
        torch.from_numpy(flow_to_tokens([layer[b].numpy() for layer in layers]))
        for b in range(len(layers[0]))
    ]
    return _on_grid(torch.stack(flows)[:, None].float(), asked, prefix_tokens, grid)


@register_method("attention-relevance", "attention", signed=False)
def attention_relevance(
    asked: Question, *, prefix_tokens: int | None = None, grid: Sequence[int] | None = None
) -> Tensor:
    """Attention times the score's gradient, positive part, rolled out (Chefer et al., arXiv 2103.15679)."""
    images = asked.images.clone().requires_grad_()
    with attention_tapped(asked.model) as kept:
        score = asked.first_score(images)
    check_attention(asked.model, kept)
    maps = [layer.weights for layer in kept]
    gradients = torch.autograd.grad(score.sum(), maps, allow_unused=True)
    return _on_grid(relevance_rollout(maps, gradients), asked, prefix_tokens, grid)


def with_residual(weights: Tensor) -> Tensor:
    """Attention (B, N, N), half of each token its own, rows of sum 1."""
    mixed = weights + torch.eye(weights.shape[-1], device=weights.device)
    return mixed / mixed.sum(dim=-1, keepdim=True)


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """Product (B, N, N) of layers' attention, the first layer on the right."""
    joint = layers[0]
    for weights in layers[1:]:
        joint = weights @ joint
    return joint


def relevance_rollout(maps: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """R from R = 1 by R <- R + mean over heads of (dy/dA * A)^+ R: (B, N, N), without the first 1.

    Args:
        maps: attention (B, H, N, N) of each layer.
        gradients: of the score in each; None counts as 0.
    """
    start = torch.eye(maps[0].shape[-1], device=maps[0].device).expand(len(maps[0]), -1, -1)
    relevance = start
    for weights, gradient in zip(maps, gradients, strict=True):
        if gradient is not None:
            relevance = relevance + (gradient * weights.detach()).relu().mean(dim=1) @ relevance
    return relevance - start


def flow_to_tokens(layers: Sequence[np.ndarray], source: int = 0) -> np.ndarray:
    """(N,) largest flow from a token of the last layer to each token of the input.

    Args:
        layers: attention (N, N) of each layer with the residual, first layer first: capacities from a token
            to those that it attends to.
        source: token of the last layer.
    """
    tokens, depth = len(layers[0]), len(layers)
    rows, columns, capacities = [], [], []
    for level, weights in enumerate(layers):  # nodes of level l + 1 attend to nodes of level l
        out, into = np.nonzero(weights > 0)
        rows.append((level + 1) * tokens + out)
        columns.append(level * tokens + into)
        capacities.append(np.rint(weights[out, into] * _CAPACITIES))
    size = (depth + 1) * tokens
    graph = csr_array(
        (np.concatenate(capacities).astype(np.int32), (np.concatenate(rows), np.concatenate(columns))),
        shape=(size, size),
    )
    start = depth * tokens + source
    return np.array([maximum_flow(graph, start, token).flow_value for token in range(tokens)]) / _CAPACITIES


def _weights(asked: Question) -> list[Tensor]:
    with torch.no_grad(), attention_tapped(asked.model) as kept:
        asked.model(asked.images)
    check_attention(asked.model, kept)
    sizes = {layer.weights.shape[-2:] for layer in kept}
    if len(sizes) > 1 or any(queries != keys for queries, keys in sizes):
        told = ", ".join(f"{n} x {m}" for n, m in sorted(sizes))
        raise ValueError(f"attention of sizes {told} cannot be multiplied; use attention-relevance or lrp")
    return [layer.weights for layer in kept]


def _fused_heads(weights: Tensor, heads: Heads) -> Tensor:
    if heads not in get_args(Heads):
        raise ValueError(unknown_name("heads", heads, get_args(Heads)))
    return weights.mean(dim=1) if heads == "mean" else getattr(weights, f"a{heads}")(dim=1)


def _without_smallest(weights: Tensor, share: float) -> Tensor:
    flat = weights.flatten(1)
    least = flat.topk(int(share * flat.shape[1]), dim=1, largest=False).indices
    return flat.scatter(1, least, 0.0).view_as(weights)


def _on_grid(joint: Tensor, asked: Question, prefix_tokens: int | None, grid: Sequence[int] | None) -> Tensor:
    """Row of the class token, or the mean row where there is none, on the grid and enlarged."""
    tokens = joint.shape[-1]
    if prefix_tokens is None:
        prefix_tokens = prefix_tokens_of(asked.model)
    known = joint.transpose(1, 2)  # (B, N, queries)
    laid = as_maps(known, asked.images, prefix_tokens=prefix_tokens, grid=grid)
    has_class_token = laid[0, 0].numel() < tokens
    rows = laid[:, 0] if has_class_token or laid.shape[1] == 1 else laid.mean(dim=1)
    return enlarged(rows, asked.images)
