"""The structures of one photograph: what the networks show, made into vessels, landmarks and lesions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from foveal.measurement.artery_vein import ArteryVein
    from foveal.measurement.eye import Eye
    from foveal.measurement.landmark_finding import FoundLandmarks
    from foveal.measurement.landmarks import Laterality
    from foveal.measurement.lesions import Lesions
    from foveal.models import Segmenter
    from foveal.scans.field_of_view import FieldOfView
    from foveal.segmentation.inference import StructureMaps

LESION_VIEWS = 2
"""Mirror images over which lesions are averaged: their network sees most pixels, and costs most."""

LESION_TILE = 1536
"""Side in pixels of what the network of lesions sees at once: all of its working frame, since tiles that
overlap would more than double the work."""

WIDE_FIELD = 0.006
"""Mean width of the vessels over the field's diameter below which the field is taken to be a wide one. It is
below that of all eyes of LES-AV's training half, which span 30 degrees."""

STRUCTURE_LEVELS = {
    "disc": 1,
    "microaneurysms": 2,
    "haemorrhages": 3,
    "hard_exudates": 4,
    "soft_exudates": 5,
}
"""Value of a pixel in `structures/NAME.png`; 0 is none of them."""


@dataclass(frozen=True)
class Networks:
    """The networks of a screening run, loaded.

    Attributes:
        vessels: all vessels.
        artery_vein: the probability that a vessel pixel is of an artery.
        landmarks: "disc" and "fovea".
        lesions: kinds of `LESION_KINDS`.
    """

    vessels: "Segmenter"
    artery_vein: "Segmenter"
    landmarks: "Segmenter"
    lesions: "Segmenter"

    @classmethod
    def load(cls, folders: Mapping[str, Path], device: str) -> Self:
        """Load the networks of `ScreenSettings.model_folders`.

        Raises:
            OSError, ValueError: a folder holds no model, or one of other structures.
        """
        from foveal.models import Segmenter
        from foveal.scans.structure_datasets import ARTERY_OR_VEIN, LANDMARKS
        from foveal.scans.synthetic import LESION_KINDS

        wanted = {
            "vessels": ("vessel",),
            "artery-vein": ARTERY_OR_VEIN,
            "landmarks": LANDMARKS,
            "lesions": tuple(LESION_KINDS),
        }
        loaded = {}
        for name, folder in folders.items():
            model = Segmenter.from_pretrained(folder)
            if model.config.classes != wanted[name]:
                raise ValueError(
                    f"{folder} is no model of {name}: it segments {', '.join(model.config.classes)}; "
                    f"wanted: {', '.join(wanted[name])}"
                )
            loaded[name.replace("-", "_")] = model.merge_batch_norms().to(device)
        return cls(**loaded)


@dataclass(frozen=True)
class KindsOfVessels:
    """Arteries and veins of one photograph.

    Attributes:
        eye: the eye with its arteries and veins.
        separated: one kind a segment, with its confidence.
        artery: (H, W) float32, the network's probability that a vessel there is an artery.
        spread: (H, W) float32, its standard deviation over mirrored views.
        confidence: mean of the segments' confidence, each counted by its length; NaN without a vessel.
    """

    eye: "Eye"
    separated: "ArteryVein"
    artery: np.ndarray
    spread: np.ndarray
    confidence: float


@dataclass(frozen=True)
class LandmarksAndDoubt:
    """Landmarks of one photograph, and (h, w) float32 greatest spread of their maps over mirrored views, at
    `pictures.SOFT_SIDE`."""

    found: "FoundLandmarks"
    spread: np.ndarray


@dataclass(frozen=True)
class LesionsAndDoubt:
    """Lesions of one photograph, and (h, w) float32 greatest spread of their maps over mirrored views, at
    `pictures.SOFT_SIDE`."""

    found: "Lesions"
    spread: np.ndarray


def look_for_landmarks(
    networks: Networks,
    image: np.ndarray,
    field: "FieldOfView",
    vessels: np.ndarray,
    *,
    stated: "Laterality | None",
) -> LandmarksAndDoubt:
    """Disc, fovea and laterality of a photograph.

    Args:
        networks: loaded.
        image: (H, W, 3) uint8.
        field: its field of view.
        vessels: (H, W) bool.
        stated: the laterality that the metadata states.
    """
    from foveal.segmentation.inference import segment_structures

    diameter = landmark_diameter(networks.landmarks, vessels, field)
    maps = segment_structures(networks.landmarks, image, field, diameter=diameter)
    return LandmarksAndDoubt(landmarks_in(maps, image, vessels, stated=stated), _drawn_spread(maps))


def landmark_diameter(model: "Segmenter", vessels: np.ndarray, field: "FieldOfView") -> int:
    """Pixels across the field at which landmarks are looked for; vessels are (H, W) bool."""
    from foveal.measurement.vessel_width import mean_vessel_width

    wide = mean_vessel_width(vessels, field) < WIDE_FIELD * field.diameter  # not a number: no vessels
    return round(model.preprocess.working_diameter * (model.preprocess.wide_field if wide else 1))


def landmarks_in(
    maps: "StructureMaps", image: np.ndarray, vessels: np.ndarray, *, stated: "Laterality | None" = None
) -> "FoundLandmarks":
    """Disc, fovea and laterality in what the network of landmarks says of a photograph.

    Args:
        maps: of "disc" and "fovea".
        image: (H, W, 3) uint8.
        vessels: (H, W) bool.
        stated: the laterality that the metadata states.
    """
    from foveal.measurement.landmark_finding import find_landmarks_on_copy
    from foveal.measurement.small_copy import small_copy

    copy = small_copy(maps.field)
    disc, fovea = (
        copy.keep_inside(maps.mean(name, maps.field.box, copy.share.shape)) for name in ("disc", "fovea")
    )
    return find_landmarks_on_copy(disc, fovea, copy, image, vessels, maps.field, stated=stated)


def tell_arteries_from_veins(networks: Networks, eye: "Eye", *, views: int) -> KindsOfVessels:
    """Arteries and veins among the vessels of an eye that has its photograph."""
    from foveal.measurement.artery_vein import separate_arteries_and_veins
    from foveal.measurement.graph import vessel_graph
    from foveal.measurement.tree import root_graph
    from foveal.scans.structure_datasets import ARTERY_OR_VEIN
    from foveal.segmentation.inference import segment_structures

    assert eye.image is not None, "a photograph is looked at"
    maps = segment_structures(networks.artery_vein, eye.image, eye.field, views=views)
    artery, spread = maps[ARTERY_OR_VEIN[0]], maps.spread()
    mask = eye.layers["vessel"].mask
    # Through the disc: a graph that ends at its margin tells arteries from veins less well.
    graph = vessel_graph(mask)
    separated = separate_arteries_and_veins(mask, root_graph(graph), artery, 1 - artery)
    arcs = graph.arcs
    confidence = float(np.average(np.abs(separated.scores), weights=arcs)) if arcs.sum() > 0 else float("nan")
    known = replace(eye, arteries=separated.arteries, veins=separated.veins)
    return KindsOfVessels(known, separated, artery, spread, confidence)


def look_for_lesions(
    networks: Networks, image: np.ndarray, field: "FieldOfView", *, disc: np.ndarray | None
) -> LesionsAndDoubt:
    """Lesions of a photograph outside the disc, whose mask is (H, W) bool where it was found."""
    from foveal.measurement.lesions import find_lesions_reaching
    from foveal.segmentation.inference import segment_structures

    maps = segment_structures(networks.lesions, image, field, views=LESION_VIEWS, tile=LESION_TILE)
    thresholds = {name: networks.lesions.config.threshold(name) for name in maps.names}
    found = find_lesions_reaching(maps.reaching, maps.names, field, thresholds=thresholds, exclude=disc)
    return LesionsAndDoubt(found, _drawn_spread(maps))


def _drawn_spread(maps: "StructureMaps") -> np.ndarray:
    """The spread as large as it is drawn: at the photograph's size it would take as long as a network."""
    from foveal.screening.pictures import SOFT_SIDE, fitted_size

    width, height = fitted_size(maps.frame.shape, SOFT_SIDE)
    return maps.mean_spread((height, width))


def structure_levels(disc: np.ndarray | None, lesions: "Lesions") -> np.ndarray:
    """(H, W) uint8 of `STRUCTURE_LEVELS`."""
    levels = np.zeros(lesions.shape, np.uint8)
    if disc is not None:
        levels[disc] = STRUCTURE_LEVELS["disc"]
    value = np.array([STRUCTURE_LEVELS[name] for name in lesions.names], np.uint8)
    levels.ravel()[lesions.pixels] = value[lesions.kinds][lesions.owners]
    return levels
