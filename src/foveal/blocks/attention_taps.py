"""Attention weights of any transformer during a forward pass, fused or not, to be read and to be changed.

Attention is met where torch computes it: as `scaled_dot_product_attention`, inside `MultiheadAttention`, or
as a softmax within a module that is called attention. No flag of a model is switched, no module replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foveal.blocks.module_calls import named_calls
from foveal.blocks.torch_attention import attention_in_steps, multi_head_in_steps

Edit = Callable[[int, Tensor], Tensor]
"""Number of the layer and its weights (B, H, N, M), or its heads' outputs (B, H, N, D), to what goes on."""


@dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer.

    Attributes:
        name: of the module.
        weights: (B, H, N, M), rows sum to 1 over the M keys; part of the graph where gradients are on.
    """

    name: str
    weights: Tensor


@contextmanager
def attention_tapped(
    model: nn.Module,
    *,
    edit: Edit | None = None,
    edit_outputs: Edit | None = None,
    read: Callable[[LayerAttention], None] | None = None,
    read_scores: Callable[[LayerAttention], None] | None = None,
) -> Iterator[list[LayerAttention]]:
    """Collect the attention of every layer of a forward pass, first layer first.

    Args:
        model: any with attention of torch's functions.
        edit: changes the weights before the values are mixed by them, such as a gate of each head: what is
            collected is what it returns.
        edit_outputs: changes what the heads give, values mixed by their weights, before the projection.
        read: called with the attention of each layer as it comes; it is then not kept, and the list stays
            empty, so that memory is that of one layer.
        read_scores: called before that with what the softmax is taken of, in place of the weights: scaled
            products of queries and keys, without masks where torch adds them itself.

    Yields:
        A list that fills as the model runs.
    """
    kept: list[LayerAttention] = []
    with (
        named_calls(model) as calls,
        _AttentionMode(calls, read or kept.append, edit, edit_outputs, read_scores),
    ):
        yield kept


def attention_of(model: nn.Module, images: Tensor) -> list[LayerAttention]:
    """Attention of every layer for some images, without gradients.

    Raises:
        ValueError: the model has no attention.
    """
    with torch.no_grad(), attention_tapped(model) as kept:
        model(images)
    check_attention(model, kept)
    return kept


def check_attention(model: nn.Module, kept: list[LayerAttention]) -> None:
    """Refuse a model in which no attention was met.

    Raises:
        ValueError: nothing was met.
    """
    if not kept:
        raise ValueError(
            f"{type(model).__name__} has no attention that torch computes as scaled_dot_product_attention, "
            "as multi-head attention or as a softmax in a module called attention; allowed: vision "
            "transformers of timm, torchvision and transformers (explainers without attention: lrp, grad-cam)"
        )


class _AttentionMode(TorchFunctionMode):
    def __init__(
        self,
        calls: list[str],
        read: Callable[[LayerAttention], None],
        edit: Edit | None,
        edit_outputs: Edit | None,
        read_scores: Callable[[LayerAttention], None] | None,
    ) -> None:
        super().__init__()
        self.calls, self.read, self.edit, self.edit_outputs = calls, read, edit, edit_outputs
        self.read_scores = read_scores
        self.count = 0
        self.to_mix: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attention_in_steps(*args, **kwargs, scored=self._scored, met=self._met, mixed=self._mixed)
        if func is F.multi_head_attention_forward:
            attend = partial(attention_in_steps, scored=self._scored, met=self._met, mixed=self._mixed)
            return multi_head_in_steps(F.linear, attend, *args, **kwargs)
        result = func(*args, **kwargs)
        if (
            func in (F.softmax, torch.softmax, Tensor.softmax)
            and result.ndim == 4
            and self._within_attention()
        ):
            self._scored(args[0] if args else kwargs["input"])
            self.to_mix = self._met(result)
            return self.to_mix
        if self.to_mix is not None and args and args[0] is self.to_mix:
            if func in (F.dropout, Tensor.contiguous, Tensor.to):
                self.to_mix = result
            elif func in (torch.matmul, Tensor.matmul, Tensor.__matmul__):
                self.to_mix = None
                return self._mixed(result)
        return result

    def _scored(self, scores: Tensor) -> None:
        if self.read_scores is not None:
            self.read_scores(LayerAttention(self._name, scores))

    def _met(self, weights: Tensor) -> Tensor:
        if self.edit is not None:
            weights = self.edit(self.count, weights)
        self.count += 1
        self.read(LayerAttention(self._name, weights))
        return weights

    def _mixed(self, outputs: Tensor) -> Tensor:
        return outputs if self.edit_outputs is None else self.edit_outputs(self.count - 1, outputs)

    @property
    def _name(self) -> str:
        return self.calls[-1] if self.calls else ""

    def _within_attention(self) -> bool:
        return any("attn" in name or "attention" in name for name in self.calls)
