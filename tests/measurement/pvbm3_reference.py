"""Values of the package pvbm as kept in `data/`, beside those of foveal's mode that must equal them."""

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

from reference_masks import ReferenceMask

from foveal.kernels.thinning import thin
from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3 import (
    Pvbm3Geometry,
    calibre_zone,
    geometry_zone,
    measure_equivalents,
    measure_fractals,
    measure_geometry,
    measure_legacy_geometry,
)

DATA = Path(__file__).parent / "data"
FRACTALS: dict[str, dict[str, Any]] = {
    "fractals": {},
    "wide_fractals": {"occupancy": (1e-4, 0.9999)},
    "upright_fractals": {"rotations": 1},
}


def kept_values(name: str) -> dict[str, dict[str, str]]:
    """Rows of a table of reference values by mask."""
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return {row["mask"]: row for row in csv.DictReader(file)}


def measured_values(reference: ReferenceMask, names: Collection[str]) -> dict[str, float]:
    """The same columns by foveal, at least those with these names."""
    mask, skeleton = reference.mask, thin(reference.mask)
    disc = Disc(reference.disc[:2], reference.disc[2])
    zone = geometry_zone(mask.shape, disc, max_roi=reference.region_radius)
    values = _geometry("geometry", measure_geometry(mask & zone, skeleton & zone, disc))
    values |= _geometry("uncut_geometry", measure_geometry(mask, skeleton, disc))
    zone = calibre_zone(mask.shape, disc)
    for kind in ("artery", "vein"):
        found = measure_equivalents(mask & zone, skeleton & zone, disc, kind)
        values[f"equivalents.{kind}_knudtson"] = found.knudtson
        values[f"equivalents.{kind}_hubbard"] = found.hubbard
        values["equivalents.vessels"] = len(found.widths)
    for prefix, options in FRACTALS.items():
        if f"{prefix}.d0" in names:
            dimensions = measure_fractals(mask, **options)
            for name in ("d0", "d1", "d2", "singularity_length"):
                values[f"{prefix}.{name}"] = getattr(dimensions, name)
    old = measure_legacy_geometry(mask, skeleton)
    return values | {
        "old.area": old.area,
        "old.perimeter": old.perimeter,
        "old.ends": old.end_points,
        "old.intersections": old.intersections,
        "old_segments.median_tortuosity": old.tortuosity,
        "old_segments.length": old.length,
        "old_angles.mean": old.branching_angle_mean,
        "old_angles.standard_deviation": old.branching_angle_sd,
        "old_angles.median": old.branching_angle_median,
    }


def _geometry(prefix: str, found: Pvbm3Geometry) -> dict[str, float]:
    return {
        f"{prefix}.area": found.area,
        f"{prefix}.tortuosity_index": found.tortuosity_index,
        f"{prefix}.median_tortuosity": found.median_tortuosity,
        f"{prefix}.length": found.length,
        f"{prefix}.median_angle": found.branching_angle,
        f"{prefix}.starts": found.start_points,
        f"{prefix}.ends": found.end_points,
        f"{prefix}.intersections": found.intersections,
    }
