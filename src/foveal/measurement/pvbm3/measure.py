"""All of PVBM's biomarkers of a mask at once, with the package's own numbers."""

from collections.abc import Collection
from typing import Literal

import numpy as np

from foveal.kernels.thinning import thin
from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3.equivalents import measure_equivalents
from foveal.measurement.pvbm3.fractals import measure_fractals
from foveal.measurement.pvbm3.geometry import measure_geometry
from foveal.measurement.pvbm3.legacy import measure_legacy_geometry
from foveal.measurement.pvbm3.zones import MAX_ROI, calibre_zone, geometry_zone, whole_pixel_disc

PVBM3_FAMILIES = {
    "geometry": (
        "area",
        "tortuosity_index",
        "median_tortuosity",
        "length",
        "branching_angle",
        "start_points",
        "end_points",
        "intersections",
    ),
    "legacy": (
        "legacy_area",
        "legacy_perimeter",
        "legacy_tortuosity",
        "legacy_length",
        "legacy_end_points",
        "legacy_intersections",
        "legacy_branching_angle_median",
        "legacy_branching_angle_mean",
        "legacy_branching_angle_sd",
    ),
    "fractals": ("d0", "d1", "d2", "singularity_length"),
    "equivalents": ("equivalent_knudtson", "equivalent_hubbard"),
}


def measure_pvbm3(
    mask: np.ndarray,
    *,
    disc: Disc | None,
    kind: Literal["vessel", "artery", "vein"] = "vessel",
    max_roi: float = MAX_ROI,
    rotations: int = 25,
    occupancy: tuple[float, float] = (0.01, 0.98),
    families: Collection[str] = tuple(PVBM3_FAMILIES),
) -> dict[str, float]:
    """Measure a mask as the package pvbm 3.0.1 does in its own example, to reproduce its tables.

    All lengths are in pixels and all angles in degrees. The skeleton is that of the whole mask; then mask and
    skeleton are cut to the zone of each family: geometry and fractals outside the disc and within `max_roi`
    of its centre, equivalents from two to three disc radii. The legacy family, which knows no disc, is
    measured on the whole mask. The docstrings of the single functions list what sets these definitions apart
    from exact ones; here it is kept on purpose.

    Args:
        mask: (H, W) bool, True on vessels.
        disc: the optic disc (`landmarks.enclosing_disc` has the package's circle), cut down to whole pixels
            as the package does. Without it the area and the fractals are those of the whole mask, the rest
            of the geometry and the equivalents are NaN.
        kind: what the mask shows; the equivalents differ between "artery" and "vein", and are NaN for
            "vessel", for which there is no formula.
        max_roi: radius of the geometry's zone in pixels. The package's example has 600, for images of 1444
            pixels; infinite for all of the image.
        rotations: of the image for the fractals.
        occupancy: limits of the occupancy of boxes; the package's example has (0.0001, 0.9999).
        families: those to measure, of `PVBM3_FAMILIES`.

    Returns:
        Every key of the families, in the order of `PVBM3_FAMILIES`. NaN where the package has NaN or stops
        with an error; equivalents are -1 where it says -1.

    Raises:
        ValueError: `mask` is not a bool array (H, W), a family or the kind is not known, or the disc has a
            radius of less than 1 pixel.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask must be a bool array (H, W), got {mask.dtype} of shape {mask.shape}")
    if kind not in ("vessel", "artery", "vein"):
        raise ValueError(f"kind must be 'vessel', 'artery' or 'vein', got {kind!r}")
    unknown = set(families) - set(PVBM3_FAMILIES)
    if unknown:
        raise ValueError(f"families {sorted(unknown)} are not known; known are {', '.join(PVBM3_FAMILIES)}")
    if not max_roi > 0:
        raise ValueError(f"max_roi must be a radius above 0 in pixels, got {max_roi}")

    skeleton = thin(mask) if set(families) - {"fractals"} else mask
    values = {
        name: float("nan") for family, names in PVBM3_FAMILIES.items() if family in families for name in names
    }
    cut, cut_skeleton = mask, skeleton
    if disc is not None:
        disc = whole_pixel_disc(disc)
        zone = geometry_zone(mask.shape, disc, max_roi=max_roi)
        cut, cut_skeleton = mask & zone, skeleton & zone

    if "geometry" in families:
        if disc is None:
            values["area"] = float(mask.sum())
        else:
            geometry = measure_geometry(cut, cut_skeleton, disc)
            values.update((name, float(getattr(geometry, name))) for name in PVBM3_FAMILIES["geometry"])
    if "legacy" in families:
        legacy = measure_legacy_geometry(mask, skeleton)
        for name in PVBM3_FAMILIES["legacy"]:
            values[name] = float(getattr(legacy, name.removeprefix("legacy_")))
    if "fractals" in families:
        fractals = measure_fractals(cut, rotations=rotations, occupancy=occupancy)
        values.update((name, float(getattr(fractals, name))) for name in PVBM3_FAMILIES["fractals"])
    if "equivalents" in families and disc is not None and kind != "vessel":
        zone = calibre_zone(mask.shape, disc)
        equivalents = measure_equivalents(mask & zone, skeleton & zone, disc, kind)
        values["equivalent_knudtson"] = equivalents.knudtson
        values["equivalent_hubbard"] = equivalents.hubbard
    return values
