"""What PACE reads of a model in one pass: patch tokens, attention on each, class probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import LayerAttention, attention_tapped
from foveal.encoders.features import Features
from foveal.explanation.taps import as_maps, find_layer, grid_of, prefix_tokens_of
from foveal.models.classifier import Classifier
from foveal.settings import Settings

Attention = Literal["auto", "class", "pooled", "equal"]
Tokens = Literal["all", "patches"]


class TokenSettings(Settings):
    """Which tokens of a model are read, and what weighs them.

    `block` counts the transformer's blocks, -1 the last: the tokens that enter it (its hidden states before
    the last layer, `hidden_states[-2]`) and the attention within it are read. `layer` names another module
    whose output is taken, tokens or maps; with neither attention nor `layer`, the encoder's patches are.
    """

    block: int = -1
    layer: str | None = None
    attention: Attention = "auto"
    tokens: Tokens = "all"
    prefix_tokens: int | None = None
    grid: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class ReadTokens:
    """Tokens of a batch of images.

    Attributes:
        embeddings: (B, J, D).
        weights: (B, J) attention on each token times J, so that their mean is 1.
        probabilities: (B, N) of the model; None of an encoder without classes.
        prefix: how many of the J tokens come before the patches.
        grid: of the patches.
    """

    embeddings: Tensor
    weights: Tensor
    probabilities: Tensor | None
    prefix: int
    grid: tuple[int, ...]

    def maps(self, values: Tensor) -> Tensor:
        """Values of tokens (B, J, ...) on the grid of the patches, (B, *grid, ...)."""
        return values[:, self.prefix :].unflatten(1, self.grid)


@torch.no_grad()
def read_tokens(model: nn.Module, images: Tensor, settings: TokenSettings | None = None) -> ReadTokens:
    """Read tokens, attention and probabilities in one pass.

    "class" attention is the mean over heads of the class token's row; "pooled" that of the query which
    attention pooling learned, else the mean of all rows, which is what mean pooling sees; without attention
    it is the softmax of scaled products with the mean token. "auto" is "class" with a class token, "pooled"
    without one where there is attention, and "equal" for all other models.

    Args:
        model: images to logits (B, N) or to `Features`, in evaluation mode.
        images: (B, C, H, W) or (B, C, T, H, W).
        settings: see `TokenSettings`.

    Raises:
        ValueError: a block or layer that is not there, tokens that fit no grid, or attention that does not
            match the tokens.
    """
    settings = settings or TokenSettings()
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call .eval() first")
    kept: dict[str, Any] = {"inputs": {}}
    with _listening(model, settings, kept), attention_tapped(model) as attention:
        output = model(images)
    square = [a for a in attention if a.weights.shape[-1] == a.weights.shape[-2]]
    chosen = _of_block(square, settings.block) if square else None
    entered = None if chosen is None else kept["inputs"].get(_block_of(model, chosen.name))
    features: Features | None = kept.get("features")
    if settings.layer is not None:
        embeddings, prefix, grid = _laid_out(kept["layer"], images, model, settings)
    elif features is not None and not _matches(chosen, entered):
        embeddings, prefix, grid, chosen = features.patches, 0, features.grid, None
    elif entered is not None:
        embeddings, prefix, grid = _laid_out(entered, images, model, settings)
    else:
        raise ValueError(
            f"{type(model).__name__} has neither blocks with attention nor an encoder's patches; name a "
            "layer of tokens or maps, layer=..."
        )
    weights = _attention(embeddings, prefix, settings.attention, chosen, attention, model)
    if settings.tokens == "patches":
        embeddings, weights, prefix = embeddings[:, prefix:], weights[:, prefix:], 0
    weights = weights / weights.mean(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return ReadTokens(embeddings, weights, _probabilities(model, output), prefix, grid)


@contextmanager
def _listening(model: nn.Module, settings: TokenSettings, kept: dict[str, Any]) -> Iterator[None]:
    """Keep what enters each block, what a named layer gives, and the features of an encoder."""

    def entering(name: str) -> Any:
        def keep(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            tensors = (x for x in (*given, *named.values()) if isinstance(x, Tensor))
            kept["inputs"][name] = next(tensors, None)

        return keep

    def leaving(_module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Features):
            kept["features"] = output

    def named_layer(_module: nn.Module, _given: Any, output: Any) -> None:
        kept["layer"] = output[0] if isinstance(output, tuple | list) else output

    handles = []
    if settings.layer is not None:
        handles.append(find_layer(model, settings.layer).register_forward_hook(named_layer))
    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(leaving))
        if isinstance(module, nn.ModuleList | nn.Sequential) and settings.layer is None:
            for child, block in module.named_children():
                place = f"{name}.{child}" if name else child
                handles.append(block.register_forward_pre_hook(entering(place), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_block(square: list[LayerAttention], block: int) -> LayerAttention:
    if not -len(square) <= block < len(square):
        raise ValueError(
            f"block {block}; the model has {len(square)}: 0 to {len(square) - 1}, or from -1 down"
        )
    return square[block]


def _matches(chosen: LayerAttention | None, entered: Any) -> bool:
    """Whether a block's attention is over the very tokens that enter it, and not over windows of them."""
    if chosen is None or not isinstance(entered, Tensor) or entered.ndim != 3:
        return False
    return (chosen.weights.shape[0], chosen.weights.shape[-1]) == tuple(entered.shape[:2])


def _block_of(model: nn.Module, attention: str) -> str:
    """The innermost module in a list of modules that holds an attention layer."""
    parts = attention.split(".")
    for end in range(len(parts), 0, -1):
        parent = model.get_submodule(".".join(parts[: end - 1]))
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            return ".".join(parts[:end])
    return attention


def _laid_out(
    output: Any, images: Tensor, model: nn.Module, settings: TokenSettings
) -> tuple[Tensor, int, tuple[int, ...]]:
    """Tokens (B, J, D), how many come before the patches, and the grid."""
    if not isinstance(output, Tensor):
        raise ValueError(f"the layer gives a {type(output).__name__}; tokens (B, J, D) or maps are wanted")
    if output.ndim == images.ndim:
        maps = as_maps(output, images, grid=settings.grid)
        return maps.flatten(2).mT, 0, tuple(maps.shape[2:])
    if output.ndim != 3:
        raise ValueError(f"the layer gives the shape {tuple(output.shape)}, neither tokens nor maps")
    told = settings.prefix_tokens
    if told is None and settings.grid is None:
        told = prefix_tokens_of(model)
    prefix, grid = grid_of(output.shape[1], images, prefix_tokens=told, grid=settings.grid)
    return output, prefix, grid


def _attention(
    embeddings: Tensor,
    prefix: int,
    kind: Attention,
    chosen: LayerAttention | None,
    all_layers: list[LayerAttention],
    model: nn.Module,
) -> Tensor:
    """(B, J) weights that sum to 1."""
    count = embeddings.shape[1]
    has_class_token = prefix > 0 and _first_is_class_token(model)
    if kind == "auto":
        kind = "equal" if chosen is None else "class" if has_class_token else "pooled"
    if kind == "class" and (chosen is None or not has_class_token):
        raise ValueError(
            f"{type(model).__name__} has no attention of a class token on these tokens; use "
            'attention="pooled" or "equal"'
        )
    if kind == "equal":
        return embeddings.new_full(embeddings.shape[:2], 1 / count)
    if chosen is None:
        mean = embeddings.mean(dim=1, keepdim=True)
        return F.softmax((embeddings * mean).sum(-1) / math.sqrt(embeddings.shape[-1]), dim=-1)
    if chosen.weights.shape[0] != len(embeddings) or chosen.weights.shape[-1] != count:
        raise ValueError(
            f"attention of {chosen.name!r} has the shape {tuple(chosen.weights.shape)}, which does not match "
            f'{count} tokens; name another block, or use attention="equal"'
        )
    heads = chosen.weights.mean(dim=1)
    if kind == "class":
        return heads[:, 0]
    learned = [a.weights for a in all_layers if a.weights.shape[-2:] == (1, count)]
    return learned[-1].mean(dim=1)[:, 0] if learned else heads.mean(dim=1)


def _first_is_class_token(model: nn.Module) -> bool:
    """timm's models tell whether they have a class token; others with a prefix begin with one."""
    for module in model.modules():
        if hasattr(module, "num_prefix_tokens"):
            return getattr(module, "cls_token", None) is not None
    return True


def _probabilities(model: nn.Module, output: Any) -> Tensor | None:
    """(B, N) that sum to 1 over classes, or of a classifier of independent classes each in [0, 1]."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    if isinstance(model, Classifier) and model.config.activation == "sigmoid":
        chance = logits.sigmoid()
        return chance / chance.sum(dim=-1, keepdim=True)
    return logits.softmax(dim=-1)
