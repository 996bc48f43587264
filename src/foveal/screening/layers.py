"""The overlays of a page: what was found in a photograph, as transparent pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from foveal.screening import pictures
from foveal.screening.landmark_overlays import landmark_layer
from foveal.screening.vessel_overlays import vessel_layers

if TYPE_CHECKING:
    from foveal.measurement.eye import Eye
    from foveal.measurement.lesions import Lesions
    from foveal.screening.structures import KindsOfVessels, LandmarksAndDoubt, LesionsAndDoubt

LAYERS: dict[str, dict[str, str]] = {
    "Vessels": {
        "kinds": "Arteries and veins",
        "outline": "Vessel outline",
        "fill": "Vessels filled",
        "widths": "Centre lines by width",
        "nodes": "End, branch and crossing points",
        "angles": "Bifurcation angles",
        "probability": "Vessel probability",
    },
    "Landmarks and lesions": {"landmarks": "Disc and fovea", "lesions": "Lesions"},
    "Where the networks doubt": {
        "doubt": "Vessels",
        "kind_doubt": "Artery or vein",
        "landmark_doubt": "Disc and fovea",
        "lesion_doubt": "Lesions",
    },
}
"""Titles of the overlays by name, in groups; those of explanations are in `Record.explanations`."""

SHOWN_FIRST = ("kinds", "landmarks", "lesions")
"""Overlays that a page opens with."""

_RING = 2  # pixels of the page from a lesion to the outer border of the ring around it
_LARGEST_SPREAD = 0.25  # standard deviation of probabilities that is drawn fully opaque
_LEAST_SHOWN = 0.3  # opacity of the least confident vessel or lesion


@dataclass(frozen=True)
class Seen:
    """What was seen in one photograph.

    Attributes:
        eye: with its photograph, vessels, arteries, veins and landmarks.
        levels: (H, W) uint16 vessel probability.
        doubt: (h, w) uint8 doubt of the vessels, at `pictures.SOFT_SIDE`.
        landmarks: disc and fovea.
        kinds: arteries and veins.
        lesions: of all kinds.
        reasons: (h, w) uint8 maps of why the models said so.
    """

    eye: "Eye"
    levels: np.ndarray
    doubt: np.ndarray
    landmarks: "LandmarksAndDoubt"
    kinds: "KindsOfVessels"
    lesions: "LesionsAndDoubt"
    reasons: Sequence[np.ndarray] = ()


def report_layers(seen: Seen) -> dict[str, str]:
    """Data URIs of "photograph" and of the overlays of a page, by the names in `LAYERS`."""
    eye = seen.eye
    assert eye.image is not None, "a photograph is screened"
    assert eye.vessels is not None, "its vessels were segmented"
    coverage = pictures.shrink(eye.vessels.view(np.uint8) * np.uint8(255))
    probability = pictures.shrink((seen.levels >> 8).astype(np.uint8), side=pictures.SOFT_SIDE)
    layers = {
        "photograph": pictures.photograph(eye.image),
        "kinds": _kinds(seen.kinds),
        "outline": pictures.vessel_outline(coverage),
        "fill": pictures.vessel_fill(coverage),
        **vessel_layers(eye),
        "probability": pictures.stain(probability, pictures.PROBABILITY_RAMP, opaque_from=0.6),
        "lesions": lesion_rings(seen.lesions.found),
        "doubt": pictures.stain(seen.doubt, pictures.DOUBT_RAMP),
        "kind_doubt": _doubt(seen.kinds.spread * (seen.kinds.separated.confidence > 0)),
        "landmark_doubt": _doubt(seen.landmarks.spread),
        "lesion_doubt": _doubt(seen.lesions.spread),
    }
    layers |= landmark_layer(eye.field, seen.landmarks.found)
    for index, levels in enumerate(seen.reasons):
        layers[reason_layer(index)] = pictures.stain(levels, pictures.RELEVANCE_RAMP, opaque_from=1.2)
    return layers


def reason_layer(index: int) -> str:
    """Name of the overlay of an explanation."""
    return f"relevance_{index}"


def _kinds(kinds: "KindsOfVessels") -> str:
    """Arteries and veins in their colours, the fainter the less sure."""
    eye, sure = kinds.eye, kinds.separated.confidence
    shade = np.rint(255 * (_LEAST_SHOWN + (1 - _LEAST_SHOWN) * sure)).astype(np.uint8)
    both = [eye.arteries, eye.veins]
    levels = np.stack([pictures.shrink(np.where(mask, shade, np.uint8(0))) for mask in both])  # type: ignore[arg-type]
    return pictures.stain_classes(levels, (pictures.ARTERY_COLOUR, pictures.VEIN_COLOUR))


def lesion_rings(lesions: "Lesions") -> str:
    """A ring around each lesion in the colour of its kind, the fainter the less sure; data URI."""
    width, height = pictures.fitted_size(lesions.shape, pictures.REPORT_SIDE)
    place = np.minimum(lesions.points * (height, width) // lesions.shape, (height - 1, width - 1))
    levels = np.zeros((len(lesions.names), height, width), np.uint8)
    sure = np.rint(255 * (_LEAST_SHOWN + (1 - _LEAST_SHOWN) * lesions.confidences)).astype(np.uint8)
    at = (lesions.kinds[lesions.owners], *place.T.astype(np.int64))
    np.maximum.at(levels, at, sure[lesions.owners])
    inside = ndimage.binary_dilation(levels.any(axis=0), np.ones((3, 3)))
    size = 2 * _RING + 1
    rings = ndimage.grey_dilation(levels, (1, size, size)) * ~inside
    return pictures.stain_classes(rings, [pictures.LESION_COLOURS[name] for name in lesions.names])


def _doubt(spread: np.ndarray) -> str:
    """(H, W) spread of probabilities as a magenta veil, at `pictures.SOFT_SIDE`, whatever its own size."""
    levels = np.rint(np.clip(spread / _LARGEST_SPREAD, 0, 1) * 255).astype(np.uint8)
    return pictures.stain(pictures.shrink(levels, side=pictures.SOFT_SIDE), pictures.DOUBT_RAMP)
