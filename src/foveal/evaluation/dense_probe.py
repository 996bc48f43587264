"""What a linear layer on frozen patch features tells of each pixel: its class, or its depth.

The head is that of DVT (arXiv 2401.02957) and of DINOv2 (arXiv 2304.07193): batch normalisation and a 1 x 1
convolution, enlarged bilinearly to the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from foveal.objectives.base import Batch, Objective
from foveal.training import TrainingSettings, fit

IGNORED = 255


class DenseHead(nn.Module):
    """Features (B, h, w, D) to (B, outputs, H, W)."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(dim), nn.Conv2d(dim, outputs, 1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits at `size` (H, W)."""
        logits = self.linear(self.norm(rearrange(features, "b h w d -> b d h w")))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


class DepthBins(nn.Module):
    """Depth of each pixel as a mean of even bins, weighted by a linear layer: (B, h, w, D) to (B, H, W).

    Args:
        dim: D.
        nearest, farthest: ends of the bins.
        bins: how many.
    """

    centres: Tensor

    def __init__(self, dim: int, nearest: float, farthest: float, *, bins: int = 256) -> None:
        super().__init__()
        self.head = DenseHead(dim, bins)
        self.register_buffer("centres", torch.linspace(nearest, farthest, bins))

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Depth at `size` (H, W)."""
        weights = self.head(features, size).relu() + 0.1
        return torch.einsum("bkhw,k->bhw", weights / weights.sum(dim=1, keepdim=True), self.centres)


@dataclass(frozen=True)
class ClassScores:
    """Of test pixels.

    Attributes:
        mean_iou: over the classes that are there or are said, 0 to 1.
        accuracy: share of the pixels, 0 to 1.
        iou: (K,) of each class; NaN where it is neither there nor said.
    """

    mean_iou: float
    accuracy: float
    iou: tuple[float, ...]


@dataclass(frozen=True)
class DenseData:
    """Frozen features (N, h, w, D) with a value for each pixel, (N, H, W)."""

    features: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 4 or self.values.ndim != 3 or len(self.features) != len(self.values):
            raise ValueError(
                f"features {tuple(self.features.shape)} and values {tuple(self.values.shape)}; allowed: "
                "(N, h, w, D) and (N, H, W)"
            )

    def __len__(self) -> int:
        return len(self.features)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """One image."""
        return {"features": self.features[index], "masks": self.values[index]}


class _ClassError(Objective):
    def __init__(self, head: DenseHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        masks = batch["masks"]
        logits = self.head(batch["features"], masks.shape[-2:])
        return {"loss": F.cross_entropy(logits, masks, ignore_index=IGNORED)}


class _DepthError(Objective):
    """Scale-invariant error of the logarithm (arXiv 1406.2283), with the half weight of the mean."""

    def __init__(self, head: DepthBins) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        depth = batch["masks"]
        error = (self.head(batch["features"], depth.shape[-2:]).clamp_min(1e-3).log() - depth.log())[
            depth > 0
        ]
        return {"loss": (error.square().mean() - 0.5 * error.mean().square()).clamp_min(1e-8).sqrt()}


def probe_classes(
    train: DenseData, test: DenseData, *, classes: int, training: TrainingSettings | None = None
) -> ClassScores:
    """Fit a linear head to classes of pixels, and score it on other images.

    Args:
        train: values int64 in 0 to `classes` - 1; 255 is left out.
        test: the same of other images.
        classes: K.
        training: 1000 steps of AdamW at 1e-3 in batches of 16 where None.

    Raises:
        ValueError: classes out of range, or sets whose features differ in length.
    """
    _check(train, test)
    known = train.values[train.values != IGNORED]
    if known.is_floating_point() or not known.numel() or int(known.min()) < 0 or int(known.max()) >= classes:
        raise ValueError(f"values have to be integers 0 to {classes - 1}, or {IGNORED} for none")
    head = _seeded(lambda: DenseHead(train.features.shape[-1], classes), training)
    fit(_ClassError(head), train, training or _default(), progress=False)
    with torch.no_grad():
        said = torch.cat(
            [head.eval()(part, tuple(test.values.shape[1:])).argmax(1) for part in test.features.split(64)]
        )
    counts = multiclass_confusion_matrix(said, test.values, classes, ignore_index=IGNORED).double().numpy()
    hits, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    return ClassScores(float(np.nanmean(iou)), float(hits.sum() / counts.sum()), tuple(iou.tolist()))


def probe_depth(
    train: DenseData, test: DenseData, *, bins: int = 256, training: TrainingSettings | None = None
) -> float:
    """Fit a linear head to depths, over 0 where known, and give its root mean squared error on other images.

    Args:
        train: values float; 0 is unknown.
        test: the same of other images.
        bins: between the least and the greatest known depth of `train`.
        training: see `probe_classes`.

    Raises:
        ValueError: no depth is known, or sets whose features differ in length.
    """
    _check(train, test)
    known = train.values[train.values > 0]
    if not known.numel():
        raise ValueError("no value above 0; depths are above 0, and 0 where unknown")
    ends = float(known.min()), float(known.max())
    head = _seeded(lambda: DepthBins(train.features.shape[-1], *ends, bins=bins), training)
    fit(_DepthError(head), train, training or _default(), progress=False)
    with torch.no_grad():
        said = torch.cat(
            [head.eval()(part, tuple(test.values.shape[1:])) for part in test.features.split(64)]
        )
    return float((said - test.values)[test.values > 0].square().mean().sqrt())


def _default() -> TrainingSettings:
    return TrainingSettings(steps=1000, batch_size=16, warmup_fraction=0.1, tensorboard=False)


def _seeded(make: Any, training: TrainingSettings | None) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed((training or _default()).seed)
        return make()


def _check(train: DenseData, test: DenseData) -> None:
    if train.features.shape[-1] != test.features.shape[-1]:
        raise ValueError(
            f"features of {train.features.shape[-1]} channels to learn from, {test.features.shape[-1]} to be "
            "tested on; both are equal"
        )
