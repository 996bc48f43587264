"""Score the networks of arteries and veins and of lesions on eyes that they have not seen.

    python benchmarks/structures.py --data DATA [--runs runs/structures] [--write]

The networks are those that `benchmarks/training/structures.py` makes: the artery/vein network is scored on
the other half of LES-AV, on vessels found by a network that has seen no eye of LES-AV; lesions on IDRiD by
the network of the fold that left a photograph out. `benchmarks/landmarks.py` scores disc, fovea and side.
What the networks say is kept in RUNS/kept, so that a second run takes a few minutes. `--write` keeps the
page, its tables and its pictures in docs/evidence.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from foveal.measurement.eye import Eye
from foveal.measurement.optic_disc import find_disc
from foveal.metrics.selective import RiskCoverage, risk_coverage, risk_table
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import iterate_idrid
from foveal.screening import structures as screened
from foveal.segmentation.inference import segment_vessels
from structure_doubt import (
    RESAMPLES,
    Doubt,
    Worth,
    add_lesions,
    add_vessels,
    found_lesion_rows,
    temperature_of,
    worth_of,
)
from structure_lesion_scores import KINDS, LesionCase, PixelTally, best_threshold, found_of, lesion_rows
from structure_maps import DATA, Networks
from structure_page import page
from structure_pictures import vessel_picture
from structure_scores import vessel_cases, vessel_row
from structure_tables import keep
from training.structures import WEIGHTS, idrid_folds

REPEATS = 3
SCREENED_VIEWS = 2  # mirror images of a screening run, of arteries and veins
WORST = 2  # eyes that are shown
NAME = "structures"  # of the page


@dataclass(frozen=True)
class Results:
    """What was measured, section by section.

    Attributes:
        vessels: a row an eye of LES-AV's test half; `vessels_screened` with a screening run's
            mirror images.
        tally: pixels of lesions by probability.
        thresholds: by kind, the best for Dice over the held-out folds.
        lesions: a row a photograph and kind, at these thresholds.
        found_lesions: a row a found lesion.
        worth: calibration and doubt of all of these.
        temperature: of the artery/vein network, from its training half.
        times: a row a photograph and step.
    """

    vessels: pd.DataFrame
    vessels_screened: pd.DataFrame
    tally: PixelTally
    thresholds: dict[str, float]
    lesions: pd.DataFrame
    found_lesions: pd.DataFrame
    worth: Worth
    temperature: float
    times: pd.DataFrame


def lesion_cases(data: Path, networks: Networks) -> Iterator[LesionCase]:
    """IDRiD, photograph by photograph, each seen by the networks of the fold that left it out."""
    folds = idrid_folds(data)
    for case in iterate_idrid(data / "IDRiD" / "segmentation", KINDS):
        field, fold = find_field_of_view(case.image), folds[case.patient]
        network = networks.fold("lesions", fold, views=screened.LESION_VIEWS, tile=screened.LESION_TILE)
        seen = network.structures(case.patient, case.image, field)
        landmarks = networks.fold("landmarks", fold).structures(case.patient, case.image, field)
        vessels = networks.found_vessels(case.patient, case.image, field)
        disc = find_disc(landmarks["disc"], field, vessels=vessels)
        yield LesionCase(case.patient, fold, case.masks, seen, field, disc.mask if disc else None)


def time_rows(data: Path) -> Iterator[dict[str, object]]:
    """Seconds of each step of a screening run beyond reading, the least of three, on all threads."""
    names = ("vessels", "artery-vein", "landmarks", "lesions")
    networks = screened.Networks.load({name: WEIGHTS / name for name in names}, "cpu")
    paths = ["samples/retina.jpg", "LES-AV/images/224.png", "IDRiD/segmentation/images/IDRiD_01.jpg"]
    for path in paths:
        image = read_scan(data / path).image
        field = find_field_of_view(image)
        seconds: dict[str, list[float]] = {}

        def timed(name: str, begun: float, into: dict[str, list[float]] = seconds) -> None:
            into.setdefault(name, []).append(time.perf_counter() - begun)

        for _ in range(REPEATS):
            begun = time.perf_counter()
            vessel = segment_vessels(networks.vessels, image, field).mask()
            timed("vessels", begun)
            begun = time.perf_counter()
            landmarks = screened.look_for_landmarks(networks, image, field, vessel, stated=None)
            timed("landmarks", begun)
            eye = Eye(field, vessel, landmarks=landmarks.found.landmarks, image=image)
            begun = time.perf_counter()
            screened.tell_arteries_from_veins(networks, eye, views=SCREENED_VIEWS)
            timed("arteries and veins", begun)
            begun = time.perf_counter()
            screened.look_for_lesions(networks, image, field, disc=landmarks.found.disc_mask)
            timed("lesions", begun)
        height, width = image.shape[:2]
        for step, values in seconds.items():
            yield {"photograph": f"{width} x {height}", "step": step, "seconds": min(values)} | {
                "load": os.getloadavg()[0]
            }


Pictures = dict[str, bytes]


def measure_vessels(data: Path, networks: Networks) -> tuple[dict[str, Any], dict[str, Doubt], Pictures]:
    """What `Results` holds of arteries and veins, their calibration, and the worst eyes."""
    pixels, segments, rows, cases = Doubt(), Doubt(), [], {}
    for case in vessel_cases(data, networks, training=False):
        rows.append(vessel_row(case))
        add_vessels(case, pixels, segments)
        cases[case.name] = case
    vessels = pd.DataFrame(rows)
    worst = vessels.nsmallest(WORST, "pixels_graph").photograph
    pictures = {f"artery-vein-{name}.jpg": vessel_picture(cases[name]) for name in worst}
    few = vessel_cases(data, networks, training=False, views=SCREENED_VIEWS)
    found = {
        "vessels": vessels,
        "vessels_screened": pd.DataFrame([vessel_row(case) for case in few]),
        "temperature": temperature_of(vessel_cases(data, networks, training=True)),
    }
    _say("arteries and veins", vessels.mean(numeric_only=True).round(4).to_dict())
    return found, {"artery or vein, pixels": pixels, "artery or vein, segments": segments}, pictures


def measure_lesions(data: Path, networks: Networks) -> tuple[dict[str, Any], dict[str, Doubt]]:
    """What `Results` holds of lesions, and the calibration of each kind."""
    tally = PixelTally()
    for case in lesion_cases(data, networks):
        tally.add(case)
    thresholds = {kind: round(best_threshold(tally.of(kind))[0], 3) for kind in KINDS}
    _say("thresholds", thresholds)
    doubts, rows, singles = {kind: Doubt() for kind in KINDS}, [], []
    for case in lesion_cases(data, networks):
        found = found_of(case, thresholds)
        rows += lesion_rows(case, found)
        singles.append(found_lesion_rows(case, found))
        add_lesions(case, thresholds, doubts)
    every = pd.concat(singles, ignore_index=True)
    return {
        "tally": tally,
        "thresholds": thresholds,
        "lesions": pd.DataFrame(rows),
        "found_lesions": every,
    }, doubts


def measure(data: Path, networks: Networks) -> tuple[Results, Pictures]:
    """Everything on the page, and its pictures by name."""
    vessels, vessel_doubts, pictures = measure_vessels(data, networks)
    lesions, lesion_doubts = measure_lesions(data, networks)
    times = pd.DataFrame(time_rows(data))
    worth = worth_of(vessel_doubts | lesion_doubts, found_selective(lesions["found_lesions"]))
    return Results(**vessels, **lesions, worth=worth, times=times), pictures | worth.figures


def found_selective(found: pd.DataFrame) -> dict[str, dict[str, RiskCoverage]]:
    """Found lesions of all kinds, whose error is to touch no true one of their kind, by their two doubts."""
    groups, false = found.photograph.tolist(), ~found.real.to_numpy(bool)
    doubts = {"probability": 1 - found.probability, "spread": found.spread}
    return {
        "found lesions": {
            name: risk_coverage(risk_table(doubt.to_numpy(), false, groups), resamples=RESAMPLES)
            for name, doubt in doubts.items()
        }
    }


def _say(title: str, numbers: dict[str, float]) -> None:
    print(f"{title}: {json.dumps(numbers)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with LES-AV and IDRiD")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--vessels", type=Path, default=Path("runs/vessels/without-LES-AV/model"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"keep {NAME}.md, its tables and pictures")
    options = parser.parse_args()
    if not ((options.data / "IDRiD").is_dir() and (options.runs / "lesions").is_dir()):
        print(
            f"needs the data in {options.data} and the trained networks in {options.runs}; nothing measured"
        )
        return
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    results, pictures = measure(options.data, Networks(options.runs, options.vessels, WEIGHTS))
    text = page(results, time.perf_counter() - start)
    print(text)
    if options.write:
        tables = {"artery_vein": results.vessels, "lesions": results.lesions, "time": results.times}
        keep(NAME, text, tables=tables, pictures=pictures)


if __name__ == "__main__":
    main()
