"""How well probabilities tell classes apart: AUC, accuracy and balanced accuracy, with their intervals.

The definitions are MedMNIST's (Yang et al., Scientific Data 10:41, 2023): AUC is that of the second class
where there are two, else the mean over the classes of each against the others; accuracy of several findings
is the share of right answers at a probability of 0.5.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from foveal.metrics.comparison import Estimate
from foveal.metrics.group_sums import as_estimate, percentile_interval, resampled_weights


class Discrimination(NamedTuple):
    """Point figures; NaN where the labels hold too few classes.

    Attributes:
        auc: mean area under the ROC curve; of several findings over those that are both there and not.
        accuracy: share of right answers.
        balanced_accuracy: mean over the classes (of several findings: over yes and no of each) of the share
            of right answers.
    """

    auc: float
    accuracy: float
    balanced_accuracy: float


class DiscriminationIntervals(NamedTuple):
    """The figures of `Discrimination` with 95% bootstrap intervals over patients."""

    auc: Estimate
    accuracy: Estimate
    balanced_accuracy: Estimate


def discrimination(probabilities: np.ndarray, labels: np.ndarray) -> Discrimination:
    """AUC, accuracy and balanced accuracy.

    Args:
        probabilities: (N, K) scores, higher for what is likelier.
        labels: (N,) classes from 0, or (N, K) of 0 and 1 for several findings an image.

    Raises:
        ValueError: shapes do not fit, a probability is not finite, or a label is out of range.
    """
    targets, several = _checked(probabilities, labels)
    columns = _columns(targets, several)
    areas = [_area(targets[:, column], probabilities[:, column]) for column in columns]
    right, wanted = _answers(probabilities, targets, several)
    return Discrimination(
        _known_mean(np.array(areas)), float(right.mean()), _known_mean(_recalls(right, wanted))
    )


def discrimination_intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    patients: Sequence[Hashable] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> DiscriminationIntervals:
    """The same with 95% percentile intervals of a bootstrap over whole patients.

    Args:
        probabilities: (N, K) scores.
        labels: (N,) classes or (N, K) findings.
        patients: one an image; every image is its own by default, and wherever it is None.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: as `discrimination`, or there is not one patient an image.
    """
    targets, several = _checked(probabilities, labels)
    owners = [None] * len(labels) if patients is None else list(patients)
    if len(owners) != len(labels):
        raise ValueError(f"{len(owners)} patients for {len(labels)} images; one an image is wanted")
    keys = [("image", row) if owner is None else ("patient", owner) for row, owner in enumerate(owners)]
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    right, wanted = _answers(probabilities, targets, several)
    columns = _columns(targets, several)
    draws: list[tuple[np.ndarray, ...]] = []
    for counts in resampled_weights(len(numbers), len(labels), resamples=resamples, seed=seed):
        weights = counts[:, group]  # (R, N) how often each image is in each resample
        areas = [_areas(targets[:, column], probabilities[:, column], weights) for column in columns]
        draws.append(
            (
                _mean_of_known(np.stack(areas, axis=1)),
                weights @ right.mean(axis=1) / weights.sum(axis=1),
                _mean_of_known(_weighted_recalls(right, wanted, weights)),
            )
        )
    point = discrimination(probabilities, labels)
    bands = [
        percentile_interval(np.asarray(value), np.concatenate(drawn), len(numbers))
        for value, drawn in zip(point, zip(*draws, strict=True), strict=True)
    ]
    return DiscriminationIntervals(*map(as_estimate, bands))


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Labels as (N, K) bool, and whether they are several findings."""
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or len(probabilities) != len(labels):
        raise ValueError(
            f"probabilities are {probabilities.shape}, labels {labels.shape}; allowed: (N, K) with K at "
            "least 2, and one label an image"
        )
    if not len(labels) or not np.isfinite(probabilities).all():
        raise ValueError("probabilities are empty or not finite")
    several = labels.ndim == 2
    if several and labels.shape != probabilities.shape:
        raise ValueError(f"labels of findings are {labels.shape}, probabilities {probabilities.shape}")
    top = 1 if several else probabilities.shape[1] - 1
    if not np.isin(labels, np.arange(top + 1)).all():
        raise ValueError(
            f"labels span {labels.min()} to {labels.max()}; allowed: whole numbers from 0 to {top}"
        )
    classes = np.arange(probabilities.shape[1])
    return (labels == 1) if several else (labels[:, None] == classes), several


def _columns(targets: np.ndarray, several: bool) -> list[int]:
    return [1] if targets.shape[1] == 2 and not several else list(range(targets.shape[1]))


def _answers(probabilities: np.ndarray, targets: np.ndarray, several: bool) -> tuple[np.ndarray, np.ndarray]:
    """Right answers (N, Q), and which of them count for each recall (C, N, Q)."""
    if several:
        right = (probabilities >= 0.5) == targets
        return right, np.concatenate([_one_each(targets), _one_each(~targets)])
    right = targets[np.arange(len(targets)), probabilities.argmax(axis=1)][:, None]
    return right, targets.T[:, :, None]


def _one_each(targets: np.ndarray) -> np.ndarray:
    """(K, N, K): finding k counts for recall k alone."""
    return targets.T[:, :, None] & np.eye(targets.shape[1], dtype=bool)[:, None]


def _recalls(right: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return _weighted_recalls(right, wanted, np.ones((1, len(right))))[0]


def _weighted_recalls(right: np.ndarray, wanted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, C) share of right answers among those wanted; NaN where there is none."""
    hits = weights @ (wanted & right).sum(axis=2).T
    total = weights @ wanted.sum(axis=2).T
    return np.divide(hits, total, out=np.full_like(hits, np.nan), where=total > 0)


def _area(target: np.ndarray, score: np.ndarray) -> float:
    if target.all() or not target.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score  # slow to import, and not always wanted

    return float(roc_auc_score(target, score))


def _areas(target: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Areas under the ROC curve (R,) with images weighted by (R, N); ties count half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    positive = np.add.reduceat(weights[:, order] * target[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~target[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * below).sum(axis=1)
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)


def _known_mean(values: np.ndarray) -> float:
    return float(_mean_of_known(values[None])[0])


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean (R,) of the values (R, C) that exist; NaN where none does."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
