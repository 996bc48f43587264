"""Optic disc, fovea and laterality of one photograph, from maps of probability and from anatomy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foveal.measurement.fovea import check_image, search_fovea_on_copy
from foveal.measurement.landmarks import Landmarks, Laterality
from foveal.measurement.optic_disc import check_map, check_vessels, find_disc_on_copy
from foveal.measurement.small_copy import SmallCopy, small_copy

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

DECIDED = 0.75  # probability of a side from which on it is called
SIDES: dict[Laterality, str] = {"L": "left", "R": "right"}


@dataclass(frozen=True)
class FoundLandmarks:
    """Landmarks that were found, and how sure each is.

    Attributes:
        landmarks: disc, fovea and laterality; the laterality is the stated one where there is one.
        disc_mask: (H, W) bool, the disc within the field; None where no disc was found.
        disc_confidence: 0 to 1, see `FoundDisc`; None where no disc was found.
        fovea_confidence: 0 to 1, the probability that the fovea lies within one disc radius of where it was
            found; None where it was not.
        laterality: what the photograph shows, whatever was stated; None where that is undecided, or where no
            disc was found.
        laterality_confidence: 0.5 to 1, the probability of the likelier side; None where no disc was found.
        laterality_note: a sentence for the reader where the photograph shows another side than was stated.
    """

    landmarks: Landmarks
    disc_mask: np.ndarray | None
    disc_confidence: float | None
    fovea_confidence: float | None
    laterality: Laterality | None
    laterality_confidence: float | None
    laterality_note: str | None = None


def find_landmarks(
    disc_probability: np.ndarray,
    fovea_probability: np.ndarray,
    image: np.ndarray,
    vessels: np.ndarray,
    field: "FieldOfView",
    *,
    stated: Laterality | None = None,
) -> FoundLandmarks:
    """Find optic disc, fovea and laterality in an upright photograph.

    The side is inferred from the photograph alone; where that is decided against the stated one, the note
    says so, and the fovea is looked for where the photograph shows it. Otherwise the fovea is looked for on
    the stated side.

    Args:
        disc_probability: (H, W) float, 0 to 1.
        fovea_probability: (H, W) float, 0 to 1; all 0 says nothing.
        image: (H, W, 3) uint8 RGB.
        vessels: (H, W) bool.
        field: of the photograph.
        stated: laterality that the scan's metadata states.

    Raises:
        ValueError: an array is not of the type and the field's shape as said, or `stated` is no laterality.
    """
    check_map("disc_probability", disc_probability, field)
    check_map("fovea_probability", fovea_probability, field)
    copy = small_copy(field)
    disc, fovea = copy.shrink(disc_probability), copy.shrink(fovea_probability)
    return find_landmarks_on_copy(disc, fovea, copy, image, vessels, field, stated=stated)


def find_landmarks_on_copy(
    disc_probability: np.ndarray,
    fovea_probability: np.ndarray,
    copy: SmallCopy,
    image: np.ndarray,
    vessels: np.ndarray,
    field: "FieldOfView",
    *,
    stated: Laterality | None = None,
) -> FoundLandmarks:
    """`find_landmarks` from maps that are already reduced.

    Args:
        disc_probability: (h, w) float32, 0 to 1, 0 outside the field.
        fovea_probability: (h, w) float32, 0 to 1, 0 outside the field.
        copy: that both are laid out by.
        image: see `find_landmarks`.
        vessels: see `find_landmarks`.
        field: see `find_landmarks`.
        stated: see `find_landmarks`.

    Raises:
        ValueError: image, vessels or `stated` are not as said.
    """
    if stated not in (None, "L", "R"):
        raise ValueError(f"stated laterality must be 'L', 'R' or None, got {stated!r}")
    check_image(image, field)
    check_vessels(vessels, field)
    tubes, green = copy.shrink(vessels), copy.shrink(image[..., 1])
    disc = find_disc_on_copy(disc_probability, copy, field, tubes=tubes)
    circle = disc.disc if disc else None
    search = search_fovea_on_copy(fovea_probability, green, tubes, copy, disc=circle)
    shown: Laterality | None = None
    confidence = None
    if search.left_eye is not None:
        confidence = max(search.left_eye, 1 - search.left_eye)
        if confidence >= DECIDED:
            shown = "L" if search.left_eye > 0.5 else "R"
    note = None
    if stated is not None and shown is not None and shown != stated:
        note = (
            f"The scan states a {SIDES[stated]} eye, but the photograph looks like a {SIDES[shown]} eye "
            f"(probability {confidence:.2f}): is the laterality wrong, or the photograph mirrored?"
        )
    elif stated is not None and circle is not None:
        search = search_fovea_on_copy(fovea_probability, green, tubes, copy, disc=circle, stated=stated)
    fovea = search.found
    return FoundLandmarks(
        landmarks=Landmarks(circle, fovea.position if fovea else None, stated or shown),
        disc_mask=disc.mask if disc else None,
        disc_confidence=disc.confidence if disc else None,
        fovea_confidence=fovea.confidence if fovea else None,
        laterality=shown,
        laterality_confidence=confidence,
        laterality_note=note,
    )
