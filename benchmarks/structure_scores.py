"""Scores of arteries and veins on LES-AV, one row a photograph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.measurement.artery_vein import ArteryVein, separate_arteries_and_veins
from foveal.measurement.eye import Eye
from foveal.measurement.graph import VesselGraph, vessel_graph
from foveal.measurement.landmarks import NOTHING_KNOWN
from foveal.measurement.simplification import sum_by_path
from foveal.metrics.segmentation import binary_counts, overlap_scores
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.reading import read_scan
from foveal.scans.structure_datasets import sorted_files
from structure_maps import FOUND, Networks
from training.structures import LES_AV_TRAINING

ARTERY, VEIN = 1, 2  # of the published index; 3 is a crossing, or uncertain
LEAST_KNOWN, LEAST_PURE = 10, 0.8  # of a segment that has a true kind: pixels of known kind, share of one


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
        landmarks = networks.landmarks(name, image, vessels >= FOUND).landmarks
        graphs, separated = {}, {}
        for mask, way in ((vessels >= FOUND, "graph"), ((index > 0) & field.mask, "true_mask")):
            for known, suffix in ((NOTHING_KNOWN, ""), (landmarks, "_cut")):
                layer = Eye(field, mask, landmarks=known).layers["vessel"]
                graphs[way + suffix] = layer.graph
                separated[way + suffix] = separate_arteries_and_veins(
                    layer.mask, layer.tree, artery, 1 - artery
                )
        yield VesselCase(path.stem, image, index, vessels, artery, maps.spread(), graphs, separated)


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
