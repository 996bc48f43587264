"""How far a classifier falls on corrupted images, beside another too (MedMNIST-C, arXiv 2406.17536)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from foveal.metrics.discrimination import discrimination
from foveal.objectives.base import Batch
from foveal.scans.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from foveal.settings import unknown_name

CLEAN = "clean"


@dataclass(frozen=True)
class Robustness:
    """Errors of one classifier on clean and corrupted images.

    Attributes:
        clean: balanced error (1 - balanced accuracy) of the images as they are.
        errors: balanced error by corruption, one a severity.
        severities: of the errors.
        reference: the same of the classifier to compare with, or None.
    """

    clean: float
    errors: dict[str, tuple[float, ...]]
    severities: tuple[int, ...]
    reference: Robustness | None = None

    @property
    def mean_error(self) -> float:
        """Balanced error, mean over severities and corruptions."""
        return float(np.mean(list(self.errors.values())))

    @property
    def drop(self) -> float:
        """By how much the mean balanced error on corrupted images exceeds the clean one."""
        return self.mean_error - self.clean

    @property
    def table(self) -> pd.DataFrame:
        """One row a corruption, and a last one of their means.

        Columns: `kind`; `severity_1` and so on; `mean` over severities; `drop`, the mean minus the clean
        error. With a reference also `error_ratio`, sum over s of error_s over the same of the reference, and
        `relative_error`, sum over s of (error_s - clean) over the same of the reference: below 1 it falls
        less. NaN where the reference has no error, or does not fall.
        """
        rows = []
        for name, errors in self.errors.items():
            row: dict[str, object] = {"corruption": name, "kind": CORRUPTIONS[name].kind}
            row |= {f"severity_{s}": error for s, error in zip(self.severities, errors, strict=True)}
            row |= {"mean": np.mean(errors), "drop": np.mean(errors) - self.clean}
            if self.reference is not None:
                theirs = self.reference.errors[name]
                falls = _sum_above(errors, self.clean), _sum_above(theirs, self.reference.clean)
                row |= {"error_ratio": _ratio(sum(errors), sum(theirs)), "relative_error": _ratio(*falls)}
            rows.append(row)
        table = pd.DataFrame(rows).set_index("corruption")
        table.loc["mean"] = table.drop(columns="kind").mean()
        table.loc["mean", "kind"] = ""
        return table


def robustness_report(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    corruptions: Sequence[str] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    reference: Callable[[Tensor], Tensor] | Robustness | None = None,
    seed: int = 0,
) -> Robustness:
    """Measure the balanced error under each corruption and severity.

    Batches are read once, and each is corrupted in all ways, so that memory does not grow with the data.
    Every image has its own noise and places, alike at every severity and for both classifiers.

    Args:
        model: images (B, C, H, W) in [0, 1] to logits (B, K); a module is put into evaluation mode.
        batches: `images` (B, C, H, W) in [0, 1] with C 1 or 3; `labels` (B,) classes, or (B, K) of 0 and 1
            for several findings, which the logits then answer each by a sigmoid.
        corruptions: names of `scans.corruptions.CORRUPTIONS`; all of them by default.
        severities: any of 1 to 5.
        reference: a classifier to compare with, best one trained alike (the paper's is ResNet-18), or its
            report on the same data, corruptions and severities.
        seed: of the corruptions.

    Raises:
        ValueError: no batches, an unknown corruption or severity, images of other channels, labels out of
            range, or a reference report of other corruptions or severities.
    """
    names = list(CORRUPTIONS) if corruptions is None else list(corruptions)
    severities = tuple(severities)
    for name in names:
        if name not in CORRUPTIONS:
            raise ValueError(unknown_name("corruption", name, list(CORRUPTIONS)))
    if not names or not severities or not set(severities) <= set(SEVERITIES):
        raise ValueError(f"{len(names)} corruptions, severities {severities}; allowed: some, of {SEVERITIES}")
    if isinstance(reference, Robustness) and (
        set(names) - set(reference.errors) or reference.severities != severities
    ):
        raise ValueError(
            "the reference was measured on other corruptions or severities; measure it again on "
            f"{', '.join(names)} at {severities}"
        )
    models = [model] if reference is None or isinstance(reference, Robustness) else [model, reference]
    for each in models:
        if isinstance(each, nn.Module):
            each.eval()
    cases = [(CLEAN, 0), *((name, severity) for name in names for severity in severities)]
    answers: dict[tuple[int, str, int], list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    seen = 0
    for batch in batches:
        pixels = _pixels(batch["images"])
        labels.append(torch.as_tensor(batch["labels"]).cpu().numpy())
        for name, severity in cases:
            changed = [
                image if name == CLEAN else corrupt(image, name, severity, seed=seed + seen + place)
                for place, image in enumerate(pixels)
            ]
            images = _images(changed)
            for number, each in enumerate(models):
                found = _probabilities(each, images, several=labels[-1].ndim == 2)
                answers.setdefault((number, name, severity), []).append(found)
        seen += len(pixels)
    if not seen:
        raise ValueError("there are no images; allowed: at least one batch")
    truth = np.concatenate(labels)
    reports = []
    for number in range(len(models)):
        error = {
            case: 1 - discrimination(np.concatenate(answers[(number, *case)]), truth).balanced_accuracy
            for case in cases
        }
        by_name = {name: tuple(error[name, severity] for severity in severities) for name in names}
        reports.append(Robustness(error[CLEAN, 0], by_name, severities))
    beside = reference if isinstance(reference, Robustness) else reports[1] if len(models) > 1 else None
    return Robustness(reports[0].clean, reports[0].errors, severities, beside)


def _pixels(images: Tensor) -> list[np.ndarray]:
    """(B, C, H, W) in [0, 1] to uint8 images (H, W, 3), or (H, W) where C is 1."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images are {tuple(images.shape)}; allowed: (B, C, H, W) with 1 or 3 channels")
    whole = (images.detach().clamp(0, 1) * 255 + 0.5).to(torch.uint8).movedim(1, 3).cpu().numpy()
    return list(whole[..., 0] if whole.shape[-1] == 1 else whole)


def _images(pixels: Sequence[np.ndarray]) -> Tensor:
    whole = torch.from_numpy(np.stack(pixels)).float() / 255
    return whole[:, None] if whole.ndim == 3 else whole.movedim(3, 1)


@torch.inference_mode()
def _probabilities(model: Callable[[Tensor], Tensor], images: Tensor, *, several: bool) -> np.ndarray:
    if isinstance(model, nn.Module) and (first := next(model.parameters(), None)) is not None:
        images = images.to(first.device)
    logits = model(images).float()
    return (logits.sigmoid() if several else logits.softmax(dim=-1)).cpu().numpy()


def _sum_above(errors: Sequence[float], clean: float) -> float:
    return sum(error - clean for error in errors)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
