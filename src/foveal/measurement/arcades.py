"""Which side of the optic disc the vessels' arcades bend to: the temporal side, where the fovea is."""

import numpy as np
from scipy import ndimage

from foveal.measurement.landmarks import Disc
from foveal.measurement.small_copy import SmallCopy

# The sectors of the arcades' wide vessels: degrees from the horizontal, radii of the disc.
SECTOR, RING = (35.0, 80.0), (2.0, 5.0)
LEAST_VISIBLE = 0.3  # share of a sector that the field must show on both sides, else it says nothing

# Log-odds a unit of each sign, near those of a logistic regression on synthetic eyes and photographs.
ARCADE_WEIGHT = 3.0
TRUNK_WEIGHT = 1.5  # of the trunks' distance from the disc's centre in radii: they lie to its nasal side
CENTER_WEIGHT = 0.7  # of the field's centre's distance from the disc's in radii: towards the fovea


def left_eye_log_odds(tubes: np.ndarray, copy: SmallCopy, disc: Disc) -> float:
    """Log-odds that the temporal side is right of the disc, as in a left eye's upright photograph.

    Args:
        tubes: (h, w) share of each pixel of the copy that is vessel.
        copy: of the field.
        disc: on the copy.
    """
    arcades, trunks, center = side_signs(tubes, copy, disc)
    return ARCADE_WEIGHT * arcades - TRUNK_WEIGHT * trunks + CENTER_WEIGHT * center


def side_signs(tubes: np.ndarray, copy: SmallCopy, disc: Disc) -> tuple[float, float, float]:
    """What tells the sides apart, each above 0 where there is more of it right of the disc.

    Args:
        tubes: (h, w) share of each pixel of the copy that is vessel.
        copy: of the field.
        disc: on the copy.

    Returns:
        Log-ratio of wide vessels in the arcades' sectors, 0 where the field hides one side's; the vessels'
        middle within the disc, and the field's centre, from the disc's centre in radii.
    """
    rows, columns = np.ogrid[: tubes.shape[0], : tubes.shape[1]]
    down, across = (rows - disc.center[0]) / disc.radius, (columns - disc.center[1]) / disc.radius
    distance, angle = np.hypot(down, across), np.degrees(np.arctan2(np.abs(down), np.abs(across)))
    wide = ndimage.gaussian_filter(tubes, 0.12 * disc.radius) ** 2  # squared, a thin vessel counts little
    place = (angle >= SECTOR[0]) & (angle < SECTOR[1]) & (distance >= RING[0]) & (distance < RING[1])
    place &= copy.field
    right, left = place & (across > 0), place & (across < 0)
    whole = np.pi * (RING[1] ** 2 - RING[0] ** 2) * (SECTOR[1] - SECTOR[0]) / 180 * disc.radius**2
    arcades = 0.0
    if min(right.sum(), left.sum()) >= LEAST_VISIBLE * whole:
        floor = 0.2 * wide[copy.field].mean() + 1e-6
        arcades = float(np.log((wide[right].mean() + floor) / (wide[left].mean() + floor)))
    within = wide * ((distance < 1) & copy.field)
    trunks = float((within * across).sum() / within.sum()) if within.any() else 0.0
    middle = float((columns * copy.field).sum() / copy.field.sum())
    return arcades, trunks, (middle - disc.center[1]) / disc.radius
