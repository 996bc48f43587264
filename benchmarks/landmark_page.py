"""The page of evidence on optic disc, fovea and side, from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from foveal.machine import describe_environment
from foveal.markdown import table
from foveal.pages import NOTICE
from foveal.recipes.base import Finding
from foveal.recipes.evidence import finding_row
from landmark_sizes import size_table
from structure_tables import calibration_table, doubt_table, goal, mean_text
from training.structures import FOLDS

if TYPE_CHECKING:
    from landmarks import Landmarks

NAME, BEFORE = "landmarks", "before"
IDRID = "IDRiD, held-out folds"
DISC_GOAL, NEAR, RADIUS_GOAL = 0.93, 0.5, 0.15


def disc_name(photograph: str) -> str:
    """File name of the picture of a photograph's disc."""
    return f"disc-{photograph.split('/')[1]}.jpg"


def page(found: Landmarks, seconds: float) -> str:
    """The page as Markdown."""
    parts = [
        "# Optic disc, fovea and side of the eye",
        "Measured by `python benchmarks/landmarks.py --data DATA --write` on eyes that the networks have not "
        "seen. Brackets hold 95 % intervals of a bootstrap over patients, unless they are said to hold "
        f"quartiles. Goals were set beforehand; what did not hold stays here as not holding. {NOTICE}",
        "## In short",
        table(["claim", "expected", "measured", "holds"], [finding_row(f) for f in findings(found)]),
        *disc_section(found),
        *radius_section(found),
        *fovea_section(found),
        *side_section(found),
        *doubt_section(found),
        "## How it was run",
        table(["", ""], [[name, value] for name, value in _run(found, seconds).items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _run(found: Landmarks, seconds: float) -> dict[str, str]:
    scored = found.discs.groupby("fold").size()
    return {
        "folds": f"IDRiD: {FOLDS} folds, each photograph a patient, shuffled with seed 0; scored here: "
        + ", ".join(f"fold {fold} ({count} photographs)" for fold, count in scored.items()),
        "seeds": "training 0, synthetic eyes of training 0 and of scoring 4001, bootstraps 0",
        "time": f"{seconds:.0f} s, with the networks' maps kept from an earlier run where they were",
        **describe_environment(),
    }


def findings(found: Landmarks) -> list[Finding]:
    """Goals and what was measured."""
    by_eye = found.by_eye
    near = by_eye.center_error_radii <= NEAR
    listed = [
        goal("Dice of the optic disc, held-out folds of IDRiD", found.discs.dice, DISC_GOAL),
        Finding(
            "disc's centre within half a radius of the one placed by eye, LES-AV and CHASE_DB1",
            f"all {len(by_eye)} photographs",
            f"{int(near.sum())} of {len(by_eye)}",
            bool(near.all()),
        ),
    ]
    for collection, group in by_eye.groupby(_collection(by_eye)):
        median = float(group.radius_ratio.median())
        listed.append(
            Finding(
                f"median radius over the one by eye, {collection}",
                f"{1 - RADIUS_GOAL:g} to {1 + RADIUS_GOAL:g}",
                f"{median:.2f}",
                abs(median - 1) <= RADIUS_GOAL,
            )
        )
    return listed


def _collection(rows: pd.DataFrame) -> pd.Series:
    return rows.photograph.str.split("/").str[0]


def disc_section(found: Landmarks) -> list[str]:
    discs, by_eye = found.discs, found.by_eye
    rows = [
        [title, mean_text(values), f"{values.median():.3f}", f"{values.min():.3f}"]
        for title, values in (
            ("Dice, found disc", discs.dice),
            ("Dice, network alone", discs.dice_network),
            ("Dice, found disc, before", found.before_of(IDRID, discs).dice),
        )
    ]
    folds = ", ".join(f"{value:.3f}" for value in discs.groupby("fold").dice.mean())
    error = discs.center_error_radii
    others = []
    for group, eyes in by_eye.groupby("group"):
        near = int((eyes.center_error_radii <= NEAR).sum())
        median, largest = eyes.center_error_radii.median(), eyes.center_error_radii.max()
        lost = int(eyes.center_error_radii.isna().sum())
        others.append([str(group), f"{near} of {len(eyes)}", f"{lost}", f"{median:.2f}", f"{largest:.2f}"])
    worst = by_eye.nlargest(3, "center_error_radii")
    told = "; ".join(f"{row.photograph} {row.center_error_radii:.2f}" for row in worst.itertuples())
    return [
        "## Optic disc",
        f"{len(discs)} photographs of IDRiD at their own size, each by the network of the fold that left it "
        f"out ({discs.fold.nunique()} of {FOLDS} folds); the disc is its smooth closed outline. "
        '"Before" is the same photographs by networks trained as those that were shipped before, and what '
        "was then made of their maps.",
        table(["", "mean", "median", "least"], rows),
        f"Mean Dice by fold: {folds}. Not found: {int(error.isna().sum())}. Centre: median error "
        f"{error.median():.3f} radii, largest {error.max():.3f}; Dice below 0.9 in "
        f"{int((discs.dice < 0.9).sum())}. Least: "
        + "; ".join(f"{r.photograph} {r.dice:.3f}" for r in discs.nsmallest(3, "dice").itertuples())
        + f". Each is in {_csv('disc')}.",
        "That vessels weigh between rivals, and that a circle far beyond a whole blob is not believed, was "
        "made because of IDRiD_10 and IDRiD_54, whose discs were missed; both count here.",
        "A field whose vessels are narrower than 0.6 % of its diameter on average is taken for a wide one, "
        "whose disc is small, and is looked at 320 pixels across, any other 256. The bound is just below "
        "all eyes of LES-AV's training half, which span 30 degrees; the larger size was chosen on these same "
        "photographs. With every photograph looked at in one size (elsewhere: centres within half a radius; "
        "median radius over the one by eye):",
        size_table(found.sizes),
        "The worst: photograph, true disc in green and found one in yellow, the network's probability.",
        *(_shown(name) for name in discs.nsmallest(2, "dice").photograph),
        "The shipped network on photographs of other collections, beside circles placed by eye (errors in "
        "their radii). None of them was trained on; the training half of LES-AV was looked at when it was "
        "decided what is made of the maps, the test half and CHASE_DB1 were not:",
        table(["", "within half a radius", "not found", "median error", "largest"], others),
        f"The farthest: {told}. Each is in {_csv('circles')}. Those that were not found, the farthest, those "
        "with the most wrong radius, and the public-domain photograph: green by eye, yellow found, blue the "
        "found fovea.",
        *(_shown(name) for name in found.shown),
    ]


def radius_section(found: Landmarks) -> list[str]:
    after = pd.concat([found.discs.assign(group=IDRID), found.by_eye, found.foveas])
    rows = []
    for group, eyes in after.groupby("group", sort=False):
        now, then = eyes.radius_ratio, found.before_of(str(group), eyes).radius_ratio
        off = [f"{int(((x - 1).abs() > RADIUS_GOAL).sum())} of {len(x)}" for x in (then, now)]
        rows.append([str(group), _quartiles(then), _quartiles(now), *off])
    return [
        "## Radius of the disc",
        "Found radius over the true one: of the graders' outline in IDRiD, of the drawing in synthetic eyes, "
        "of a circle placed by eye elsewhere, which is no standard to a few per cent. Median, with quartiles "
        f'in brackets, and photographs more than {100 * RADIUS_GOAL:.0f} % off. "Before" is by the weights '
        "that were shipped before, trained for 500 steps on fields as they are.",
        table(["", "before", "now", "off before", "off now"], rows),
        f"By photograph, before: {_csv(BEFORE)}.",
    ]


def _quartiles(values: pd.Series) -> str:
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def fovea_section(found: Landmarks) -> list[str]:
    eyes = found.foveas
    shown, hidden = eyes[eyes.fovea_in_field], eyes[~eyes.fovea_in_field]
    error = shown.error_disc_diameters.dropna()
    numbers = [
        f"{len(shown)}",
        f"{len(error)}",
        f"{error.median():.3f}",
        f"{error.quantile(0.9):.3f}",
        f"{error.max():.3f}",
        f"{int((error > 0.5).sum())}",
    ]
    return [
        "## Fovea",
        f"{len(eyes)} fresh synthetic eyes of 30 to 60 degrees (seed 4001; training used seed 0), centred on "
        "the disc or the macula, with no to severe lesions, by the shipped networks; distances in diameters "
        "of the true disc. No fovea is outlined in the photographs at hand, so this says how the finder does "
        "on eyes as drawn, from which its network learned what a fovea is, and not how it does on patients.",
        table(
            ["fovea in the field", "found", "median error", "90th percentile", "largest", "over 0.5"],
            [numbers],
        ),
        f"Missed: {int((~shown.fovea_found).sum())} of {len(shown)}. Of {len(hidden)} eyes with the fovea "
        f"out of the field, {int(hidden.fovea_found.sum())} were given one. Each eye is in "
        f"{_csv('synthetic')}.",
    ]


def side_section(found: Landmarks) -> list[str]:
    every = pd.concat([found.circles, found.foveas])
    rows = []
    for group, eyes in every.groupby("group", sort=False):
        then = found.before_of(str(group), eyes)
        wrong = eyes[eyes.side_found.notna() & (eyes.side_found != eyes.side)]
        sure = f"{wrong.side_confidence.max():.2f}" if len(wrong) else ""
        rows.append([str(group), f"{len(eyes)}", *_told(eyes), sure, *_told(then)])
    return [
        "## Side",
        "From the photograph alone. CHASE_DB1's file names and the drawing tell it; of LES-AV it was told by "
        "eye, of the sample by its source.",
        table(
            [
                "",
                "photographs",
                *("right", "undecided", "wrong", "highest confidence of a wrong one"),
                *("right before", "undecided before", "wrong before"),
            ],
            rows,
        ),
    ]


def _told(eyes: pd.DataFrame) -> list[str]:
    """Sides told right, not told, and told wrong."""
    right, undecided = int((eyes.side == eyes.side_found).sum()), int(eyes.side_found.isna().sum())
    return [f"{right}", f"{undecided}", f"{len(eyes) - right - undecided}"]


def doubt_section(found: Landmarks) -> list[str]:
    return [
        "## What the disc's probability and its doubt are worth",
        "Every fourth row and column of the field in IDRiD's held-out photographs; nearly all of it is "
        "background, which is easy, so that errors are rare by nature and the slope tells more than the ECE. "
        "Slopes below 1: too sure.",
        calibration_table(found.worth),
        f"![Reliability]({NAME}/reliability.svg)",
        "An error is a pixel on the wrong side of one half. AURC is the area under risk over coverage, AUROC "
        "the chance that an error is more doubtful than a right pixel. Two doubts are compared: "
        "1 - |2 p - 1|, and the standard deviation over four mirrored views.",
        doubt_table(found.worth),
        f"![Risk by probability]({NAME}/risk-coverage-probability.svg)",
        f"![Risk by spread]({NAME}/risk-coverage-spread.svg)",
    ]


def _csv(table_name: str) -> str:
    return f"[{NAME}_{table_name}.csv]({NAME}_{table_name}.csv)"


def _shown(photograph: str) -> str:
    return f"![{photograph}]({NAME}/{disc_name(photograph)})"
