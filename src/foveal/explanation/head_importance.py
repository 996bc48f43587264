"""Which attention heads matter: what changes in a model's answers without each of them.

Every head has a gate, which scales its output before the projection; a gate of 0 is the head taken out
(Michel et al., arXiv 1905.10650; Li et al., arXiv 2303.13731).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.attention_taps import LayerAttention, attention_of, attention_tapped
from foveal.explanation.head_passes import (
    Ablation,
    Answers,
    check_ablation,
    heads_gated,
    mean_head_outputs,
    resumable,
)
from foveal.explanation.taps import prefix_tokens_of
from foveal.settings import unknown_name

KEPT_ALONE = "kept_alone"
LAYER_SHIFT = "layer_shift"
Order = Literal["least first", "most first"]


@dataclass(frozen=True)
class HeadImportance:
    """What every head is worth by several measures; above 0: the model needs it.

    Attributes:
        values: by name, (L, H, N) float64 of every image; NaN where a layer has fewer heads than H.
        classes: (N,) of each image: its label, or without labels the class that the model says.
        layers: names of the attention layers.
    """

    values: Mapping[str, Tensor]
    classes: Tensor
    layers: tuple[str, ...]

    @property
    def measures(self) -> dict[str, Tensor]:
        """By name, (L, H) mean over the images."""
        return {name: value.mean(dim=-1) for name, value in self.values.items()}

    def of_class(self, number: int) -> HeadImportance:
        """The same of the images of one class.

        Raises:
            ValueError: no image is of that class.
        """
        chosen = self.classes == number
        if not chosen.any():
            there = ", ".join(str(int(one)) for one in self.classes.unique())
            raise ValueError(f"no image is of class {number}; there are {there}")
        return HeadImportance(
            {name: value[..., chosen] for name, value in self.values.items()},
            self.classes[chosen],
            self.layers,
        )

    def combined_rank(self) -> Tensor:
        """(L, H) mean over the measures of each head's rank from 0 (least) to 1 (most important)."""
        measures = list(self.measures.values())
        there = ~measures[0].isnan()
        ranks = [torch.from_numpy(rankdata(value[there].numpy())) for value in measures]
        found = torch.full_like(measures[0], torch.nan)
        found[there] = (torch.stack(ranks).mean(dim=0) - 1) / max(1, int(there.sum()) - 1)
        return found

    def agreement(self) -> tuple[tuple[str, ...], Tensor]:
        """Names of the measures and their rank correlations, (M, M); NaN with one that does not vary."""
        measures = self.measures
        names = tuple(measures)
        varying = {name: value[~value.isnan()] for name, value in measures.items()}
        varying = {name: value for name, value in varying.items() if value.unique().numel() > 1}
        table = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
        for row, a in enumerate(names):
            for column, b in enumerate(names):
                if a in varying and b in varying:
                    table[row, column] = float(spearmanr(varying[a], varying[b])[0])
        return names, table


def head_importance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    batch_size: int = 64,
    blocks: str | None = None,
    kept_alone: bool = False,
    layer_shift: bool = False,
    ablation: Ablation = "zero",
    cache: bool = True,
) -> HeadImportance:
    """Take out every head in turn: L H passes over the images, each from the head's own block on.

    Args:
        model: images to logits (B, K), in evaluation mode.
        images: (B, C, H, W).
        labels: (B,) classes; without them only measures that need none are given.
        batch_size: images through the model at once.
        blocks: name of the list of blocks, each of one attention layer, whose inputs are kept so that blocks
            before the head's are not run again; found where it is not named, and without one all is run.
        kept_alone: also measure every head as the only one of its layer: its loss of probability, less is
            more important, so the sign is turned.
        layer_shift: also measure 1 - cosine of what the head's own block gives, of its class token, or the
            mean over all tokens where there is none; needs a list of blocks.
        ablation: "zero" sets the head's output to 0, "mean" to its mean over these images at each token.
        cache: False runs every pass from the start.

    Returns:
        "accuracy_drop", "loss_increase" and "true_probability_drop" with labels; "probability_drop" of the
        class that the model says; "divergence" of Jensen and Shannon between the probabilities, in nats;
        "embedding_shift", 1 - cosine of what the last linear layer reads; "kept_alone"; "layer_shift".

    Raises:
        ValueError: no attention, labels that do not fit, or a model in training mode.

    Example:
        >>> found = head_importance(vit, images, labels)        # doctest: +SKIP
        >>> found.measures["loss_increase"].argmax()            # doctest: +SKIP
        >>> found.of_class(1).combined_rank()                   # doctest: +SKIP
    """
    _check(model, images, labels)
    check_ablation(ablation)
    layers, heads = heads_of(attention_of(model, images[:1]))
    means = mean_head_outputs(model, images, batch_size=batch_size) if ablation == "mean" else None
    values: dict[str, Tensor] = {}
    classes = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        given = None if labels is None else labels[part].cpu()
        with resumable(model, images[part], blocks, keep=cache, means=means) as passes:
            if layer_shift and not passes.blocks:
                raise ValueError(
                    "layer_shift wants a list of blocks with one attention layer each, and none is found; "
                    "name it with blocks="
                )
            whole = passes.run()
            classes.append(whole.logits.argmax(dim=1).cpu() if given is None else given)
            for layer, count in enumerate(heads):
                unchanged = passes.run(layer, torch.ones(count), block=True) if layer_shift else whole
                for head in range(count):
                    gates = torch.ones(count)
                    gates[head] = 0
                    without = passes.run(layer, gates, block=layer_shift)
                    found = _compare(whole, without, given)
                    if unchanged.block is not None and without.block is not None:
                        found[LAYER_SHIFT] = _shift(model, unchanged.block, without.block)
                    if kept_alone:
                        alone = _compare(whole, passes.run(layer, 1 - gates), None)
                        found[KEPT_ALONE] = -alone["probability_drop"]
                    for name, value in found.items():
                        if name not in values:
                            shape = (len(heads), max(heads), len(images))
                            values[name] = torch.full(shape, torch.nan, dtype=torch.float64)
                        values[name][layer, head, part] = value.cpu()
    return HeadImportance(values, torch.cat(classes), layers)


def head_sensitivity(
    model: nn.Module, images: Tensor, labels: Tensor | None = None, *, batch_size: int = 64
) -> HeadImportance:
    """|d loss / d gate| of every head, mean over images: one forward and backward pass (Michel et al.).

    The loss is the cross-entropy of the labels, or of the classes that the model says.
    """
    _check(model, images, labels)
    layers, heads = heads_of(attention_of(model, images[:1]))
    values = torch.full((len(heads), max(heads), len(images)), torch.nan, dtype=torch.float64)
    classes = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        gates: list[Tensor] = []

        def gated(layer: int, weights: Tensor, gates: list[Tensor] = gates, count: int = len(part)) -> Tensor:
            gates.append(weights.new_ones(count, weights.shape[1], requires_grad=True))
            windows = len(weights) // count
            return weights * gates[-1].repeat_interleave(windows, dim=0)[:, :, None, None]

        with torch.enable_grad(), attention_tapped(model, edit=gated):
            logits = model(part)
        said = logits.detach().argmax(dim=1)
        wanted = said if labels is None else labels[start : start + batch_size].to(said.device)
        loss = F.cross_entropy(logits, wanted, reduction="sum")
        for layer, each in enumerate(torch.autograd.grad(loss, gates)):
            values[layer, : heads[layer], start : start + len(part)] = each.abs().double().cpu().T
        classes.append(wanted.cpu())
    return HeadImportance({"sensitivity": values}, torch.cat(classes), layers)


def pruning_curve(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    importance: Tensor,
    *,
    order: Order = "least first",
    counts: Sequence[int] | None = None,
    batch_size: int = 64,
    ablation: Ablation = "zero",
) -> list[tuple[int, float]]:
    """Accuracy after the first heads by importance (L, H) are taken out together.

    Args:
        model: images to logits.
        images: (B, C, H, W).
        labels: (B,); None counts how often the model says what it says with all heads.
        importance: (L, H); random numbers give a random order; NaN where a layer has no such head.
        order: which go first.
        counts: how many heads to take out; from none to all by default.
        batch_size: images through the model at once.
        ablation: see `head_importance`.

    Returns:
        (heads taken out, accuracy) for each count.
    """
    if order not in ("least first", "most first"):
        raise ValueError(unknown_name("order", order, ("least first", "most first")))
    _check(model, images, labels)
    gated = _GatedAccuracy(model, images, labels, batch_size, ablation)
    there = (~importance.flatten().isnan()).nonzero()[:, 0]
    ranked = there[importance.flatten()[there].argsort(descending=order == "most first", stable=True)]
    curve = []
    for count in range(len(ranked) + 1) if counts is None else counts:
        gates = torch.ones(importance.numel())
        gates[ranked[:count].cpu()] = 0
        curve.append((count, gated(gates.view(importance.shape))))
    return curve


def layer_pruning(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    importance: Tensor,
    *,
    kept: Sequence[int] | None = None,
    batch_size: int = 64,
    ablation: Ablation = "zero",
) -> Tensor:
    """Accuracy when a layer keeps its most important heads alone: (L + 1, K), the last row of all layers.

    Args:
        model: images to logits.
        images: (B, C, H, W).
        labels: (B,), or None; see `pruning_curve`.
        importance: (L, H).
        kept: how many heads to keep, K counts; 0 to H by default.
        batch_size: images through the model at once.
        ablation: see `head_importance`.
    """
    _check(model, images, labels)
    gated = _GatedAccuracy(model, images, labels, batch_size, ablation)
    layers, heads = importance.shape
    place = importance.nan_to_num(nan=-torch.inf).argsort(dim=1, descending=True).argsort(dim=1).cpu()
    counts = range(heads + 1) if kept is None else kept
    table = torch.zeros(layers + 1, len(counts), dtype=torch.float64)
    for column, count in enumerate(counts):
        only = (place < count).float()
        for layer in range(layers):
            gates = torch.ones(layers, heads)
            gates[layer] = only[layer]
            table[layer, column] = gated(gates)
        table[layers, column] = gated(only)
    return table


class _GatedAccuracy:
    """From gates (L, H) to the share of images whose class is right, or as without gates."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor | None, batch_size: int, ablation: Ablation
    ) -> None:
        check_ablation(ablation)
        self.model, self.images, self.batch_size = model, images, batch_size
        self.means = None
        if ablation == "mean":
            self.means = mean_head_outputs(model, images, batch_size=batch_size)
        layers, heads = heads_of(attention_of(model, images[:1]))
        self.labels = self._said(torch.ones(len(layers), max(heads))) if labels is None else labels.cpu()

    def __call__(self, gates: Tensor) -> float:
        return float((self._said(gates) == self.labels).double().mean())

    @torch.no_grad()
    def _said(self, gates: Tensor) -> Tensor:
        found = []
        for part in self.images.split(self.batch_size):
            with heads_gated(self.model, gates, means=self.means):
                found.append(self.model(part).argmax(dim=1).cpu())
        return torch.cat(found)


def heads_of(kept: Sequence[LayerAttention]) -> tuple[tuple[str, ...], list[int]]:
    """Names of the layers of a pass, and how many heads each has."""
    return tuple(layer.name for layer in kept), [layer.weights.shape[1] for layer in kept]


def _compare(whole: Answers, without: Answers, labels: Tensor | None) -> dict[str, Tensor]:
    """What changed, (B,) each."""
    before, after = whole.logits.softmax(dim=1), without.logits.softmax(dim=1)
    said = before.argmax(dim=1)
    mean = (before + after) / 2
    halves = (torch.special.entr(before) + torch.special.entr(after)) / 2
    found = {
        "probability_drop": (before - after).gather(1, said[:, None])[:, 0],
        "divergence": (torch.special.entr(mean) - halves).sum(dim=1),
    }
    if whole.embedding is not None and without.embedding is not None:
        found["embedding_shift"] = 1 - F.cosine_similarity(whole.embedding, without.embedding, dim=1)
    if labels is not None:
        labels = labels.to(before.device)
        right = [(p.argmax(dim=1) == labels).double() for p in (before, after)]
        found["accuracy_drop"] = right[0] - right[1]
        losses = [F.cross_entropy(one.logits, labels, reduction="none") for one in (whole, without)]
        found["loss_increase"] = losses[1] - losses[0]
        found["true_probability_drop"] = (before - after).gather(1, labels[:, None])[:, 0]
    return found


def _shift(model: nn.Module, before: Tensor, after: Tensor) -> Tensor:
    """1 - cosine of the class token, or the mean over tokens, (B,)."""
    shift = 1 - F.cosine_similarity(before, after, dim=-1)
    if shift.ndim == 2 and prefix_tokens_of(model) != 0:
        return shift[:, 0]
    return shift.flatten(1).mean(dim=1)


def _check(model: nn.Module, images: Tensor, labels: Tensor | None) -> None:
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode; call .eval() first")
    if not len(images):
        raise ValueError("no images; at least one is wanted")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} for {len(images)} images; allowed: one of each"
        )
