"""Score the networks of lesions on photographs that they have not seen.

    python benchmarks/lesions.py --data DATA [--runs runs/structures] [--write]

IDRiD, each photograph by the networks of the fold that left it out, of lesions and of landmarks: those that
`benchmarks/training/structures.py landmarks lesions` makes; the shipped network on eyes without lesions.
What the networks say is kept in RUNS/kept.
`--write` keeps the page, its table and its pictures in docs/evidence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from foveal.measurement.lesions import find_lesions_reaching
from foveal.measurement.optic_disc import find_disc
from foveal.metrics.selective import RiskCoverage, risk_coverage, risk_table
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import LES_AV_TRAINING, iterate_idrid, sorted_files
from foveal.screening.structures import LESION_TILE, LESION_VIEWS
from lesion_page import NAME, PHOTOGRAPHS, page, picture_name
from lesion_pictures import lesion_picture
from lesion_scores import (
    KINDS,
    LesionCase,
    PixelTally,
    add_lesions,
    best_threshold,
    found_lesion_rows,
    found_of,
    lesion_rows,
)
from structure_doubt import RESAMPLES, Doubt, Worth, worth_of
from structure_maps import DATA, Networks
from structure_tables import keep
from training.structures import FOLDS, WEIGHTS, idrid_folds

BETA = 0.5  # of the F score that the thresholds are the best by: a false lesion costs a reader more


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        tally: pixels of lesions by probability.
        thresholds: by kind, the best by F0.5 over the held-out folds.
        lesions: a row a photograph and kind, at these thresholds.
        healthy: lesions found in photographs that have none, by photograph and kind, as shipped.
        worth: calibration and doubt of pixels and of found lesions.
        pictures: of the photographs with the most false and with the most missed lesions, by name.
    """

    tally: PixelTally
    thresholds: dict[str, float]
    lesions: pd.DataFrame
    healthy: pd.DataFrame
    worth: Worth
    pictures: dict[str, bytes]


def lesion_cases(data: Path, networks: Networks) -> Iterator[LesionCase]:
    """IDRiD, photograph by photograph, each seen by the networks of the fold that left it out."""
    folds = idrid_folds(data)
    for case in iterate_idrid(data / "IDRiD" / "segmentation", KINDS):
        field, fold = find_field_of_view(case.image), folds[case.patient]
        network = networks.fold("lesions", fold, views=LESION_VIEWS, tile=LESION_TILE)
        seen = network.structures(case.patient, case.image, field)
        vessels = networks.found_vessels(case.patient, case.image, field)
        landmarks = networks.fold("landmarks", fold).landmarks(case.patient, case.image, field, vessels)
        disc = find_disc(landmarks["disc"], field, vessels=vessels)
        yield LesionCase(case.patient, fold, case.masks, seen, field, disc.mask if disc else None)


def false_lesions(data: Path, networks: Networks) -> Iterator[dict[str, object]]:
    """Lesions that the shipped network finds, at its thresholds, where none are taken to be: in the half of
    LES-AV that no network was trained on and in the public-domain photograph."""
    network = networks.shipped("lesions", views=LESION_VIEWS, tile=LESION_TILE)
    thresholds = {kind: network.model.config.threshold(kind) for kind in KINDS}
    paths = sorted_files(data / "LES-AV" / "images", "*.png")
    paths = [path for path in paths if path.stem not in LES_AV_TRAINING]
    for path in [*paths, data / "samples" / "retina.jpg"]:
        name, image = f"{path.parents[1].name}/{path.stem}", read_scan(path).image
        field = find_field_of_view(image)
        maps = network.structures(name, image, field)
        disc = networks.landmarks(name, image, networks.found_vessels(name, image, field)).disc_mask
        found = find_lesions_reaching(maps.reaching, KINDS, field, thresholds=thresholds, exclude=disc)
        yield {"photograph": name} | {kind: int(found.are(kind).sum()) for kind in KINDS}


def measure(data: Path, networks: Networks) -> Found:
    """Everything on the page."""
    tally = PixelTally()
    for case in lesion_cases(data, networks):
        tally.add(case)
    thresholds = {kind: round(best_threshold(tally.of(kind), beta=BETA)[0], 3) for kind in KINDS}
    doubts, rows, singles, pictures = {kind: Doubt() for kind in KINDS}, [], [], {}
    for case in lesion_cases(data, networks):
        found = found_of(case, thresholds)
        rows += lesion_rows(case, found)
        worst = worst_photographs(pd.DataFrame(rows))
        if case.patient in worst:
            photograph = data / "IDRiD" / "segmentation" / "images" / f"{Path(case.patient).name}.jpg"
            pictures[case.patient] = lesion_picture(case, read_scan(photograph).image, found)
        pictures = {name: pictures[name] for name in worst}
        singles.append(found_lesion_rows(case, found))
        add_lesions(case, thresholds, doubts)
    every = pd.concat(singles, ignore_index=True)
    healthy = pd.DataFrame(false_lesions(data, networks))
    worth = worth_of(doubts, found_selective(every))
    return Found(tally, thresholds, pd.DataFrame(rows), healthy, worth, pictures)


def worst_photographs(rows: pd.DataFrame) -> list[str]:
    """The photographs with the most false lesions and with the most missed ones, of all kinds."""
    each = rows.groupby("photograph", sort=False)[["lesions", "touched", "false"]].sum()
    return list(dict.fromkeys([each.false.idxmax(), (each.lesions - each.touched).idxmax()]))


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with IDRiD, LES-AV and samples")
    parser.add_argument("--runs", type=Path, default=Path("runs/structures"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"keep {NAME}.md, its table and pictures")
    options = parser.parse_args()
    networks = Networks(options.runs, Path(), WEIGHTS)
    missing = [
        f"{network}/fold-{fold}"
        for network in ("lesions", "landmarks")
        for fold in range(FOLDS)
        if not networks.has_fold(network, fold)
    ]
    if missing or not (options.data / "IDRiD").is_dir():
        print(
            f"needs IDRiD in {options.data} and trained networks in {options.runs} "
            f"(missing: {', '.join(missing) or 'none'}); nothing measured"
        )
        return
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    found = measure(options.data, networks)
    text = page(found, time.perf_counter() - start)
    print(text)
    if options.write:
        pictures = {picture_name(photograph): data for photograph, data in found.pictures.items()}
        keep(NAME, text, tables={PHOTOGRAPHS: found.lesions}, pictures=found.worth.figures | pictures)


if __name__ == "__main__":
    main()
