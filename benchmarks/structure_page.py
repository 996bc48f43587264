"""The page of evidence on arteries and veins and on lesions, from what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foveal.machine import describe_environment
from foveal.markdown import table
from foveal.pages import NOTICE
from foveal.recipes.base import Finding
from foveal.recipes.evidence import finding_row
from structure_lesion_scores import (
    average_precision,
    best_threshold,
    dice_at,
    resampled_precision,
    summarise_lesions,
)
from structure_tables import calibration_table, doubt_table, estimate_text, goal, mean_text, title_of

if TYPE_CHECKING:
    from structures import Results

CSV = "structures_{}.csv"
WAYS = {
    "network": "network alone",
    "graph": "graph, as screened",
    "graph_cut": "graph, disc cut out",
    "true_mask": "true vessels given",
    "true_mask_cut": "the same, disc cut out",
}
MEASURES = {
    "pixels": "all true vessel pixels",
    "found_pixels": "true vessel pixels that were found",
    "segments": "segments",
    "segment_length": "segments, by length",
}
PIXEL_GOAL, SEGMENT_GOAL, SECONDS_GOAL = 0.90, 0.92, 2.0
REMEMBERED = {"microaneurysms": 0.50, "haemorrhages": 0.68, "hard_exudates": 0.89, "soft_exudates": 0.70}


def page(results: Results, seconds: float) -> str:
    """The page as Markdown."""
    parts = [
        "# Arteries and veins, lesions",
        "Measured by `python benchmarks/structures.py --data DATA --write` on eyes that the networks have "
        "not seen. Brackets hold 95 % intervals of a bootstrap over patients. Goals were set beforehand; "
        f"what did not hold stays here as not holding. Disc, fovea and "
        f"side are in [landmarks.md](landmarks.md). {NOTICE}",
        "## In short",
        table(["claim", "expected", "measured", "holds"], [finding_row(f) for f in findings(results)]),
        *vessel_section(results),
        *lesion_section(results),
        *doubt_section(results),
        *time_section(results),
        "## How it was run",
        table(["", ""], [[name, value] for name, value in _run(seconds).items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _run(seconds: float) -> dict[str, str]:
    return {
        "folds": "LES-AV: the field's usual halves, trained on one, scored on the other; IDRiD: three folds "
        "of 18 photographs, each a patient, shuffled with seed 0",
        "seeds": "training 0, synthetic eyes of training 0, bootstraps 0",
        "time": f"{seconds:.0f} s with two threads, with the networks' maps kept from an earlier run where "
        "they were",
        **describe_environment(),
    }


def findings(results: Results) -> list[Finding]:
    """Goals and what was measured."""
    vessels = results.vessels
    found = [
        goal("balanced accuracy, true vessel pixels, LES-AV's test half", vessels.pixels_graph, PIXEL_GOAL),
        goal("the same on segments", vessels.segments_graph, SEGMENT_GOAL),
    ]
    for photograph, seconds in added_seconds(results.times).items():
        found.append(
            Finding.at_most(f"seconds added to a photograph of {photograph}", float(seconds), SECONDS_GOAL)
        )
    return found


def vessel_section(results: Results) -> list[str]:
    vessels, few = results.vessels, results.vessels_screened
    rows = [
        [title, *(mean_text(vessels[f"{measure}_{way}"]) for way in WAYS), mean_text(few[f"{measure}_graph"])]
        for measure, title in MEASURES.items()
    ]
    told = ("network", "graph", "true_mask")
    columns = [f"{measure}_{way}" for measure in ("pixels", "segments") for way in told]
    eyes = [
        [row.photograph, str(row.segments), f"{row.found_share:.3f}", *(f"{row[c]:.3f}" for c in columns)]
        for _, row in vessels.sort_values("pixels_graph").iterrows()
    ]
    heads = [f"{part}: {title}" for part in ("pixels", "segments") for title in map(WAYS.get, told)]
    shown = vessels.nsmallest(2, "pixels_graph").photograph
    return [
        "## Arteries and veins",
        f"{len(vessels)} eyes of LES-AV, one a patient. Vessels are those of a network that has seen no eye "
        "of LES-AV, at a probability of one half; kinds are those of the shipped network, averaged over "
        "four mirror images, alone and made consistent along the graph of the found vessels: of all, "
        "as a screening run does it, and of those outside the found disc. Pixels are those of one known "
        "kind; a segment, between two nodes of the graph of the true vessels, counts if 10 pixels or more "
        'of its centre line are of known kind and 80 % of these of one. "True vessels given" puts the '
        "published vessel mask in place of the found one, as papers that classify vessels often do: it is "
        "no result of a screening run. Balanced accuracy, mean over eyes; the last column is after the "
        "graph, as screened, with the two mirror images of a screening run.",
        table(["", *WAYS.values(), "graph, as screened, two views"], rows),
        "By eye, the worst first:",
        table(["eye", "segments", "share found", *heads], eyes),
        f"All values are in [{CSV.format('artery_vein')}]({CSV.format('artery_vein')}). The two worst eyes: "
        "photograph, truth, found (red artery, blue vein, purple crossing or unknown, yellow of the wrong "
        "kind).",
        *(f"![LES-AV {name}](structures/artery-vein-{name}.jpg)" for name in shown),
        "Vessels that are not found keep the network's own kind, which is worse in them than elsewhere: they "
        "are the faint ones. Segments are mostly short and thin, so that they are harder than pixels.",
    ]


def lesion_section(results: Results) -> list[str]:
    tally, summary = results.tally, summarise_lesions(results.lesions)
    rows, singles = [], []
    for kind, threshold in results.thresholds.items():
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
                f"{threshold:.3f}",
                f"{best_threshold(pixels)[1]:.3f}",
                f"{dice_at(pixels, 0.5):.3f}",
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
    head = ["", "AUPR, mean of folds", "range", "AUPR, all", "challenge, as remembered"]
    return [
        "## Lesions",
        f"{len(tally.folds)} photographs of IDRiD at their own size (4288 x 2848), each by the network of "
        "the fold that left it out, with the two mirror images of a screening run. AUPR is the average "
        "precision of all pixels of a fold, or of all folds, pooled. The challenge's best figures are as "
        "remembered, not looked up, and are of its own test set, of larger networks and of more computing; "
        "they are no like-for-like comparison. The threshold is the one of the best pooled Dice over the "
        "held-out folds: one number a kind, chosen on the same photographs that the Dice beside it is of.",
        table([*head, "threshold", "Dice there", "Dice at 0.5"], rows),
        "Single lesions, as a screening run finds them at these thresholds, outside the found disc. A true "
        "lesion is a connected part of the graders' mask; it is found if any of its pixels is. A found one "
        "is false if it touches no true one of its kind.",
        table(["", "true", "sensitivity", "found", "precision", "false a photograph", "Dice"], singles),
        f"By photograph: [{CSV.format('lesions')}]({CSV.format('lesions')}). Thresholds: "
        f"`{json.dumps(results.thresholds)}`.",
    ]


def doubt_section(results: Results) -> list[str]:
    slope = results.worth.calibration["artery or vein, pixels"].slope
    return [
        "## What the probabilities and the doubt are worth",
        "Artery or vein: true vessel pixels of one known kind that were found, and found segments of a known "
        "kind, whose probability is (1 + score) / 2. Lesions: every fourth row and column of the "
        "field in the held-out photographs; nearly all of it is background, which is easy, so that errors "
        "are rare by nature and the slope tells more than the ECE. Slopes below 1: too sure.",
        calibration_table(results.worth),
        "![Reliability](structures/reliability.svg)",
        "An error is a pixel on the wrong side of the threshold (one half; for lesions those above), a "
        "segment of the wrong kind, a found lesion that touches none. AURC is the area under risk over "
        "coverage: the mean error of what is kept when the most doubtful is left out. AUROC is the chance "
        "that an error is more doubtful than a right item. Two doubts are compared: 1 - |2 p - 1| (for "
        "found lesions 1 - p), and the standard deviation over mirrored views (self-consistency), four of "
        "them, two for lesions.",
        doubt_table(results.worth),
        "Probabilities that are low in every view have a small spread, whether right or wrong. Of found "
        "lesions the spread alone therefore puts the false ones among the sure; it is "
        "to be used beside the probability, not in its place.",
        "![Risk by probability](structures/risk-coverage-probability.svg)",
        "![Risk by spread](structures/risk-coverage-spread.svg)",
        f"A temperature of {results.temperature:.2f} fits the artery/vein network on its own training half, "
        f"where a network is surer than elsewhere; on the test half the slope is {estimate_text(slope)}, a "
        f"temperature of {1 / slope.value:.2f}.",
    ]


def added_seconds(times: pd.DataFrame) -> pd.Series:
    """By photograph, seconds of all steps beside the vessels, which stood before."""
    added = times[times.step != "vessels"]
    return added.groupby("photograph", sort=False).seconds.sum()


def time_section(results: Results) -> list[str]:
    times = results.times.pivot_table(index="step", columns="photograph", values="seconds", sort=False)
    rows = [[str(step), *(f"{value:.2f}" for value in row)] for step, row in times.iterrows()]
    rows.append(
        [
            "added by arteries and veins, landmarks, lesions",
            *(f"{s:.2f}" for s in added_seconds(results.times)),
        ]
    )
    return [
        "## Time",
        "Seconds of each step as `foveal screen` takes it, network and all, the least of three in one run on "
        f"two threads. The machine's load average was {results.times.load.min():.1f} to "
        f"{results.times.load.max():.1f} meanwhile; more than 2 means that others used it, and that "
        "the seconds are too many.",
        table(["", *map(str, times.columns)], rows),
    ]
