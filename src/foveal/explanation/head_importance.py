"""Which attention heads matter: what changes in a model's answers without each of them.

Every head has a gate on its attention weights, which scales its output before the projection; a gate of 0 is
the head taken out (Michel et al., arXiv 1905.10650; Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.explanation.attention_taps import attention_of, attention_tapped
from foveal.settings import unknown_name

KEPT_ALONE = "kept_alone"
Order = Literal["least first", "most first"]


@dataclass(frozen=True)
class HeadImportance:
    """What every head is worth by several measures; above 0: the model needs it.

    Attributes:
        measures: by name, (L, H) float64.
        layers: names of the attention layers.
    """

    measures: Mapping[str, Tensor]
    layers: tuple[str, ...]

    def combined_rank(self) -> Tensor:
        """(L, H) mean over the measures of each head's rank from 0 (least) to 1 (most important)."""
        ranks = [torch.from_numpy(rankdata(value.flatten().numpy())) for value in self.measures.values()]
        shape = next(iter(self.measures.values())).shape
        mean = torch.stack(ranks).mean(dim=0) - 1
        return (mean / max(1, mean.numel() - 1)).view(shape)

    def agreement(self) -> tuple[tuple[str, ...], Tensor]:
        """Names of the measures and their rank correlations, (M, M); NaN with one that does not vary."""
        names = tuple(self.measures)
        rows = [
            [float(spearmanr(self.measures[a].flatten(), self.measures[b].flatten())[0]) for b in names]
            for a in names
        ]
        return names, torch.tensor(rows, dtype=torch.float64)


def head_importance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    batch_size: int = 64,
    blocks: str | None = None,
    kept_alone: bool = False,
) -> HeadImportance:
    """Take out every head in turn: L H passes over the images, each from the head's own block on.

    Args:
        model: images to logits (B, K), in evaluation mode.
        images: (B, C, H, W).
        labels: (B,) classes; without them only measures that need none are given.
        batch_size: images through the model at once.
        blocks: name of the list of blocks, each of one attention layer, whose outputs are kept so that blocks
            before the head's are not run again; found where it is not named, and without one all is run.
        kept_alone: also measure every head as the only one of its layer: its loss of probability, less is
            more important, so the sign is turned.

    Returns:
        "accuracy_drop" and "loss_increase" with labels; "probability_drop" of the class that the model says;
        "divergence" of Jensen and Shannon between the probabilities, in nats; "embedding_shift", 1 - cosine
        of what the last linear layer reads; "kept_alone".

    Raises:
        ValueError: no attention, labels that do not fit, or a model in training mode.
    """
    _check(model, images, labels)
    kept = attention_of(model, images[:1])
    layers, heads = tuple(layer.name for layer in kept), kept[0].weights.shape[1]
    sums: dict[str, Tensor] = {}
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        given = None if labels is None else labels[start : start + batch_size]
        with resumable(model, part, blocks) as passes:
            whole = _answers(passes, len(layers), None)
            for layer in range(len(layers)):
                for head in range(heads):
                    gates = torch.ones(heads)
                    gates[head] = 0
                    found = _compare(whole, _answers(passes, layer, gates), given)
                    if kept_alone:
                        alone = _compare(whole, _answers(passes, layer, 1 - gates), None)
                        found[KEPT_ALONE] = -alone["probability_drop"]
                    for name, value in found.items():
                        table = sums.setdefault(name, torch.zeros(len(layers), heads, dtype=torch.float64))
                        table[layer, head] += value
    return HeadImportance({name: value / len(images) for name, value in sums.items()}, layers)


def head_sensitivity(
    model: nn.Module, images: Tensor, labels: Tensor | None = None, *, batch_size: int = 64
) -> HeadImportance:
    """|d loss / d gate| of every head, mean over images: one forward and backward pass (Michel et al.).

    The loss is the cross-entropy of the labels, or of the classes that the model says.
    """
    _check(model, images, labels)
    layers = tuple(layer.name for layer in attention_of(model, images[:1]))
    totals = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        gates: list[Tensor] = []

        def gated(layer: int, weights: Tensor, gates: list[Tensor] = gates) -> Tensor:
            gates.append(torch.ones(*weights.shape[:2], 1, 1, device=weights.device, requires_grad=True))
            return weights * gates[-1]

        with torch.enable_grad(), attention_tapped(model, edit=gated):
            logits = model(part)
        wanted = logits.argmax(dim=1) if labels is None else labels[start : start + batch_size]
        loss = F.cross_entropy(logits, wanted, reduction="sum")
        each = torch.stack(torch.autograd.grad(loss, gates))[..., 0, 0]  # (L, B, H)
        totals.append(each.abs().sum(dim=1).double().cpu())
    return HeadImportance({"sensitivity": torch.stack(totals).sum(dim=0) / len(images)}, layers)


@torch.no_grad()
def pruning_curve(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    importance: Tensor,
    *,
    order: Order = "least first",
    counts: Sequence[int] | None = None,
    batch_size: int = 64,
) -> list[tuple[int, float]]:
    """Accuracy after the first heads by importance (L, H) are taken out together.

    Args:
        model: images to logits.
        images: (B, C, H, W).
        labels: (B,).
        importance: (L, H); random numbers give a random order.
        order: which go first.
        counts: how many heads to take out; from none to all by default.
        batch_size: images through the model at once.

    Returns:
        (heads taken out, accuracy) for each count.
    """
    if order not in ("least first", "most first"):
        raise ValueError(unknown_name("order", order, ("least first", "most first")))
    ranked = importance.flatten().argsort(descending=order == "most first", stable=True)
    curve = []
    for count in range(len(ranked) + 1) if counts is None else counts:
        gates = torch.ones(importance.numel(), device=images.device)
        gates[ranked[:count].to(images.device)] = 0
        table = gates.view(importance.shape)

        def gated(layer: int, weights: Tensor, table: Tensor = table) -> Tensor:
            return weights * table[layer].view(1, -1, 1, 1)

        right = 0
        for start in range(0, len(images), batch_size):
            with attention_tapped(model, edit=gated):
                found = model(images[start : start + batch_size]).argmax(dim=1)
            right += int((found == labels[start : start + batch_size]).sum())
        curve.append((count, right / len(images)))
    return curve


@dataclass
class Passes:
    """Passes of one batch through a model; those from a later block on skip the blocks before."""

    model: nn.Module
    images: Tensor
    blocks: list[nn.Module]
    inputs: list[Tensor]
    embedding: nn.Module | None

    def run(self, layer: int, gates: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits and what the last linear layer reads, with gates (H,) on one attention layer."""
        read: list[Tensor] = []
        first = min(layer, len(self.blocks)) if self.inputs else 0

        def gated(number: int, weights: Tensor) -> Tensor:
            # Skipped blocks have no attention: layers are counted from the first block that runs.
            return weights * gates.to(weights).view(1, -1, 1, 1) if number + first == layer else weights  # type: ignore[union-attr]

        handles = []
        if self.embedding is not None:
            handles.append(self.embedding.register_forward_pre_hook(lambda _, given: read.append(given[0])))
        try:
            skipped = _skipped(self.blocks, self.inputs, first if gates is not None else 0)
            with skipped, attention_tapped(self.model, edit=None if gates is None else gated):
                logits = self.model(self.images)
        finally:
            for handle in handles:
                handle.remove()
        return logits, read[-1] if read else None


@contextmanager
def resumable(model: nn.Module, images: Tensor, blocks: str | None = None) -> Iterator[Passes]:
    """Keep the inputs of a model's blocks, so that a pass can begin at any of them.

    Raises:
        ValueError: `blocks` is no list of modules with one attention layer each.
    """
    listed = _blocks(model, images, blocks)
    inputs: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in listed]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        yield Passes(model, images, listed, inputs, linear[-1] if linear else None)


def _blocks(model: nn.Module, images: Tensor, name: str | None) -> list[nn.Module]:
    """The list of blocks, each met with one attention layer, in order; [] where none is found."""
    with torch.no_grad(), attention_tapped(model) as kept:
        model(images[:1])
    layers = [layer.name for layer in kept]
    for found, module in model.named_modules():
        if name is not None and found != name:
            continue
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == len(layers):
            inside = [f"{found}.{k}." for k in range(len(module))]
            if all(layer.startswith(prefix) for layer, prefix in zip(layers, inside, strict=True)):
                return list(module)
    if name is not None:
        raise ValueError(f"{name!r} is no list of blocks with one attention layer each, in order")
    return []


@contextmanager
def _skipped(blocks: Sequence[nn.Module], inputs: Sequence[Tensor], first: int) -> Iterator[None]:
    """Let blocks before `first` pass what they get, and hand the kept input to that one."""
    if not first or first >= len(blocks):
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


def _answers(passes: Passes, layer: int, gates: Tensor | None) -> tuple[Tensor, Tensor | None]:
    logits, embedding = passes.run(layer, gates)
    return logits.double(), None if embedding is None else embedding.flatten(1).double()


def _compare(
    whole: tuple[Tensor, Tensor | None], without: tuple[Tensor, Tensor | None], labels: Tensor | None
) -> dict[str, float]:
    """Sums over the batch of what changed."""
    before, after = whole[0].softmax(dim=1), without[0].softmax(dim=1)
    said = before.argmax(dim=1)
    mean = (before + after) / 2
    halves = (torch.special.entr(before) + torch.special.entr(after)) / 2
    found = {
        "probability_drop": float((before - after).gather(1, said[:, None]).sum()),
        "divergence": float((torch.special.entr(mean) - halves).sum()),
    }
    if whole[1] is not None and without[1] is not None:
        found["embedding_shift"] = float((1 - F.cosine_similarity(whole[1], without[1], dim=1)).sum())
    if labels is not None:
        right = [(p.argmax(dim=1) == labels).sum() for p in (before, after)]
        found["accuracy_drop"] = float(right[0] - right[1])
        losses = [F.cross_entropy(logits, labels, reduction="sum") for logits in (whole[0], without[0])]
        found["loss_increase"] = float(losses[1] - losses[0])
    return found


def _check(model: nn.Module, images: Tensor, labels: Tensor | None) -> None:
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call .eval() first")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} for {len(images)} images; allowed: one of each"
        )
