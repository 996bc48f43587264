"""Passes of a model without some of its attention heads, each begun at the block where it differs.

Every head has a gate; at 0 the head's output before the projection is 0, or its mean over a data set (Michel
et al., arXiv 1905.10650; Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foveal.blocks.attention_taps import attention_of, attention_tapped
from foveal.settings import unknown_name

Ablation = Literal["zero", "mean"]


@dataclass(frozen=True)
class Answers:
    """What one pass gave.

    Attributes:
        logits: (B, K) float64.
        embedding: (B, D) float64, what the last linear layer read; None without one.
        block: (B, N, D) float64, what the block of the changed layer gave, where that was asked for.
    """

    logits: Tensor
    embedding: Tensor | None
    block: Tensor | None = None


class _Gates:
    """Scales the heads of the layers as they come; the gates may change between passes."""

    def __init__(self, means: Sequence[Tensor] | None) -> None:
        self.means = means
        self.set(None)

    def set(self, table: Tensor | None, *, first: int = 0) -> None:
        """Gates (L, H) of the passes to come, of which the first met is that of layer `first`."""
        self.table, self.first, self.met = table, first, 0
        self.whole = [] if table is None else (table == 1).all(dim=1).tolist()

    def __call__(self, _number: int, values: Tensor) -> Tensor:
        if self.table is None:
            return values
        layer = self.met % (len(self.table) - self.first) + self.first
        self.met += 1
        if self.whole[layer]:
            return values
        share = self.table[layer, : values.shape[1]].to(values).view(1, -1, 1, 1)
        if self.means is None:
            return values * share
        return share * values + (1 - share) * self.means[layer].to(values)

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Let them act on a model: on weights, or on outputs where these are set to their means."""
        edits = (self, None) if self.means is None else (None, self)
        with attention_tapped(model, edit=edits[0], edit_outputs=edits[1], read=lambda _: None):
            yield


@contextmanager
def heads_gated(model: nn.Module, table: Tensor, *, means: Sequence[Tensor] | None = None) -> Iterator[None]:
    """Let a model run with a gate on every head.

    Args:
        model: any with attention of torch's functions.
        table: (L, H) gates, 1 leaves a head as it is; columns that a layer has no head for are not read.
        means: outputs (H, N, D) of each layer that take the place of a head at gate 0; zeros if not given.
    """
    gates = _Gates(means)
    gates.set(table)
    with gates.of(model):
        yield


@torch.no_grad()
def mean_head_outputs(model: nn.Module, images: Tensor, *, batch_size: int = 64) -> list[Tensor]:
    """Mean output (H, N, D) of every layer's heads over images, before the projection.

    Raises:
        ValueError: outputs of a layer could not be met.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    layers = 0
    for part in images.split(batch_size):

        def add(number: int, values: Tensor) -> Tensor:
            sums[number] = sums.get(number, 0) + values.sum(dim=0, dtype=torch.float64)
            counts[number] = counts.get(number, 0) + len(values)
            return values

        with attention_tapped(model, edit_outputs=add) as kept:
            model(part)
        layers = len(kept)
    if len(sums) != layers:
        raise ValueError(
            f"outputs of {len(sums)} of {layers} attention layers of {type(model).__name__} were met; "
            "heads cannot be set to their means here, use ablation='zero'"
        )
    return [sums[number] / counts[number] for number in range(layers)]


def check_ablation(ablation: str) -> None:
    """Refuse an unknown way to take a head out.

    Raises:
        ValueError: neither "zero" nor "mean".
    """
    if ablation not in ("zero", "mean"):
        raise ValueError(unknown_name("ablation", ablation, ("zero", "mean")))


@dataclass
class Passes:
    """Passes of one batch through a model; those from a later block on skip the blocks before."""

    model: nn.Module
    images: Tensor
    layers: tuple[str, ...]
    blocks: list[nn.Module]
    inputs: list[Tensor]
    embedding: nn.Module | None
    gates: _Gates

    @torch.no_grad()
    def run(self, layer: int = 0, gates: Tensor | None = None, *, block: bool = False) -> Answers:
        """Run with gates (H,) on one attention layer, or with none.

        Args:
            layer: number of the attention layer.
            gates: of its heads; None leaves the model as it is.
            block: also keep what the block of that layer gives.
        """
        read: list[Tensor] = []
        gave: list[Tensor] = []
        first = layer if self.inputs and gates is not None else 0
        table = None
        if gates is not None:
            table = torch.ones(len(self.layers), len(gates), device=gates.device)
            table[layer] = gates
        self.gates.set(table, first=first)
        handles = []
        if self.embedding is not None:
            handles.append(self.embedding.register_forward_pre_hook(lambda _, given: read.append(given[0])))
        if block and self.blocks:
            handles.append(self.blocks[layer].register_forward_hook(lambda _m, _i, out: gave.append(out)))
        try:
            with _skipped(self.blocks, self.inputs, first):
                logits = self.model(self.images)
        finally:
            self.gates.set(None)
            for handle in handles:
                handle.remove()
        return Answers(
            logits.double(),
            read[-1].flatten(1).double() if read else None,
            gave[-1].double() if gave else None,
        )


@contextmanager
def resumable(
    model: nn.Module,
    images: Tensor,
    blocks: str | None = None,
    *,
    keep: bool = True,
    means: Sequence[Tensor] | None = None,
) -> Iterator[Passes]:
    """Keep the inputs of a model's blocks, so that a pass can begin at any of them.

    Args:
        model: any with attention.
        images: (B, C, H, W) of all passes.
        blocks: name of the list of blocks; found where it is not named.
        keep: False keeps nothing, so that every pass runs all blocks.
        means: see `heads_gated`.

    Raises:
        ValueError: `blocks` is no list of modules with one attention layer each.
    """
    layers, listed = _blocks(model, images, blocks)
    inputs: list[Tensor] = []
    if listed and keep:
        handles = [
            block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in listed
        ]
        try:
            with torch.no_grad():
                model(images)
        finally:
            for handle in handles:
                handle.remove()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    gates = _Gates(means)
    with gates.of(model):  # once for all passes: to hook every module costs as much as a small model's pass
        yield Passes(model, images, layers, listed, inputs, linear[-1] if linear else None, gates)


def _blocks(model: nn.Module, images: Tensor, name: str | None) -> tuple[tuple[str, ...], list[nn.Module]]:
    """Attention layers, and the list of blocks that each hold one, in order; [] where none is found."""
    layers = tuple(layer.name for layer in attention_of(model, images[:1]))
    for found, module in model.named_modules():
        if name is not None and found != name:
            continue
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == len(layers):
            inside = [f"{found}.{k}." for k in range(len(module))]
            if all(layer.startswith(prefix) for layer, prefix in zip(layers, inside, strict=True)):
                return layers, list(module)
    if name is not None:
        raise ValueError(f"{name!r} is no list of blocks with one attention layer each, in order")
    return layers, []


@contextmanager
def _skipped(blocks: Sequence[nn.Module], inputs: Sequence[Tensor], first: int) -> Iterator[None]:
    """Let blocks before `first` pass what they get, and hand the kept input to that one."""
    if not first:
        yield
        return

    def passed(x: Any, *args: Any, **kwargs: Any) -> Any:
        return x

    for block in blocks[:first]:
        block.forward = passed  # type: ignore[method-assign]
    handle = blocks[first].register_forward_pre_hook(lambda _, given: (inputs[first], *given[1:]))
    try:
        yield
    finally:
        handle.remove()
        for block in blocks[:first]:
            del block.forward
