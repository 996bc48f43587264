"""Score the network of arteries and veins on eyes that it has not seen, and time all structures.

    python benchmarks/structures.py --data DATA [--runs runs/structures] [--times] [--write]

The network that `benchmarks/training/structures.py artery-vein` makes is scored on the other half of LES-AV,
on vessels found by a network that has seen no eye of LES-AV (`benchmarks/training/vessels.py --only
without-LES-AV`). `benchmarks/landmarks.py` scores disc, fovea and side, `benchmarks/lesions.py` lesions.
What the networks say is kept in RUNS/kept, so that a second run takes a minute. `--times` measures
seconds anew, for which the machine should be quiet; without it they are those kept last. `--write` keeps
the page, its tables and its pictures in docs/evidence.
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

from foveal.machine import keep_freed_memory
from foveal.measurement.eye import Eye
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.screening import structures as screened
from foveal.segmentation.inference import segment_vessels
from structure_doubt import Doubt, Worth, add_vessels, temperature_of, worth_of
from structure_maps import DATA, Networks
from structure_page import CSV, NAME, page
from structure_pictures import vessel_picture
from structure_scores import vessel_cases, vessel_row
from structure_tables import EVIDENCE, keep
from training.structures import WEIGHTS

REPEATS = 3
SCREENED_VIEWS = 2  # mirror images of a screening run, of arteries and veins
WORST = 2  # eyes that are shown


@dataclass(frozen=True)
class Results:
    """What was measured, section by section.

    Attributes:
        vessels: a row an eye of LES-AV's test half; `vessels_screened` with a screening run's
            mirror images, `vessels_training` of the training half.
        worth: calibration and doubt of pixels and of segments.
        temperature: of the artery/vein network, from its training half.
        times: a row a photograph and step.
    """

    vessels: pd.DataFrame
    vessels_screened: pd.DataFrame
    vessels_training: pd.DataFrame
    worth: Worth
    temperature: float
    times: pd.DataFrame


def time_rows(data: Path) -> Iterator[dict[str, object]]:
    """Seconds of each step of a screening run beyond reading, the least of three, on all threads."""
    keep_freed_memory()  # as a screening run does
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
    training = list(vessel_cases(data, networks, training=True))
    found = {
        "vessels": vessels,
        "vessels_screened": pd.DataFrame([vessel_row(case) for case in few]),
        "vessels_training": pd.DataFrame([vessel_row(case) for case in training]),
        "temperature": temperature_of(training),
    }
    _say("arteries and veins", vessels.mean(numeric_only=True).round(4).to_dict())
    return found, {"artery or vein, pixels": pixels, "artery or vein, segments": segments}, pictures


def measure(data: Path, networks: Networks, *, times: bool) -> tuple[Results, Pictures]:
    """Everything on the page, and its pictures by name; seconds are taken anew, or those kept last."""
    vessels, doubts, pictures = measure_vessels(data, networks)
    seconds = pd.DataFrame(time_rows(data)) if times else pd.read_csv(EVIDENCE / CSV.format("time"))
    worth = worth_of(doubts)
    return Results(**vessels, worth=worth, times=seconds), pictures | worth.figures


def _say(title: str, numbers: dict[str, float]) -> None:
    print(f"{title}: {json.dumps(numbers)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with LES-AV, IDRiD and samples")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--vessels", type=Path, default=Path("runs/vessels/without-LES-AV/model"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", action="store_true", help="measure seconds anew, on a quiet machine")
    parser.add_argument("--write", action="store_true", help=f"keep {NAME}.md, its tables and pictures")
    options = parser.parse_args()
    if not ((options.data / "LES-AV").is_dir() and options.vessels.is_dir()):
        print(f"needs LES-AV in {options.data} and a vessel network in {options.vessels}; nothing measured")
        return
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    results, pictures = measure(
        options.data, Networks(options.runs, options.vessels, WEIGHTS), times=options.times
    )
    text = page(results, time.perf_counter() - start)
    print(text)
    if options.write:
        tables = {"artery_vein": results.vessels, "time": results.times}
        keep(NAME, text, tables=tables, pictures=pictures)


if __name__ == "__main__":
    main()
