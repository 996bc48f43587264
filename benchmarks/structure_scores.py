"""Scores of arteries and veins on LES-AV, and of disc, fovea and side, one row a photograph."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.measurement.artery_vein import ArteryVein, separate_arteries_and_veins
from foveal.measurement.eye import Eye
from foveal.measurement.graph import VesselGraph, vessel_graph
from foveal.measurement.landmark_finding import FoundLandmarks, find_landmarks
from foveal.measurement.landmarks import NOTHING_KNOWN, Disc, disc_of_mask
from foveal.measurement.optic_disc import find_disc
from foveal.measurement.simplification import sum_by_path
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import iterate_idrid, sorted_files, synthetic_eyes
from foveal.segmentation.inference import StructureMaps
from perturbations import DISCS, LEFT_OF_LES_AV
from structure_maps import Networks
from training.structures import LES_AV_TRAINING, idrid_folds

ARTERY, VEIN = 1, 2  # of the published index; 3 is a crossing, or uncertain
FOUND = 0.5  # probability from which a pixel is a vessel
LEAST_KNOWN, LEAST_PURE = 10, 0.8  # of a segment that has a true kind: pixels of known kind, share of one
EYES, EYES_SEED = 60, 4001


@dataclass(frozen=True)
class VesselCase:
    """One eye of LES-AV.

    Attributes:
        name: of the photograph.
        image: (H, W, 3) uint8.
        index: (H, W) uint8, the published kinds.
        vessels: (H, W) float32 probability of a vessel, by a network that has seen no eye of LES-AV.
        artery: (H, W) float32 probability that a vessel is an artery.
        spread: (H, W) float32, its standard deviation over mirrored views.
        graphs: the vessels found ("graph") and the true ones ("true_mask"); with "_cut" those outside the
            found disc only.
        separated: the same, made consistent along each graph.
    """

    name: str
    image: np.ndarray
    index: np.ndarray
    vessels: np.ndarray
    artery: np.ndarray
    spread: np.ndarray
    graphs: Mapping[str, VesselGraph]
    separated: Mapping[str, ArteryVein]

    @property
    def known(self) -> np.ndarray:
        """(H, W) bool, true vessel pixels of one known kind."""
        return (self.index == ARTERY) | (self.index == VEIN)

    @property
    def answers(self) -> dict[str, np.ndarray]:
        """(H, W) bool artery or not, by the network alone and along each graph."""
        alone = self.artery > 0.5
        return {"network": alone} | {
            name: consistent(separated, alone) for name, separated in self.separated.items()
        }


def consistent(separated: ArteryVein, alone: np.ndarray) -> np.ndarray:
    """(H, W) bool artery or not: the kind of the segment, and the network's off the vessels and where two
    cross."""
    one = separated.arteries ^ separated.veins
    return np.where(one, separated.arteries, alone)


def vessel_cases(data: Path, networks: Networks, *, training: bool, views: int = 4) -> Iterator[VesselCase]:
    """The eyes of LES-AV's training or test half, by name."""
    for path in sorted_files(data / "LES-AV" / "images", "*.png"):
        if (path.stem in LES_AV_TRAINING) != training:
            continue
        image = read_scan(path).image
        with Image.open(data / "LES-AV" / "av" / path.name) as picture:
            index = np.asarray(picture).astype(np.uint8)
        field = find_field_of_view(image)
        name = f"LES-AV/{path.stem}"
        vessels = networks.unseen_vessels().vessels(name, image, field)
        maps = networks.shipped("artery-vein", views=views).structures(name, image, field)
        artery = maps["artery_or_vein"]
        landmarks = landmarks_of(networks, name, image, vessels >= FOUND).landmarks
        graphs, separated = {}, {}
        for mask, way in ((vessels >= FOUND, "graph"), ((index > 0) & field.mask, "true_mask")):
            for known, suffix in ((NOTHING_KNOWN, ""), (landmarks, "_cut")):
                layer = Eye(field, mask, landmarks=known).layers["vessel"]
                graphs[way + suffix] = layer.graph
                separated[way + suffix] = separate_arteries_and_veins(
                    layer.mask, layer.tree, artery, 1 - artery
                )
        yield VesselCase(path.stem, image, index, vessels, artery, maps.spread(), graphs, separated)


def landmarks_of(networks: Networks, name: str, image: np.ndarray, vessels: np.ndarray) -> FoundLandmarks:
    """Landmarks by the shipped network, as a screening run finds them."""
    field = find_field_of_view(image)
    maps = networks.shipped("landmarks").structures(name, image, field)
    return find_landmarks(maps["disc"], maps["fovea"], image, vessels, field)


def true_kinds(graph: VesselGraph, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (E,) whose true kind is known, whether that is artery, and pixels along each."""
    row, column = on_grid(graph)
    at = index[row, column]
    arteries, veins = (sum_by_path((at == kind).astype(float), graph.offsets) for kind in (ARTERY, VEIN))
    total = arteries + veins
    known = (total >= LEAST_KNOWN) & (np.maximum(arteries, veins) >= LEAST_PURE * total)
    return known, arteries > veins, np.diff(graph.offsets)


def on_grid(graph: VesselGraph) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (P,) of the pixels under the centre lines."""
    place = np.clip(np.rint(graph.points).astype(np.int64), 0, np.array(graph.shape) - 1)
    return place[:, 0], place[:, 1]


def vessel_row(case: VesselCase) -> dict[str, object]:
    """Balanced accuracies of one eye."""
    truth, known, found = case.index == ARTERY, case.known, case.vessels >= FOUND
    graph = vessel_graph(case.index > 0)
    judged, artery, length = true_kinds(graph, case.index)
    row: dict[str, object] = {"photograph": case.name, "segments": int(judged.sum())}
    row |= {"found_share": float(found[known].mean())}
    for way, answer in case.answers.items():
        row[f"pixels_{way}"] = _balanced(answer, truth, known)
        row[f"found_pixels_{way}"] = _balanced(answer, truth, known & found)
        share = sum_by_path(answer[on_grid(graph)].astype(float), graph.offsets) / length
        said = share > 0.5
        row[f"segments_{way}"] = _weighted_balanced(said[judged], artery[judged])
        row[f"segment_length_{way}"] = _weighted_balanced(said[judged], artery[judged], length[judged])
    return row


def _balanced(answer: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    return overlap_scores(binary_counts(answer, truth, region))["balanced_accuracy"]


def _weighted_balanced(answer: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> float:
    weights = np.ones(len(truth)) if weights is None else weights
    return float(
        np.mean(
            [
                np.average(answer[truth == kind] == kind, weights=weights[truth == kind])
                for kind in (True, False)
            ]
        )
    )


@dataclass(frozen=True)
class DiscCase:
    """One photograph of IDRiD (H, W, 3), its true disc (H, W) bool, and what the network of its fold says."""

    patient: str
    fold: int
    image: np.ndarray
    truth: np.ndarray
    maps: StructureMaps


def disc_cases(data: Path, networks: Networks) -> Iterator[DiscCase]:
    """IDRiD, each photograph by the network of the fold that left it out."""
    folds = idrid_folds(data)
    for case in iterate_idrid(data / "IDRiD" / "segmentation", ("disc",)):
        fold = folds[case.patient]
        network = networks.fold("landmarks", fold)
        maps = network.structures(case.patient, case.image, find_field_of_view(case.image))
        yield DiscCase(case.patient, fold, case.image, case.masks[0], maps)


def disc_row(case: DiscCase) -> dict[str, object]:
    """Dice and errors of one photograph's disc; a disc that was not found has a Dice of 0."""
    probability = case.maps["disc"]
    found, true = find_disc(probability, case.maps.field), disc_of_mask(case.truth)
    mask = found.mask if found else np.zeros_like(case.truth)
    return {
        "photograph": case.patient,
        "fold": case.fold,
        "dice": overlap_scores(binary_counts(mask, case.truth))["dice"],
        "dice_network": overlap_scores(binary_counts(probability >= 0.5, case.truth))["dice"],
        "center_error_radii": _error(found.disc, true) if found else np.nan,
        "radius_ratio": found.disc.radius / true.radius if found else np.nan,
        "confidence": found.confidence if found else np.nan,
    }


def _error(found: Disc, true: Disc) -> float:
    """Distance of the centres in true radii."""
    return float(np.hypot(*np.subtract(found.center, true.center)) / true.radius)


def circle_rows(data: Path, networks: Networks) -> Iterator[dict[str, object]]:
    """LES-AV and CHASE_DB1 by the shipped networks, beside circles and sides placed by eye."""
    with DISCS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            true = Disc((float(row["row"]), float(row["column"])), float(row["radius"]))
            image, name = read_circled(data, row["photograph"]), row["photograph"].split("/")[1]
            side = (
                name[-1] if row["photograph"].startswith("CHASE") else "L" if name in LEFT_OF_LES_AV else "R"
            )
            yield _landmark_row(networks, row["photograph"], image, true, side)


def read_circled(data: Path, photograph: str) -> np.ndarray:
    """(H, W, 3) uint8 photograph of LES-AV or CHASE_DB1 by its name."""
    collection, name = photograph.split("/")
    suffix = "jpg" if collection == "CHASE_DB1" else "png"
    return read_scan(data / collection / "images" / f"{name}.{suffix}").image


def sample_row(data: Path, networks: Networks) -> dict[str, object]:
    """The public-domain photograph of a left eye."""
    image = read_scan(data / "samples" / "retina.jpg").image
    return _landmark_row(networks, "samples/retina", image, None, "L")


def _landmark_row(
    networks: Networks, name: str, image: np.ndarray, true: Disc | None, side: str
) -> dict[str, object]:
    field = find_field_of_view(image)
    vessels = networks.shipped("vessels", views=2).vessels(name, image, field) >= FOUND
    found = landmarks_of(networks, name, image, vessels)
    disc = found.landmarks.disc
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
        "fovea_found": found.landmarks.fovea is not None,
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
        vessels = networks.shipped("vessels", views=2).vessels(name, eye.image, field) >= FOUND
        found = landmarks_of(networks, name, eye.image, vessels)
        fovea, disc = found.landmarks.fovea, found.landmarks.disc
        yield {
            "eye": number,
            "field_angle": eye.field_angle,
            "severity": eye.severity,
            "fovea_in_field": _within(eye.field.mask, eye.fovea),
            "disc_in_field": _within(eye.field.mask, eye.disc.center),
            "fovea_found": fovea is not None,
            "error_disc_diameters": (
                float(np.hypot(*np.subtract(fovea, eye.fovea)) / (2 * eye.disc.radius)) if fovea else np.nan
            ),
            "confidence": found.fovea_confidence,
            "disc_error_radii": _error(disc, Disc(eye.disc.center, eye.disc.radius)) if disc else np.nan,
            "side": eye.laterality,
            "side_found": found.laterality,
            "side_confidence": found.laterality_confidence,
        }


def _within(mask: np.ndarray, point: tuple[float, float]) -> bool:
    row, column = (round(value) for value in point)
    return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])
