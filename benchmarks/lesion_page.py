"""The page of evidence on lesions, from what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from foveal.machine import describe_environment
from foveal.markdown import table
from foveal.pages import NOTICE
from lesion_scores import (
    average_precision,
    best_threshold,
    dice_at,
    precision_and_recall,
    resampled_precision,
    summarise_lesions,
)
from structure_tables import calibration_table, doubt_table, title_of

if TYPE_CHECKING:
    from lesions import Found

NAME, PHOTOGRAPHS = "lesions", "photographs"
REMEMBERED = {"microaneurysms": 0.50, "haemorrhages": 0.68, "hard_exudates": 0.89, "soft_exudates": 0.70}


def picture_name(photograph: str) -> str:
    """File of a photograph's picture."""
    return f"{photograph.replace('/', '-')}.jpg"


def page(found: Found, seconds: float) -> str:
    """The page as Markdown."""
    parts = [
        "# Lesions",
        "Measured by `python benchmarks/lesions.py --data DATA --write` on eyes that the networks have not "
        "seen. Brackets hold 95 % intervals of a bootstrap over patients. No goal was set beforehand. "
        f"{NOTICE}",
        *lesion_section(found),
        *healthy_section(found),
        *doubt_section(found),
        "## How it was run",
        table(["", ""], [[name, value] for name, value in _run(seconds).items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _run(seconds: float) -> dict[str, str]:
    return {
        "folds": "IDRiD: three folds of 18 photographs, each a patient, shuffled with seed 0",
        "seeds": "training 0, bootstraps 0",
        "time": f"{seconds:.0f} s, with the networks' maps kept from an earlier run where they were",
        **describe_environment(),
    }


def lesion_section(found: Found) -> list[str]:
    tally, summary = found.tally, summarise_lesions(found.lesions)
    rows, singles = [], []
    for kind, threshold in found.thresholds.items():
        title, folds = title_of(kind), sorted(set(tally.folds))
        by_fold = [average_precision(tally.of(kind, fold).sum(axis=0)) for fold in folds]
        pixels = tally.of(kind)
        value, low, high = resampled_precision(pixels)
        rows.append(
            [
                title,
                f"{np.mean(by_fold):.3f}",
                f"{min(by_fold):.3f} to {max(by_fold):.3f}",
                f"{value:.3f} ({low:.3f} to {high:.3f})",
                f"{REMEMBERED[kind]:.2f}",
                f"{best_threshold(pixels)[1]:.3f}",
                f"{threshold:.3f}",
                *(f"{share:.3f}" for share in precision_and_recall(pixels, threshold)),
                f"{dice_at(pixels, threshold):.3f}",
            ]
        )
        row = summary.loc[kind]
        singles.append(
            [
                title,
                f"{row.lesions:.0f}",
                f"{row.sensitivity:.3f}",
                f"{row.found:.0f}",
                f"{row.precision:.3f}",
                f"{row.false_a_photograph:.1f}",
                f"{row.dice:.3f}",
            ]
        )
    kept = f"{NAME}_{PHOTOGRAPHS}.csv"
    head = ["", "AUPR, mean of folds", "range", "AUPR, all", "challenge, as remembered"]
    return [
        "## Pixels and single lesions",
        f"{len(tally.folds)} photographs of IDRiD at their own size (4288 x 2848), each by the network of "
        "the fold that left it out, with the two mirror images of a screening run. AUPR is the average "
        "precision of all pixels of a fold, or of all folds, pooled. The challenge's best figures are as "
        "remembered, not looked up, and are of its own test set, of larger networks and of more computing; "
        "they are no like-for-like comparison. The threshold, which is the shipped one, is the best by F0.5 "
        "over the held-out folds (a false pixel weighs twice a missed one): one number a kind, chosen on "
        "the same photographs that precision, recall and Dice beside it are of.",
        table([*head, "best Dice", "threshold", "precision", "recall", "Dice there"], rows),
        "Single lesions, as a screening run finds them at these thresholds, outside the found disc. A true "
        "lesion is a connected part of the graders' mask; it is found if any of its pixels is. A found one "
        "is false if it touches no true one of its kind.",
        table(["", "true", "sensitivity", "found", "precision", "false a photograph", "Dice"], singles),
        f"By photograph: [{kept}]({kept}). Thresholds: `{json.dumps(found.thresholds)}`.",
        "The photographs with the most false lesions and with the most missed ones: photograph, the graders' "
        "lesions, the found ones (microaneurysms pink, haemorrhages red, hard exudates yellow, soft ones "
        "light green; drawn a little larger than they are).",
        *(f"![{name}]({NAME}/{picture_name(name)})" for name in found.pictures),
    ]


def healthy_section(found: Found) -> list[str]:
    counts = found.healthy.drop(columns="photograph")
    rows = [
        [title_of(kind), f"{column.mean():.1f}", f"{column.max()}", f"{(column == 0).sum()}"]
        for kind, column in counts.items()
    ]
    return [
        "## Eyes without lesions",
        f"What the shipped network finds at its thresholds in {len(counts)} photographs that are taken to "
        "have no lesion of diabetic retinopathy (LES-AV's usual test half, of healthy eyes and eyes with "
        "glaucoma, and a public-domain photograph of a normal eye), none of which it was trained on; the "
        "vessel network whose weights it began with had learned LES-AV's vessels. Nobody has graded them for "
        "lesions; all that is found is counted as false.",
        table(["", "a photograph, mean", "most", "photographs with none"], rows),
    ]


def doubt_section(found: Found) -> list[str]:
    return [
        "## What the probabilities and the doubt are worth",
        "Every fourth row and column of the field in the held-out photographs; nearly all of it is "
        "background, which is easy, so that errors are rare by nature and the slope tells more than the "
        "ECE. Slopes below 1: too sure.",
        calibration_table(found.worth),
        "![Reliability](lesions/reliability.svg)",
        "An error is a pixel on the wrong side of the threshold above, or a found lesion that touches no "
        "true one. AURC is the area under risk over coverage: the mean error of what is kept when the most "
        "doubtful is left out. AUROC is the chance that an error is more doubtful than a right item. Two "
        "doubts are compared: 1 - |2 p - 1| (for found lesions 1 - p), and the standard deviation over two "
        "mirrored views (self-consistency).",
        doubt_table(found.worth),
        "Probabilities that are low in every view have a small spread, whether right or wrong. Of found "
        "lesions the spread alone therefore tells the false ones less well; it is to be used beside the "
        "probability, not in its place.",
        "![Risk by probability](lesions/risk-coverage-probability.svg)",
        "![Risk by spread](lesions/risk-coverage-spread.svg)",
    ]
