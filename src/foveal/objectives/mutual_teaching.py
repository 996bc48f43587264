"""Networks that teach each other: Weak-Mamba-UNet (arXiv 2402.10887) and Semi-Mamba-UNet (2402.07245).

Classes are integers, of any networks from images (B, C, *sizes) to logits (B, K, *sizes), 2-D or 3-D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.objectives.base import Batch, Objective

UNLABELLED = -1


def class_dice(probabilities: Tensor, classes: Tensor, *, smooth: float = 1e-5) -> Tensor:
    """Mean over classes of 1 - Dice over the batch: probabilities (B, K, *sizes), classes (B, *sizes)."""
    hard = F.one_hot(classes, probabilities.shape[1]).movedim(-1, 1).to(probabilities)
    axes = (0, *range(2, probabilities.ndim))
    both, each = (probabilities * hard).sum(axes), probabilities.sum(axes) + hard.sum(axes)
    return (1 - (2 * both + smooth) / (each + smooth)).mean()


def partial_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of the labelled pixels, those whose class is not -1; 0 where there are none.

    Raises:
        ValueError: a class that the logits do not have, or maps of different sizes.
    """
    check_classes(logits, classes)
    total = F.cross_entropy(logits, classes, ignore_index=UNLABELLED, reduction="sum")
    return total / (classes != UNLABELLED).sum().clamp_min(1)


def check_classes(logits: Tensor, classes: Tensor) -> None:
    """Refuse a map of classes that does not fit logits (B, K, *sizes).

    Raises:
        ValueError: it does not.
    """
    shape = (len(logits), *logits.shape[2:])
    if classes.shape != shape or classes.dtype != torch.int64:
        raise ValueError(
            f"classes {tuple(classes.shape)} of {classes.dtype}; allowed: {shape} of torch.int64"
        )
    low, high = int(classes.min()), int(classes.max())
    if low < UNLABELLED or high >= logits.shape[1]:
        raise ValueError(
            f"classes from {low} to {high}; allowed: 0 to {logits.shape[1] - 1}, and -1 for unlabelled pixels"
        )


class ScribbleObjective(Objective):
    """Students that learn from scribbles, and from a random mixture of what all of them say.

    Partial cross-entropy on the scribbles, and Dice against pseudo labels: the largest class of a convex
    mixture of the students' probabilities, its weights drawn anew each step, evenly from all mixtures.

    Args:
        students: networks; two or more, in the paper a convolutional one, a transformer and a Mamba one.
        pseudo_weight: of Dice against the pseudo labels.

    Batch keys: `images` (B, C, *sizes); `classes` (B, *sizes) int64, -1 where there is no scribble.

    Raises:
        ValueError: fewer than two students.
    """

    def __init__(self, students: Sequence[nn.Module], *, pseudo_weight: float = 0.5) -> None:
        super().__init__()
        if len(students) < 2:
            raise ValueError(f"{len(students)} students; allowed: 2 or more")
        self.students, self.pseudo_weight = nn.ModuleList(students), pseudo_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `scribble`, `pseudo` and their weighted sum `loss`, each the mean over the students."""
        logits = [student(batch["images"]).float() for student in self.students]
        scribble = torch.stack([partial_cross_entropy(each, batch["classes"]) for each in logits]).mean()
        said = torch.stack([each.softmax(dim=1) for each in logits])
        pseudo = self.mixture(said.detach()).argmax(dim=1)
        dice = torch.stack([class_dice(each, pseudo) for each in said]).mean()
        return {"loss": scribble + self.pseudo_weight * dice, "scribble": scribble, "pseudo": dice}

    def mixture(self, probabilities: Tensor) -> Tensor:
        """A random convex mixture (B, K, *sizes) of the students' probabilities (S, B, K, *sizes)."""
        # Spacings of exponential draws are even over all mixtures.
        weights = torch.empty(len(probabilities), device=probabilities.device).exponential_()
        return torch.einsum("s,s...->...", weights / weights.sum(), probabilities)


class CrossSupervisionObjective(Objective):
    """Two networks that learn from labels, from each other's classes of all images, and from contrast.

    Supervised cross-entropy and Dice of both; Dice of each against the other's classes; and InfoNCE of drawn
    pixels, whose projected logits in one network are to be nearest to those of the same pixel in the other.

    Args:
        first: a network, in the paper Mamba-UNet.
        second: another, in the paper a U-Net.
        classes: K of both.
        cross_weight: of the supervision by the other.
        contrast_weight: of the contrast.
        width: of a projected pixel.
        pixels: drawn from each image for the contrast.
        temperature: of the contrast.

    Batch keys: `images` (B, C, *sizes); `classes` (B, *sizes) int64, -1 in all of an image without labels.
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        *,
        classes: int,
        cross_weight: float = 1.0,
        contrast_weight: float = 0.1,
        width: int = 16,
        pixels: int = 64,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if pixels < 2 or temperature <= 0:
            raise ValueError(f"{pixels} pixels at temperature {temperature}; allowed: 2 or more, above 0")
        self.networks = nn.ModuleList((first, second))
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(classes, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.cross_weight, self.contrast_weight = cross_weight, contrast_weight
        self.pixels, self.temperature = pixels, temperature

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses `supervised`, `cross`, `contrast` and their weighted sum `loss`."""
        classes = batch["classes"]
        logits = [network(batch["images"]).float() for network in self.networks]
        labelled = (classes != UNLABELLED).flatten(1).any(dim=1)
        supervised = logits[0].new_zeros(())
        for each in logits:
            supervised = supervised + partial_cross_entropy(each, classes)
            if labelled.any():
                # Pixels without a class count neither way: they are as told by the network itself.
                told = torch.where(classes == UNLABELLED, each.argmax(dim=1), classes)
                supervised = supervised + class_dice(each[labelled].softmax(dim=1), told[labelled])
        a, b = logits
        cross = class_dice(a.softmax(dim=1), b.detach().argmax(dim=1))
        cross = cross + class_dice(b.softmax(dim=1), a.detach().argmax(dim=1))
        contrast = self.contrast(a, b)
        loss = supervised + self.cross_weight * cross + self.contrast_weight * contrast
        return {"loss": loss, "supervised": supervised, "cross": cross, "contrast": contrast}

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """InfoNCE both ways between the same pixels of logits (B, K, *sizes) of the two networks."""
        count = min(self.pixels, first[0, 0].numel())
        drawn = torch.randperm(first[0, 0].numel(), device=first.device)[:count]
        a, b = (
            F.normalize(projector(each.flatten(2)[..., drawn].movedim(1, -1)), dim=-1)
            for projector, each in zip(self.projectors, (first, second), strict=True)
        )  # (B, pixels, width)
        likeness = a @ b.transpose(1, 2) / self.temperature
        same = torch.arange(count, device=first.device).expand(len(first), -1)
        ways = F.cross_entropy(likeness, same) + F.cross_entropy(likeness.transpose(1, 2), same)
        return ways / 2
