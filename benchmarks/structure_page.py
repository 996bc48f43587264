"""The page of evidence on arteries and veins, disc, fovea and lesions, from what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foveal.evaluation.cohort_text import estimate
from foveal.metrics.comparison import Estimate
from foveal.metrics.segmentation import bootstrap_mean
from foveal.pages import NOTICE
from foveal.recipes.base import Finding
from foveal.recipes.evidence import describe_environment, finding_row, table
from structure_lesion_scores import (
    average_precision,
    best_threshold,
    dice_at,
    resampled_precision,
    summarise_lesions,
)

if TYPE_CHECKING:
    from structures import Results

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
PAGE = EVIDENCE / "structures.md"
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
PIXEL_GOAL, SEGMENT_GOAL, DISC_GOAL, SECONDS_GOAL, NEAR = 0.90, 0.92, 0.93, 2.0, 0.5
REMEMBERED = {"microaneurysms": 0.50, "haemorrhages": 0.68, "hard_exudates": 0.89, "soft_exudates": 0.70}


def page(results: Results, seconds: float) -> str:
    """The page as Markdown."""
    parts = [
        "# Arteries and veins, disc, fovea and lesions",
        "Measured by `python benchmarks/structures.py --data DATA --write` on eyes that the networks have "
        "not seen. Brackets hold 95 % intervals of a bootstrap over patients. Goals were set beforehand; "
        f"what did not hold stays here as not holding. {NOTICE}",
        "## In short",
        table(["claim", "expected", "measured", "holds"], [finding_row(f) for f in findings(results)]),
        *vessel_section(results),
        *disc_section(results),
        *fovea_section(results),
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
        "seeds": "training 0, synthetic eyes of training 0 and of scoring 4001, bootstraps 0",
        "time": f"{seconds:.0f} s with two threads, with the networks' maps kept from an earlier run where "
        "they were",
        **describe_environment(),
    }


def findings(results: Results) -> list[Finding]:
    """Goals and what was measured."""
    vessels, discs, circles = results.vessels, results.discs, results.circles
    by_eye = circles[circles.photograph != "samples/retina"]
    near = by_eye.center_error_radii <= NEAR
    found = [
        _goal("balanced accuracy, true vessel pixels, LES-AV's test half", vessels.pixels_graph, PIXEL_GOAL),
        _goal("the same on segments", vessels.segments_graph, SEGMENT_GOAL),
        _goal("Dice of the optic disc, held-out folds of IDRiD", discs.dice, DISC_GOAL),
        Finding(
            "disc's centre within half a radius of the one placed by eye, LES-AV and CHASE_DB1",
            f"all {len(by_eye)} photographs",
            f"{int(near.sum())} of {len(by_eye)}",
            bool(near.all()),
        ),
    ]
    for photograph, seconds in added_seconds(results.times).items():
        found.append(
            Finding.at_most(f"seconds added to a photograph of {photograph}", float(seconds), SECONDS_GOAL)
        )
    return found


def _goal(claim: str, values: pd.Series, goal: float) -> Finding:
    mean, low, high = bootstrap_mean(values.tolist())
    return Finding(claim, f"at least {goal:g}", f"{mean:.3f} ({low:.3f} to {high:.3f})", mean >= goal)


def _mean(values: pd.Series) -> str:
    mean, low, high = bootstrap_mean(values.tolist())
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def vessel_section(results: Results) -> list[str]:
    vessels, few = results.vessels, results.vessels_screened
    rows = [
        [title, *(_mean(vessels[f"{measure}_{way}"]) for way in WAYS), _mean(few[f"{measure}_graph"])]
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


def disc_section(results: Results) -> list[str]:
    discs, circles = results.discs, results.circles
    by_eye = circles[circles.photograph != "samples/retina"]
    rows = [
        ["Dice, found disc", _mean(discs.dice), f"{discs.dice.median():.3f}", f"{discs.dice.min():.3f}"],
        [
            "Dice, network alone",
            _mean(discs.dice_network),
            f"{discs.dice_network.median():.3f}",
            f"{discs.dice_network.min():.3f}",
        ],
    ]
    folds = ", ".join(f"{value:.3f}" for value in discs.groupby("fold").dice.mean())
    error = discs.center_error_radii
    others = []
    for collection, group in by_eye.groupby(by_eye.photograph.str.split("/").str[0]):
        near = int((group.center_error_radii <= NEAR).sum())
        others.append(
            [
                str(collection),
                f"{near} of {len(group)}",
                f"{group.center_error_radii.median():.2f}",
                f"{group.center_error_radii.max():.2f}",
                f"{group.radius_ratio.median():.2f}",
            ]
        )
    worst = by_eye.sort_values("center_error_radii", ascending=False).head(3)
    told = "; ".join(f"{row.photograph} {row.center_error_radii:.2f}" for row in worst.itertuples())
    return [
        "## Optic disc",
        f"{len(discs)} photographs of IDRiD at their own size, each by the network of the fold that left it "
        "out; the disc is its smooth closed outline.",
        table(["", "mean", "median", "least"], rows),
        f"Mean Dice by fold: {folds}. Not found: {int(error.isna().sum())}. Centre: median error "
        f"{error.median():.3f} radii, largest {error.max():.3f}; Dice below 0.9 in "
        f"{int((discs.dice < 0.9).sum())}. Least: "
        + "; ".join(f"{r.photograph} {r.dice:.3f}" for r in discs.nsmallest(3, "dice").itertuples())
        + f". Radius over the true one: median {discs.radius_ratio.median():.3f}. "
        f"Each is in [{CSV.format('disc')}]({CSV.format('disc')}).",
        "The worst: photograph, true disc in green and found one in yellow, the network's probability.",
        *(
            f"![{name}](structures/disc-{name.split('/')[1]}.jpg)"
            for name in discs.nsmallest(2, "dice").photograph
        ),
        "The shipped network on photographs of other collections, beside circles placed by eye (so their "
        "radius is no standard; errors in their radii):",
        table(["", "within half a radius", "median error", "largest", "median radius ratio"], others),
        f"The farthest: {told}; the first is shown, green by eye and yellow found. "
        f"See [{CSV.format('landmarks')}]({CSV.format('landmarks')}).",
        f"![{worst.iloc[0].photograph}](structures/disc-{worst.iloc[0].photograph.split('/')[1]}.jpg)",
    ]


def fovea_section(results: Results) -> list[str]:
    eyes = results.foveas
    shown = eyes[eyes.fovea_in_field]
    error = shown.error_disc_diameters.dropna()
    hidden = eyes[~eyes.fovea_in_field]
    far = int((error > 0.5).sum())
    circles = results.circles
    sides = []
    groups = circles.groupby(circles.photograph.str.split("/").str[0], sort=False)
    for name, group in [(str(name), group) for name, group in groups] + [("synthetic", eyes)]:
        right = int((group.side == group.side_found).sum())
        undecided = int(group.side_found.isna().sum())
        sides.append([name, str(len(group)), str(right), str(undecided), str(len(group) - right - undecided)])
    return [
        "## Fovea and side",
        f"{len(eyes)} fresh synthetic eyes of 30 to 60 degrees (seed 4001; training used seed 0), centred on "
        "the disc or the macula, with no to severe lesions, by the shipped networks; distances in diameters "
        "of the true disc. No fovea is outlined in the photographs at hand, so this says how the finder does "
        "on eyes as drawn, from which its network learned what a fovea is, and not how it does on patients.",
        table(
            ["fovea in the field", "found", "median error", "90th percentile", "largest", "over 0.5"],
            [
                [
                    str(len(shown)),
                    str(len(error)),
                    f"{error.median():.3f}",
                    f"{error.quantile(0.9):.3f}",
                    f"{error.max():.3f}",
                    str(far),
                ]
            ],
        ),
        f"Missed: {int((~shown.fovea_found).sum())} of {len(shown)}. Of {len(hidden)} eyes with the fovea "
        f"out of the field, {int(hidden.fovea_found.sum())} were given one. Each eye is in "
        f"[{CSV.format('fovea')}]({CSV.format('fovea')}).",
        "The side, from the photograph alone (CHASE_DB1's file names and the drawing tell it; of LES-AV it "
        "was told by eye, of the sample by its source):",
        table(["", "photographs", "right", "undecided", "wrong"], sides),
    ]


def lesion_section(results: Results) -> list[str]:
    tally, summary = results.tally, summarise_lesions(results.lesions)
    rows, singles = [], []
    for kind, threshold in results.thresholds.items():
        title, folds = _title(kind), sorted(set(tally.folds))
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


def _title(name: str) -> str:
    return name.replace("_", " ")


def _estimate(value: Estimate) -> str:
    return estimate(*value)


def doubt_section(results: Results) -> list[str]:
    rows = [
        [_title(name), f"{s.items}", *(_estimate(x) for x in (s.ece, s.brier, s.slope, s.in_the_large))]
        for name, s in results.calibration.items()
    ]
    risks = [
        [
            _title(name),
            _estimate(found["probability"].base_risk),
            f"{found['probability'].ideal_aurc.value:.2g}",
        ]
        + [_estimate(found[by].aurc) for by in found]
        + [_estimate(found[by].auroc) for by in found]
        for name, found in results.selective.items()
    ]
    slope = results.calibration["artery or vein, pixels"].slope
    return [
        "## What the probabilities and the doubt are worth",
        "Artery or vein: true vessel pixels of one known kind that were found, and found segments of a known "
        "kind, whose probability is (1 + score) / 2. Disc and lesions: every fourth row and column of the "
        "field in the held-out photographs; nearly all of it is background, which is easy, so that errors "
        "are rare by nature and the slope tells more than the ECE. Slopes below 1: too sure.",
        table(["", "items", "ECE", "Brier", "slope", "offset at slope 1"], rows),
        "![Reliability](structures/reliability.svg)",
        "An error is a pixel on the wrong side of the threshold (one half; for lesions those above), a "
        "segment of the wrong kind, a found lesion that touches none. AURC is the area under risk over "
        "coverage: the mean error of what is kept when the most doubtful is left out. AUROC is the chance "
        "that an error is more doubtful than a right item. Two doubts are compared: 1 - |2 p - 1| (for "
        "found lesions 1 - p), and the standard deviation over mirrored views (self-consistency), four of "
        "them, two for lesions.",
        table(
            [
                "",
                "error rate",
                "ideal AURC",
                "AURC, probability",
                "AURC, spread",
                "AUROC, probability",
                "AUROC, spread",
            ],
            risks,
        ),
        "Probabilities that are low in every view have a small spread, whether right or wrong. Of found "
        "lesions the spread alone therefore puts the false ones among the sure; it is "
        "to be used beside the probability, not in its place.",
        "![Risk by probability](structures/risk-coverage-probability.svg)",
        "![Risk by spread](structures/risk-coverage-spread.svg)",
        f"A temperature of {results.temperature:.2f} fits the artery/vein network on its own training half, "
        f"where a network is surer than elsewhere; on the test half the slope is {_estimate(slope)}, a "
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
