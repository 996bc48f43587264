"""What is explained: a weighted sum of a model's outputs, with weights from the unchanged images.

Whether a model gives logits (B, K) or maps (B, K, ...), its score is sum(outputs * weights), one number an
image. The weights are held fixed while an explainer changes the images: a mask that was made anew for each
changed image would move the thing that is measured (TorchEsegeta, arXiv 2110.08429).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.models.mask_model import MaskModel
from foveal.models.segmenter import Segmenter

Weights: TypeAlias = Callable[[Tensor], Tensor]
"""From outputs (B, K, ...) to weights of the same shape."""
Target: TypeAlias = Weights | Tensor | int | None
"""Weights, a class (of each image), or None for the class that the model says."""
Region: TypeAlias = Literal["predicted", "everywhere"] | Tensor


def weights_of(outputs: Tensor, target: Target, *, model: nn.Module | None = None) -> Tensor:
    """The weights of a target for outputs (B, K) of a classifier or (B, K, ...) of a segmenter.

    A class of a segmenter is explained where it is predicted, as the model itself calls it where the model is
    told; see `region` for other places.

    Raises:
        ValueError: a class that is not there, or weights of another shape.
    """
    if callable(target):
        weights = target(outputs.detach())
        if weights.shape != outputs.shape:
            raise ValueError(
                f"the target made weights of shape {tuple(weights.shape)}; the outputs have "
                f"{tuple(outputs.shape)}"
            )
        return weights.to(outputs)
    classes = outputs.shape[1] if outputs.ndim > 1 else 0
    if outputs.ndim < 2:
        raise ValueError(f"outputs of shape {tuple(outputs.shape)}; allowed: (B, K) or (B, K, ...)")
    if outputs.ndim > 2:
        if target is None and classes > 1:
            raise ValueError(
                f"a segmenter of {classes} classes needs a target: 0 to {classes - 1}, or region(...)"
            )
        chosen = _classes(0 if target is None else target, len(outputs), classes, outputs.device)
        return region(chosen, called(model, outputs, chosen))(outputs)
    if target is None:
        chosen = outputs.argmax(dim=1)
    else:
        chosen = _classes(target, len(outputs), classes, outputs.device)
    return F.one_hot(chosen, classes).to(outputs)


def region(target: Tensor | int, where: Region = "predicted", *, mean: bool = False) -> Weights:
    """A class of a segmenter in a region: the sum of its logits there.

    Args:
        target: class index, of all images or (B,) of each. With one output channel, 0 is the foreground.
        where: "predicted", where the unchanged image has the class (its logit is the largest, or above 0 with
            one channel); "everywhere"; or a mask (B, ...) or (...) over the outputs' grid, such as a single
            voxel or a lesion.
        mean: divide by the size of the region.
    """

    def weights(outputs: Tensor) -> Tensor:
        batch, classes, *grid = outputs.shape
        chosen = _classes(target, batch, classes, outputs.device)
        ones = F.one_hot(chosen, classes).view(batch, classes, *[1] * len(grid))
        if isinstance(where, Tensor):
            if tuple(where.shape) not in ((batch, *grid), tuple(grid)):
                raise ValueError(
                    f"mask of shape {tuple(where.shape)}; allowed: {tuple(grid)} or {(batch, *grid)}"
                )
            inside = where.to(outputs.device).expand(batch, *grid).unsqueeze(1)
        elif where == "everywhere":
            inside = torch.ones_like(outputs[:, :1])
        elif where == "predicted":
            winner = outputs.argmax(dim=1, keepdim=True)
            inside = (outputs > 0) if classes == 1 else winner == chosen.view(batch, 1, *[1] * len(grid))
        else:
            raise ValueError(f"where={where!r}; allowed: predicted, everywhere, or a mask")
        weights = (ones * inside).to(outputs)
        empty = weights.flatten(1).sum(dim=1) == 0
        if empty.any():
            warnings.warn(
                f"images {empty.nonzero()[:, 0].tolist()} hold nothing of class {chosen[empty].tolist()}: "
                "their score and relevance are 0",
                stacklevel=2,
            )
        if mean:
            weights = weights / weights.flatten(1).sum(dim=1).clamp_min(1).view(batch, *[1] * (1 + len(grid)))
        return weights

    return weights


def called(model: nn.Module | None, outputs: Tensor, target: Tensor | int) -> Region:
    """Where a segmenter calls a class (of each image): by its own thresholds where it has independent logits.

    Raises:
        ValueError: a class that is not there.
    """
    chosen = _classes(target, len(outputs), outputs.shape[1], outputs.device)
    logits = outputs[torch.arange(len(outputs), device=outputs.device), chosen]
    if isinstance(model, Segmenter):
        names = [model.config.classes[int(index)] for index in chosen]
        least = logits.new_tensor([model.config.threshold(name) for name in names])
        return (1 + model.signed(logits)) / 2 >= least.view(-1, *[1] * (logits.ndim - 1))
    return logits > 0 if isinstance(model, MaskModel) else "predicted"


def score_of(outputs: Tensor, weights: Tensor) -> Tensor:
    """(B,) weighted sums of outputs."""
    return (outputs * weights).flatten(1).sum(dim=1)


def _classes(target: Tensor | int, batch: int, classes: int, device: torch.device) -> Tensor:
    chosen = torch.as_tensor(target, device=device)
    if chosen.is_floating_point() or chosen.ndim > 1:
        raise ValueError(f"target is {target!r}; allowed: a class index, or (B,) of them")
    chosen = chosen.long().expand(batch) if chosen.ndim == 0 else chosen.long()
    if chosen.shape != (batch,) or not bool(((chosen >= 0) & (chosen < classes)).all()):
        raise ValueError(f"target {chosen.tolist()}: {batch} indices from 0 to {classes - 1} are wanted")
    return chosen
