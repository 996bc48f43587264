"""What the pages of evidence on structures share: goals, means, tables of calibration and doubt, files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from foveal.evaluation.cohort_text import estimate
from foveal.files import write_atomically
from foveal.markdown import table
from foveal.metrics.comparison import Estimate
from foveal.metrics.segmentation import bootstrap_mean
from foveal.recipes.base import Finding
from structure_doubt import Worth

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"


def goal(claim: str, values: pd.Series, at_least: float) -> Finding:
    """Whether a mean over patients reaches a goal."""
    mean, low, high = bootstrap_mean(values.tolist())
    return Finding(claim, f"at least {at_least:g}", f"{mean:.3f} ({low:.3f} to {high:.3f})", mean >= at_least)


def mean_text(values: pd.Series) -> str:
    """Mean and its interval over patients."""
    mean, low, high = bootstrap_mean(values.tolist())
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def estimate_text(value: Estimate) -> str:
    """An estimate and its interval."""
    return estimate(*value)


def title_of(name: str) -> str:
    """A structure's name as it is read."""
    return name.replace("_", " ")


def calibration_table(worth: Worth) -> str:
    """A row a structure: how far its probabilities are right."""
    rows = [
        [title_of(name), f"{s.items}", *map(estimate_text, (s.ece, s.brier, s.slope, s.in_the_large))]
        for name, s in worth.calibration.items()
    ]
    return table(["", "items", "ECE", "Brier", "slope", "offset at slope 1"], rows)


def doubt_table(worth: Worth) -> str:
    """A row a structure: how far its two doubts tell errors."""
    rows = [
        [
            title_of(name),
            estimate_text(found["probability"].base_risk),
            f"{found['probability'].ideal_aurc.value:.2g}",
        ]
        + [estimate_text(found[by].aurc) for by in found]
        + [estimate_text(found[by].auroc) for by in found]
        for name, found in worth.selective.items()
    ]
    kinds = [f"{area}, {by}" for area in ("AURC", "AUROC") for by in ("probability", "spread")]
    return table(["", "error rate", "ideal AURC", *kinds], rows)


def keep(name: str, text: str, *, tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, bytes]) -> None:
    """Write NAME.md, NAME_TABLE.csv and NAME/PICTURE into the evidence, and drop its other pictures."""
    for key, rows in tables.items():
        kept = rows.to_csv(index=False, float_format="%.5g", lineterminator="\n")
        write_atomically(EVIDENCE / f"{name}_{key}.csv", kept)
    folder = EVIDENCE / name
    folder.mkdir(exist_ok=True)
    for picture, content in pictures.items():
        write_atomically(folder / picture, content)
    for old in folder.iterdir():
        if old.name not in pictures:
            old.unlink()
    write_atomically(EVIDENCE / f"{name}.md", text)
