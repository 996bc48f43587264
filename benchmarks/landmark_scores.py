"""Scores of disc, fovea and side, one row a photograph, and the calibration of the disc's probability."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveal.measurement.landmarks import Disc, disc_of_mask
from foveal.measurement.optic_disc import FoundDisc, find_disc_on_copy
from foveal.measurement.small_copy import small_copy
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import iterate_idrid, synthetic_eyes
from foveal.segmentation.inference import StructureMaps
from perturbations import DISCS, LEFT_OF_LES_AV
from structure_doubt import STEP, Doubt
from structure_maps import Networks
from training.structures import LES_AV_TRAINING, idrid_folds

EYES, EYES_SEED = 60, 4001


@dataclass(frozen=True)
class DiscCase:
    """One photograph of IDRiD (H, W, 3), its true disc (H, W) bool, what the network of its fold says, and
    the disc that is found in that."""

    patient: str
    fold: int
    image: np.ndarray
    truth: np.ndarray
    maps: StructureMaps
    found: FoundDisc | None


def disc_cases(data: Path, networks: Networks) -> Iterator[DiscCase]:
    """IDRiD, each photograph by the network of the fold that left it out, where that was trained."""
    folds = idrid_folds(data)
    for case in iterate_idrid(data / "IDRiD" / "segmentation", ("disc",)):
        fold = folds[case.patient]
        if not networks.has_fold("landmarks", fold):
            continue
        field = find_field_of_view(case.image)
        vessels = networks.found_vessels(case.patient, case.image, field)
        maps = networks.fold("landmarks", fold).landmarks(case.patient, case.image, field, vessels)
        copy = small_copy(field)
        seen = copy.keep_inside(maps.mean("disc", field.box, copy.share.shape))
        found = find_disc_on_copy(seen, copy, field, tubes=copy.shrink(vessels))
        yield DiscCase(case.patient, fold, case.image, case.masks[0], maps, found)


def disc_row(case: DiscCase) -> dict[str, object]:
    """Dice and errors of one photograph's disc; a disc that was not found has a Dice of 0."""
    found, true = case.found, disc_of_mask(case.truth)
    mask = found.mask if found else np.zeros_like(case.truth)
    return {
        "photograph": case.patient,
        "fold": case.fold,
        "dice": overlap_scores(binary_counts(mask, case.truth))["dice"],
        "dice_network": overlap_scores(binary_counts(case.maps["disc"] >= 0.5, case.truth))["dice"],
        "center_error_radii": _error(found.disc, true) if found else np.nan,
        "radius_ratio": found.disc.radius / true.radius if found else np.nan,
        "confidence": found.confidence if found else np.nan,
    }


def add_disc(case: DiscCase, pixels: Doubt) -> None:
    """Every fourth row and column of the field."""
    region = case.maps.field.mask[::STEP, ::STEP]
    layers = (case.maps["disc"], case.maps.spread("disc"), case.truth)
    p, s, y = (layer[::STEP, ::STEP][region] for layer in layers)
    pixels.add(p, s, y, group=case.patient)


def _error(found: Disc, true: Disc) -> float:
    """Distance of the centres in true radii."""
    return float(np.hypot(*np.subtract(found.center, true.center)) / true.radius)


def circle_rows(data: Path, networks: Networks) -> Iterator[dict[str, object]]:
    """LES-AV and CHASE_DB1 by the shipped networks, beside circles and sides placed by eye."""
    with DISCS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            true = Disc((float(row["row"]), float(row["column"])), float(row["radius"]))
            image, photograph = read_circled(data, row["photograph"]), row["photograph"]
            collection, name = photograph.split("/")
            if collection == "CHASE_DB1":
                group, side = collection, name[-1]
            else:
                half = "training" if name in LES_AV_TRAINING else "test"
                group, side = f"{collection}, {half} half", "L" if name in LEFT_OF_LES_AV else "R"
            yield {"group": group} | _landmark_row(networks, photograph, image, true, side)


def read_circled(data: Path, photograph: str) -> np.ndarray:
    """(H, W, 3) uint8 photograph of LES-AV, CHASE_DB1 or the samples by its name."""
    collection, name = photograph.split("/")
    folder = data / collection if collection == "samples" else data / collection / "images"
    suffix = "png" if collection == "LES-AV" else "jpg"
    return read_scan(folder / f"{name}.{suffix}").image


def sample_row(data: Path, networks: Networks) -> dict[str, object]:
    """The public-domain photograph of a left eye."""
    name = "samples/retina"
    return {"group": "sample"} | _landmark_row(networks, name, read_circled(data, name), None, "L")


def _landmark_row(
    networks: Networks, name: str, image: np.ndarray, true: Disc | None, side: str
) -> dict[str, object]:
    field = find_field_of_view(image)
    vessels = networks.found_vessels(name, image, field)
    found = networks.landmarks(name, image, vessels)
    disc, fovea = found.landmarks.disc, found.landmarks.fovea
    return {
        "photograph": name,
        "row": disc.center[0] if disc else np.nan,
        "column": disc.center[1] if disc else np.nan,
        "radius": disc.radius if disc else np.nan,
        "row_by_eye": true.center[0] if true else np.nan,
        "column_by_eye": true.center[1] if true else np.nan,
        "radius_by_eye": true.radius if true else np.nan,
        "center_error_radii": _error(disc, true) if disc and true else np.nan,
        "radius_ratio": disc.radius / true.radius if disc and true else np.nan,
        "disc_confidence": found.disc_confidence,
        "fovea_row": fovea[0] if fovea else np.nan,
        "fovea_column": fovea[1] if fovea else np.nan,
        "fovea_confidence": found.fovea_confidence,
        "side": side,
        "side_found": found.laterality,
        "side_confidence": found.laterality_confidence,
    }


def fovea_rows(networks: Networks, *, eyes: int = EYES) -> Iterator[dict[str, object]]:
    """Synthetic eyes that no network was trained on; distances in diameters of the true disc."""
    for number, eye in enumerate(synthetic_eyes(eyes, seed=EYES_SEED)):
        name = f"synthetic-{EYES_SEED}/{number:03d}"
        field = find_field_of_view(eye.image)
        vessels = networks.found_vessels(name, eye.image, field)
        found = networks.landmarks(name, eye.image, vessels)
        fovea, disc = found.landmarks.fovea, found.landmarks.disc
        true = Disc(eye.disc.center, eye.disc.radius)
        yield {
            "group": "synthetic",
            "photograph": name,
            "field_angle": eye.field_angle,
            "severity": eye.severity,
            "fovea_in_field": _within(eye.field.mask, eye.fovea),
            "disc_in_field": _within(eye.field.mask, eye.disc.center),
            "fovea_found": fovea is not None,
            "error_disc_diameters": (
                float(np.hypot(*np.subtract(fovea, eye.fovea)) / (2 * true.radius)) if fovea else np.nan
            ),
            "confidence": found.fovea_confidence,
            "center_error_radii": _error(disc, true) if disc else np.nan,
            "radius_ratio": disc.radius / true.radius if disc else np.nan,
            "side": eye.laterality,
            "side_found": found.laterality,
            "side_confidence": found.laterality_confidence,
        }


def _within(mask: np.ndarray, point: tuple[float, float]) -> bool:
    row, column = (round(value) for value in point)
    return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])
