"""Segmentation metrics inside a region, and their interval over patients."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def binary_counts(
    prediction: np.ndarray, target: np.ndarray, region: np.ndarray | None = None
) -> dict[str, int]:
    """True and false positives and negatives of two boolean masks of one shape, inside `region`.

    Raises:
        ValueError: shapes differ.
    """
    shapes = {prediction.shape, target.shape} | ({region.shape} if region is not None else set())
    if len(shapes) != 1:
        raise ValueError(f"prediction, target and region differ in shape: {sorted(shapes)}")
    if region is not None:
        prediction, target = prediction[region], target[region]
    tp = int(np.count_nonzero(prediction & target))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(target)) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": prediction.size - tp - fp - fn}


def overlap_scores(counts: dict[str, int]) -> dict[str, float]:
    """Dice, IoU, sensitivity, specificity and balanced accuracy from counts; NaN where undefined.

    Sum the counts of many images before calling for "micro" scores; call for each image and average for
    the per-image ones.
    """
    tp, fp, fn, tn = (counts[key] for key in ("tp", "fp", "fn", "tn"))
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    return {
        "dice": _share(2 * tp, 2 * tp + fp + fn),
        "iou": _share(tp, tp + fp + fn),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def pixel_auc(score: np.ndarray, target: np.ndarray, region: np.ndarray | None = None) -> float:
    """Area under the ROC curve over pixels inside `region`; NaN when only one class is there."""
    if region is not None:
        score, target = score[region], target[region]
    if target.all() or not target.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score  # slow to import, and not always wanted

    return float(roc_auc_score(target.ravel(), score.ravel()))


def bootstrap_mean(
    values: Sequence[float], groups: Sequence[Hashable] | None = None, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean with a 95% percentile interval, resampling whole groups (patients).

    Args:
        values: one number an image.
        groups: one patient an image; every image is its own by default.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        (mean, lower end, upper end).

    Raises:
        ValueError: no values, or as many groups as values are not given.
    """
    x = np.asarray(values, dtype=float)
    names = list(range(len(x))) if groups is None else list(groups)
    if not len(x) or len(names) != len(x):
        raise ValueError(
            f"{len(x)} values with {len(names)} groups: one group a value and at least one are wanted"
        )
    _, index = np.unique(np.asarray([str(name) for name in names]), return_inverse=True)
    sums, sizes = np.bincount(index, weights=x), np.bincount(index)
    draws = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(x.mean()), float(low), float(high)
