"""The fovea from a map of its probability and from anatomy, with the side of the disc that it lies on.

One posterior over all places decides: anatomy says beforehand how far from the disc a fovea lies, on either
side and in the field or out of it; each place in the field then weighs by what is seen there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from foveal.measurement.arcades import left_eye_log_odds
from foveal.measurement.landmarks import Disc, Laterality
from foveal.measurement.optic_disc import check_map, check_vessels
from foveal.measurement.small_copy import SmallCopy, small_copy

if TYPE_CHECKING:
    from foveal.scans.field_of_view import FieldOfView

# Of the fovea seen from the disc's centre: about 15.5 degrees of visual angle to the temporal side and 1.6
# below, a disc's radius being about 3 degrees; the spreads hold the variation of eyes and a tilted head.
DISTANCE, DISTANCE_SPREAD = 5.1, 0.5  # radii of the disc
SLOPE, SLOPE_SPREAD = 7.0, 5.0  # degrees below the horizontal
DISC_RADIUS = 0.07  # of the field's diameter, where no disc is known
OUT_OF_FIELD = 0.3  # probability beforehand that the fovea is not in the field, where no disc is known
CENTERED_SPREAD = 0.2  # of the field's diameter: how far the fovea then is from the field's centre
MARGIN = 0.8  # radii of the disc; a fovea nearer to the field's border counts as out of the field

# Log-weights of what is seen at a place: near those that a conditional logit gives on synthetic eyes, whose
# network was imitated, and on photographs with a fovea placed by eye; more careful of a fovea out of sight,
# since a field's border is dark as well.
NETWORK_WEIGHT, NETWORK_FLOOR = 1.5, 0.05  # of log(1 + probability / floor)
DARK_WEIGHT = 2.0  # of the darkness, in deviations of the field's
FREE_WEIGHT = 4.0  # of the distance to the nearest vessel in radii of the disc, 1 at most
NOTHING_SEEN = 4.0  # log-weight of a place out of sight, on the same scale

DARKEST = 3.0  # deviations; darker is no more like a fovea
LEAST_CONFIDENCE = 0.5  # a fovea less sure than this is not called found
NEAR = 1.0  # radii of the disc: how near to the truth `confidence` speaks of


@dataclass(frozen=True)
class FoundFovea:
    """A fovea that was found.

    Attributes:
        position: row and column, pixels.
        confidence: 0 to 1: the probability that the fovea lies within one disc radius of the position.
    """

    position: tuple[float, float]
    confidence: float


@dataclass(frozen=True)
class FoveaSearch:
    """What a search for the fovea says.

    Attributes:
        found: the fovea, or None where no place has it within one disc radius with a probability of half.
        in_field: probability that it is in the field.
        left_eye: probability that the fovea is right of the disc in the picture, which in an upright
            photograph makes it a left eye; None without a disc.
    """

    found: FoundFovea | None
    in_field: float
    left_eye: float | None


def find_fovea(
    probability: np.ndarray,
    image: np.ndarray,
    vessels: np.ndarray,
    field: "FieldOfView",
    *,
    disc: Disc | None = None,
    stated: Laterality | None = None,
) -> FoundFovea | None:
    """Find the fovea: `search_fovea` without what it says of the side.

    Returns:
        The fovea, or None where no place has it within one disc radius with a probability of half.

    Raises:
        ValueError: as `search_fovea`.
    """
    return search_fovea(probability, image, vessels, field, disc=disc, stated=stated).found


def search_fovea(
    probability: np.ndarray,
    image: np.ndarray,
    vessels: np.ndarray,
    field: "FieldOfView",
    *,
    disc: Disc | None = None,
    stated: Laterality | None = None,
) -> FoveaSearch:
    """Weigh all places where the fovea may be.

    Beforehand, the fovea lies about 5.1 disc radii from the disc, a little below the horizontal, on the side
    that the vessels' arcades bend to (or that is stated); without a disc, near the centre of the field. A
    place in the field then gains by the network's probability, by darkness of the green channel between the
    vessels against its surroundings, and by the distance to the nearest vessel.

    Args:
        probability: (H, W) float, 0 to 1, of the fovea; all 0 says nothing.
        image: (H, W, 3) uint8 RGB.
        vessels: (H, W) bool.
        field: of the photograph.
        disc: the optic disc, where it is known.
        stated: laterality that is known, of an upright photograph.

    Raises:
        ValueError: an array is not of the type and the field's shape as said.
    """
    check_map("fovea_probability", probability, field)
    check_image(image, field)
    check_vessels(vessels, field)
    copy = small_copy(field)
    seen, green, tubes = (copy.shrink(values) for values in (probability, image[..., 1], vessels))
    return search_fovea_on_copy(seen, green, tubes, copy, disc=disc, stated=stated)


def search_fovea_on_copy(
    probability: np.ndarray,
    green: np.ndarray,
    tubes: np.ndarray,
    copy: SmallCopy,
    *,
    disc: Disc | None = None,
    stated: Laterality | None = None,
) -> FoveaSearch:
    """`search_fovea` in what is already reduced.

    Args:
        probability: (h, w) float32, 0 to 1, of the fovea, 0 outside the field.
        green: (h, w) float32, 0 to 255, of the photograph.
        tubes: (h, w) float32 share of each pixel that is vessel.
        copy: that all of these are laid out by.
        disc: the optic disc in pixels of the photograph, where it is known.
        stated: laterality that is known, of an upright photograph.
    """
    small = None
    if disc is not None:
        row, column = copy.to_copy(np.array(disc.center))
        small = Disc((float(row), float(column)), disc.radius / copy.mean_step)
    radius = small.radius if small else DISC_RADIUS * copy.diameter
    seen = _evidence(probability, green, tubes, copy, small)
    depth = ndimage.distance_transform_edt(np.pad(copy.field, 1))[1:-1, 1:-1]
    allowed = depth > MARGIN * radius
    if small is None:
        sides = _centered_prior(copy, allowed)[None]
        shares = np.ones(1)
    else:
        odds = {"L": np.inf, "R": -np.inf}[stated] if stated else left_eye_log_odds(tubes, copy, small)
        left = float(1 / (1 + np.exp(-odds)))
        shares = np.array([left, 1 - left])
        sides = np.stack([_anatomical_prior(copy, small, sign) for sign in (1, -1)])
        sides = np.where(allowed, sides, 0)
    missing = np.maximum(1 - sides.sum(axis=(1, 2)), 1e-3)
    weights = np.exp(np.minimum(seen - NOTHING_SEEN, 50)) * sides * shares[:, None, None]
    unseen = missing * shares
    total = float(weights.sum() + unseen.sum())
    posterior = weights.sum(axis=0) / total
    left_eye = None if small is None else float((weights[0].sum() + unseen[0]) / total)
    in_field = float(posterior.sum())
    found = _peak(posterior, radius, copy) if in_field >= LEAST_CONFIDENCE else None
    if found is not None and found.confidence < LEAST_CONFIDENCE:
        found = None
    return FoveaSearch(found, in_field, left_eye)


def _evidence(
    probability: np.ndarray, green: np.ndarray, tubes: np.ndarray, copy: SmallCopy, disc: Disc | None
) -> np.ndarray:
    """(h, w) log-weight of each place of the copy by what is seen there."""
    return sum(  # type: ignore[return-value]
        weight * part
        for weight, part in zip(
            (NETWORK_WEIGHT, DARK_WEIGHT, FREE_WEIGHT),
            evidence_parts(probability, green, tubes, copy, disc),
            strict=True,
        )
    )


def evidence_parts(
    probability: np.ndarray, green: np.ndarray, tubes: np.ndarray, copy: SmallCopy, disc: Disc | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is seen at each place, (h, w) each: network, darkness, distance to vessels.

    Args:
        probability: (h, w) of the fovea.
        green: (h, w) 0 to 255.
        tubes: (h, w) share of a pixel that is vessel.
        copy: that all of these are laid out by.
        disc: on the copy, or None.
    """
    radius = disc.radius if disc else DISC_RADIUS * copy.diameter
    network = np.log1p(copy.blur(probability, 0.25 * radius) / NETWORK_FLOOR)
    clear = np.clip(1 - 2 * tubes, 0.02, 1)
    if disc is not None:
        rows, columns = np.ogrid[: clear.shape[0], : clear.shape[1]]
        clear[np.hypot(rows - disc.center[0], columns - disc.center[1]) < 1.3 * radius] = 0.02
    light = np.log(np.maximum(green, 4.0))
    relief = copy.blur(light, 2.0 * radius, clear) - copy.blur(light, 0.35 * radius, clear)
    deviation = 1.4826 * float(np.median(np.abs(relief[copy.field])))
    dark = np.clip(relief / max(deviation, 1e-3), -DARKEST, DARKEST)
    free = np.minimum(ndimage.distance_transform_edt(tubes < 0.25) / radius, 1.0)
    return network, dark, free


def _anatomical_prior(copy: SmallCopy, disc: Disc, sign: int) -> np.ndarray:
    """(h, w) probability that the fovea is in each pixel, right of the disc (sign 1) or left of it (-1)."""
    rows, columns = np.ogrid[: copy.field.shape[0], : copy.field.shape[1]]
    down, across = (rows - disc.center[0]) / disc.radius, sign * (columns - disc.center[1]) / disc.radius
    distance = np.hypot(down, across)
    along = (distance - DISTANCE) / DISTANCE_SPREAD
    slope = (np.degrees(np.arctan2(down, across)) - SLOPE) / SLOPE_SPREAD
    norm = 2 * np.pi * DISTANCE_SPREAD * np.radians(SLOPE_SPREAD) * np.maximum(distance, 0.1) * disc.radius**2
    return np.exp(-0.5 * (along**2 + slope**2)) / norm


def _centered_prior(copy: SmallCopy, allowed: np.ndarray) -> np.ndarray:
    """(h, w) probability that the fovea is in each pixel, where no disc is known."""
    middle = (np.array(copy.field.shape) - 1) / 2
    rows, columns = np.ogrid[: allowed.shape[0], : allowed.shape[1]]
    distance = np.hypot(rows - middle[0], columns - middle[1]) / (CENTERED_SPREAD * copy.diameter)
    density = np.where(allowed, np.exp(-0.5 * distance**2), 0)
    return (1 - OUT_OF_FIELD) * density / max(float(density.sum()), 1e-12)


def _peak(posterior: np.ndarray, radius: float, copy: SmallCopy) -> FoundFovea:
    """The place with the most probability within one disc radius, moved to the middle of what is near it."""
    rows, columns = np.ogrid[: posterior.shape[0], : posterior.shape[1]]
    smooth = ndimage.gaussian_filter(posterior, 0.25 * radius, mode="constant", truncate=3)
    row, column = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    for _ in range(3):
        near = posterior * (np.hypot(rows - row, columns - column) <= 0.5 * radius)
        total = near.sum()
        row, column = (near * rows).sum() / total, (near * columns).sum() / total
    mass = float(posterior[np.hypot(rows - row, columns - column) <= NEAR * radius].sum())
    place = copy.to_photograph(np.array([row, column]))
    return FoundFovea((float(place[0]), float(place[1])), min(mass, 1.0))


def check_image(image: np.ndarray, field: "FieldOfView") -> None:
    """Check a photograph against its field.

    Raises:
        ValueError: it is not uint8 of the field's shape.
    """
    shape = field.mask.shape
    if image.dtype != np.uint8 or image.shape != (*shape, 3):
        raise ValueError(f"image must be uint8 of shape {(*shape, 3)}, got {image.dtype} {image.shape}")
