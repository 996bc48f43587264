"""Where things lie, and the photograph itself: landmarks, the angle of the arcades, scale, sharpness."""

import numpy as np
from scipy import ndimage

from foveal.measurement.circles import Crossings, circle_crossings
from foveal.measurement.drawing_landmarks import (
    draw_arcades,
    draw_axis_and_quadrants,
    draw_disc_diameter,
    draw_scale,
    draw_sharpness,
)
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import MissingError
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.registry import HERE, VASCX, register

CIRCLES = np.linspace(2 / 3, 2 / 3 + 0.12, 5)  # of the disc-fovea distance
NARROWEST, WIDEST = 75.0, 270.0  # degrees between two arcades


def arcade_crossings(m: VesselMeasurement) -> Crossings:
    """Vessels on the circles around the disc on which the temporal angle is taken."""
    return circle_crossings(m, CIRCLES * m.eye.landmarks.disc_fovea_distance)


def arcade_pairs(m: VesselMeasurement, found: Crossings) -> tuple[np.ndarray, np.ndarray]:
    """The widest pair of a superior and an inferior temporal vessel on each circle that has one.

    Returns:
        (n, 2) numbers of the crossings, superior first; (n,) angle between them at the disc's centre, through
        the fovea, in degrees.
    """
    landmarks = m.eye.landmarks
    down, right = landmarks.temporal_direction
    offset = found.points - landmarks.known_disc.center
    along = offset @ (down, right)
    # Rows grow downwards: the superior side is where the component across, turned to point up, is positive.
    across = offset @ ((-abs(right), down * np.sign(right)) if right else (0.0, 1.0))
    angle = np.degrees(np.arctan2(across, along))  # -180 to 180 from the temporal direction
    pairs, angles = [], []
    for circle in np.unique(found.circles):
        here = np.flatnonzero((found.circles == circle) & (np.abs(angle) <= WIDEST / 2))
        upper, lower = here[angle[here] > 0], here[angle[here] <= 0]
        opening = angle[upper][:, None] - angle[lower]
        width = found.widths[upper][:, None] + found.widths[lower]
        width = np.where((opening >= NARROWEST) & (opening <= WIDEST), width, -1.0)
        if width.size and width.max() > 0:
            best = np.unravel_index(np.argmax(width), width.shape)
            pairs.append((upper[best[0]], lower[best[1]]))
            angles.append(opening[best])
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(angles)


@register(
    "temporal_angle",
    "Temporal angle",
    "degree",
    VASCX,
    range="75 to 270",
    needs=("disc", "fovea"),
    draw=draw_arcades(arcade_crossings, arcade_pairs),
)
def temporal_angle(m: VesselMeasurement) -> float:
    """Angle at the disc's centre, through the fovea, between the two temporal arcades. On each of five
    circles around the disc, of 0.67 to 0.79 disc-fovea distances, the pair of a superior and an inferior
    vessel at most 135 degrees off the direction of the fovea with the largest sum of widths is taken, if its
    angle is 75 degrees or more; the median over circles."""
    _, angles = arcade_pairs(m, arcade_crossings(m))
    if not len(angles):
        raise MissingError("no pair of a superior and an inferior temporal vessel was found")
    return float(np.median(angles))


@register(
    "disc_fovea_distance_px",
    "Disc-fovea distance",
    "px",
    VASCX,
    kinds=(),
    needs=("disc", "fovea"),
    draw=draw_axis_and_quadrants,
)
def disc_fovea_distance_px(eye: Eye) -> float:
    """Distance from the centre of the optic disc to the fovea, in pixels."""
    return eye.landmarks.disc_fovea_distance


@register(
    "disc_fovea_distance_field",
    "Disc-fovea distance",
    "field",
    VASCX,
    kinds=(),
    needs=("disc", "fovea"),
    draw=draw_axis_and_quadrants,
)
def disc_fovea_distance_field(eye: Eye) -> float:
    """Distance from the centre of the optic disc to the fovea, in diameters of the field of view."""
    return eye.landmarks.disc_fovea_distance / eye.field.diameter


@register(
    "disc_fovea_distance_mm",
    "Disc-fovea distance",
    "mm",
    VASCX,
    kinds=(),
    needs=("disc", "fovea"),
    draw=draw_axis_and_quadrants,
)
def disc_fovea_distance_mm(eye: Eye) -> float:
    """Distance from the centre of the optic disc to the fovea, in millimetres; missing where the scan does
    not say how large a pixel is."""
    if eye.spacing_mm is None:
        raise MissingError("the scan does not say how large a pixel is")
    _ = eye.landmarks.disc_fovea_distance
    (top, left), (row, column) = eye.landmarks.known_disc.center, eye.landmarks.known_fovea
    return float(np.hypot((row - top) * eye.spacing_mm[0], (column - left) * eye.spacing_mm[1]))


@register("disc_diameter_px", "Disc diameter", "px", HERE, kinds=(), needs=("disc",), draw=draw_disc_diameter)
def disc_diameter_px(eye: Eye) -> float:
    """Diameter of the circle that stands for the optic disc, in pixels."""
    return 2 * eye.landmarks.known_disc.radius


@register(
    "disc_diameter_field", "Disc diameter", "field", HERE, kinds=(), needs=("disc",), draw=draw_disc_diameter
)
def disc_diameter_field(eye: Eye) -> float:
    """Diameter of the circle that stands for the optic disc, in diameters of the field of view."""
    return 2 * eye.landmarks.known_disc.radius / eye.field.diameter


@register("um_per_px", "Scale", "um", HERE, kinds=(), draw=draw_scale)
def um_per_px(eye: Eye) -> float:
    """Micrometres a pixel, the scale of every measure in millimetres and micrometres: as the scan says, else
    from the optic disc, whose diameter is then taken as 1800 micrometres."""
    return 1000 * eye.mm_per_px


@register("laplacian_variance", "Laplacian variance", "1", VASCX, kinds=(), draw=draw_sharpness)
def laplacian_variance(eye: Eye) -> float:
    """Variance of the Laplacian (four neighbours) of the photograph's luma in the field, grey levels squared:
    low where it is blurred, and only comparable between photographs of one size and camera."""
    if eye.image is None:
        raise MissingError("the photograph is not at hand")
    top, left, bottom, right = eye.field.box
    luma = eye.image[top:bottom, left:right] @ np.array([0.299, 0.587, 0.114], np.float32)
    mask = eye.field.mask[top:bottom, left:right]
    inner = ndimage.binary_erosion(mask)
    if not inner.any():
        raise MissingError("the field of view is empty")
    return float(ndimage.laplace(luma)[inner].var(dtype=np.float64))
