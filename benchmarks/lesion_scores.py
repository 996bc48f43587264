"""Scores of lesions on IDRiD: pixels, pooled over photographs, single lesions, and their calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage

from foveal.measurement.lesions import Lesions, find_lesions
from foveal.scans.field_of_view import FieldOfView
from foveal.scans.synthetic import LESION_KINDS
from foveal.segmentation.inference import StructureMaps
from structure_doubt import STEP, Doubt

KINDS = tuple(LESION_KINDS)
LEVELS = int(np.array(1, np.float16).view(np.uint16)) + 1  # of a float16 from 0 to 1: they sort as the values
AROUND = np.ones((3, 3), bool)
RESAMPLES = 1000


@dataclass(frozen=True)
class LesionCase:
    """One held-out photograph: truth (K, H, W) bool, what the networks say, and the disc that was found."""

    patient: str
    fold: int
    truth: np.ndarray
    maps: StructureMaps
    field: FieldOfView
    disc: np.ndarray | None


class PixelTally:
    """Pixels and those of a lesion among them at every level of probability, by kind and photograph."""

    def __init__(self) -> None:
        self.folds: list[int] = []
        self._rows: list[np.ndarray] = []

    def add(self, case: LesionCase) -> None:
        self.folds.append(case.fold)
        row = np.zeros((len(KINDS), 2, LEVELS), np.int64)
        for place, kind in enumerate(KINDS):
            level = case.maps[kind].astype(np.float16).view(np.uint16).ravel()
            row[place, 0] = np.bincount(level, minlength=LEVELS)
            row[place, 1] = np.bincount(level[case.truth[place].ravel()], minlength=LEVELS)
        self._rows.append(row)

    def of(self, kind: str, fold: int | None = None) -> np.ndarray:
        """(photographs, 2, levels) of a kind, from the most probable level down."""
        place = KINDS.index(kind)
        rows = [row for row, of in zip(self._rows, self.folds, strict=True) if fold in (None, of)]
        return np.stack(rows)[:, place, :, ::-1]


def average_precision(tally: np.ndarray) -> float:
    """Area under the precision-recall curve, by steps, of (2, levels) pixels and lesion pixels among them."""
    found, right = np.cumsum(tally, axis=1)
    precision = right / np.maximum(found, 1)
    return float((tally[1] * precision).sum() / right[-1]) if right[-1] else float("nan")


def resampled_precision(tally: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Average precision of pooled photographs (N, 2, levels), with a 95 % interval over photographs."""
    used = tally[:, 0].any(axis=0)
    tally = tally[:, :, used].astype(float)
    draws = np.random.default_rng(seed).multinomial(
        len(tally), np.full(len(tally), 1 / len(tally)), RESAMPLES
    )
    values = [average_precision(np.tensordot(weights, tally, 1)) for weights in draws]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return average_precision(tally.sum(axis=0)), float(low), float(high)


def best_threshold(tally: np.ndarray, *, beta: float = 1.0) -> tuple[float, float]:
    """The probability from which pooled pixels (N, 2, levels) are best called lesion, and their F score.

    `beta` says how many times as much a missed pixel weighs as a false one; at 1 the score is Dice.
    """
    found, right = np.cumsum(tally.sum(axis=0), axis=1)
    scores = (1 + beta**2) * right / (found + beta**2 * right[-1])
    best = int(np.argmax(scores))
    level = np.array(LEVELS - 1 - best, np.uint16).view(np.float16)
    return float(level), float(scores[best])


def precision_and_recall(tally: np.ndarray, threshold: float) -> tuple[float, float]:
    """The share of lesion among pooled pixels that reach a threshold, and of these among those of lesion."""
    level = LEVELS - 1 - int(np.array(threshold, np.float16).view(np.uint16))
    found, right = np.cumsum(tally.sum(axis=0), axis=1)
    return float(right[level] / max(found[level], 1)), float(right[level] / max(right[-1], 1))


def dice_at(tally: np.ndarray, threshold: float) -> float:
    """Dice of pooled pixels that reach a threshold."""
    level = LEVELS - 1 - int(np.array(threshold, np.float16).view(np.uint16))
    found, right = np.cumsum(tally.sum(axis=0), axis=1)
    return float(2 * right[level] / (found[level] + right[-1]))


def found_of(case: LesionCase, thresholds: Mapping[str, float]) -> Lesions:
    """Lesions as a screening run finds them."""
    return find_lesions(
        case.maps.probability, case.maps.names, case.field, thresholds=thresholds, exclude=case.disc
    )


def lesion_rows(case: LesionCase, found: Lesions) -> Iterator[dict[str, object]]:
    """For each kind: true lesions and those touched, found ones and those that touch none, and pixels."""
    for place, kind in enumerate(KINDS):
        truth, mask = case.truth[place], found.mask(kind)
        parts, count = ndimage.label(truth, AROUND)
        touched = np.unique(parts[mask & truth])
        real = is_real(case, found, kind)
        yield {
            "photograph": case.patient,
            "fold": case.fold,
            "kind": kind,
            "lesions": count,
            "touched": len(touched),
            "found": len(real),
            "false": int((~real).sum()),
            "true_pixels": int(truth.sum()),
            "found_pixels": int(mask.sum()),
            "shared_pixels": int((mask & truth).sum()),
        }


def is_real(case: LesionCase, found: Lesions, kind: str) -> np.ndarray:
    """(n,) bool, which of the found lesions of a kind touch one that the graders outlined."""
    truth = case.truth[KINDS.index(kind)].ravel()
    hits = np.bincount(found.owners, truth[found.pixels], len(found)) > 0
    return hits[found.are(kind)]


def summarise_lesions(rows: pd.DataFrame) -> pd.DataFrame:
    """By kind, over photographs: sensitivity for lesions, false ones a photograph, Dice of what was found."""
    total = rows.groupby("kind", sort=False)[
        ["lesions", "touched", "found", "false", "true_pixels", "found_pixels", "shared_pixels"]
    ].sum()
    photographs = rows.groupby("kind", sort=False).size()
    return total.assign(
        sensitivity=total.touched / total.lesions,
        false_a_photograph=total.false / photographs,
        precision=1 - total.false / total.found,
        dice=2 * total.shared_pixels / (total.true_pixels + total.found_pixels),
    )


def add_lesions(case: LesionCase, thresholds: Mapping[str, float], pixels: Mapping[str, Doubt]) -> None:
    """Every fourth row and column of the field, for each kind."""
    region = case.field.mask[::STEP, ::STEP]
    for place, kind in enumerate(KINDS):
        p, s, y = (
            full[::STEP, ::STEP][region]
            for full in (case.maps[kind], case.maps.spread(kind), case.truth[place])
        )
        pixels[kind].add(p, s, y, group=case.patient, threshold=thresholds[kind])


def found_lesion_rows(case: LesionCase, found: Lesions) -> pd.DataFrame:
    """One row a found lesion: its mean probability and spread, and whether it touches a true one."""
    rows = []
    for kind in KINDS:
        chosen = found.are(kind)
        if not chosen.any():
            continue
        owner = found.owners
        p, s = (
            np.bincount(owner, layer.ravel()[found.pixels], len(found))[chosen] / found.areas[chosen]
            for layer in (case.maps[kind], case.maps.spread(kind))
        )
        real = is_real(case, found, kind)
        rows.append(
            pd.DataFrame(
                {"photograph": case.patient, "kind": kind, "probability": p, "spread": s, "real": real}
            )
        )
    return pd.concat(rows) if rows else pd.DataFrame()
