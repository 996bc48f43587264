"""PVBM's mode beside values that the package itself gave: of drawn eyes, and of published masks."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3 import measure_fractals, measure_pvbm3
from foveal.recipes.base import Finding, Section
from foveal.scans.synthetic import synthesize_eye

_REPOSITORY = Path(__file__).parents[3]
REFERENCE = _REPOSITORY / "docs" / "evidence" / "pvbm_reference.csv"
PHOTOGRAPHS = _REPOSITORY / "tests" / "measurement" / "data" / "pvbm-3.0.1.8-photographs.csv"
SPEED = _REPOSITORY / "docs" / "evidence" / "biomarkers-speed.md"
DATA = Path(os.environ.get("FOVEAL_DATA", _REPOSITORY.parent / "shared" / "data"))
TOLERANCE = 1e-9  # of the value, or of 1 where that is more
WIDE = (1e-4, 0.9999)
EYES, SIDE, REGION = 12, 512, 213  # drawn eyes, pixels, and 600 of 1444 pixels

# Columns of the kept tables: the key of `measure_pvbm3` with the same meaning.
_GEOMETRY = {
    "geometry.area": "area",
    "geometry.tortuosity_index": "tortuosity_index",
    "geometry.median_tortuosity": "median_tortuosity",
    "geometry.length": "length",
    "geometry.median_angle": "branching_angle",
    "geometry.starts": "start_points",
    "geometry.ends": "end_points",
    "geometry.intersections": "intersections",
    "old.area": "legacy_area",
    "old.perimeter": "legacy_perimeter",
    "old.ends": "legacy_end_points",
    "old.intersections": "legacy_intersections",
    "old_segments.median_tortuosity": "legacy_tortuosity",
    "old_segments.length": "legacy_length",
    "old_angles.mean": "legacy_branching_angle_mean",
    "old_angles.standard_deviation": "legacy_branching_angle_sd",
    "old_angles.median": "legacy_branching_angle_median",
}
_FRACTALS = ("d0", "d1", "d2", "singularity_length")
COUNTS = ("starts", "ends", "intersections", "area")


@dataclass(frozen=True)
class ReferenceMask:
    """A mask that the package measured.

    Attributes:
        name: of its row.
        mask: (H, W) bool.
        disc: row, column and radius, whole pixels.
        region_radius: of the geometry, pixels.
    """

    name: str
    mask: np.ndarray
    disc: tuple[int, int, int]
    region_radius: int

    @property
    def digest(self) -> str:
        """Changes when the mask does."""
        packed = repr(self.mask.shape).encode() + np.packbits(self.mask).tobytes()
        return hashlib.sha256(packed).hexdigest()[:16]


def drawn_masks() -> Iterator[ReferenceMask]:
    """Arteries and veins of twelve synthetic eyes."""
    for seed in range(EYES):
        eye = synthesize_eye(seed, size=SIDE)
        row, column = (round(value) for value in eye.disc.center)
        disc = row, column, round(eye.disc.radius)
        for kind, labels in (("arteries", (1, 3)), ("veins", (2, 3))):
            yield ReferenceMask(f"eye-{seed}-{kind}", np.isin(eye.artery_vein, labels), disc, REGION)


def published_masks(rows: dict[str, dict[str, str]]) -> Iterator[ReferenceMask]:
    """Masks of CHASE_DB1 and LES-AV that the rows name, read from the data sets."""
    for name, row in rows.items():
        collection, rest = name.split("/")
        if collection == "CHASE_DB1":
            mask = _index(DATA / collection / "manual1" / f"{rest}_1stHO.png") > 0
        else:
            number, kind = rest.split("-")
            index = _index(DATA / collection / "av" / f"{number}.png")
            mask = {"vessels": index > 0, "arteries": index % 2 == 1, "veins": index >= 2}[kind]
        disc = int(row["disc_row"]), int(row["disc_column"]), int(row["disc_radius"])
        yield ReferenceMask(name, mask, disc, int(row["region_radius"]))


def _index(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.uint8)


def kept_text(path: Path) -> str:
    """Content of a file of the repository.

    Raises:
        FileNotFoundError: it is not there, as where foveal was installed without its repository.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(_REPOSITORY)} is missing; run in foveal's repository")
    return path.read_text(encoding="utf-8")


def kept_rows(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a table of the package's values, by mask."""
    return {row["mask"]: row for row in csv.DictReader(kept_text(path).splitlines())}


def measured_values(reference: ReferenceMask, wanted: dict[str, str]) -> dict[str, float]:
    """foveal's values of the columns that are not empty in `wanted`."""
    row, column, radius = reference.disc
    values: dict[str, float] = {}
    found: dict[str, float] = {}
    for kind in ("artery", "vein"):
        found = measure_pvbm3(
            reference.mask,
            disc=Disc((row, column), radius),
            kind=kind,
            max_roi=reference.region_radius,
            families=("geometry", "legacy", "equivalents") if kind == "artery" else ("equivalents",),
        )
        values |= {_GEOMETRY_OF[key]: value for key, value in found.items() if key in _GEOMETRY_OF}
        values[f"equivalents.{kind}_knudtson"] = found["equivalent_knudtson"]
        values[f"equivalents.{kind}_hubbard"] = found["equivalent_hubbard"]
    for prefix, occupancy in (("fractals", (0.01, 0.98)), ("wide_fractals", WIDE)):
        if wanted.get(f"{prefix}.d0"):
            fractals = measure_fractals(reference.mask, occupancy=occupancy)
            values |= {f"{prefix}.{name}": getattr(fractals, name) for name in _FRACTALS}
    return {name: value for name, value in values.items() if wanted.get(name)}


_GEOMETRY_OF = {key: column for column, key in _GEOMETRY.items()}


def equals_the_package_on_drawn_eyes() -> Iterator[Finding]:
    """The pvbm3 mode equals the package on synthetic trees."""
    yield from _agreement("arteries and veins of drawn eyes", drawn_masks(), kept_rows(REFERENCE))


def equals_the_package_on_published_masks() -> Iterator[Finding | Section]:
    """The pvbm3 mode equals the package on published masks."""
    rows = kept_rows(PHOTOGRAPHS)
    if not DATA.is_dir():
        yield Section("Published masks", "The data sets were not at hand; nothing was compared on them.")
        return
    yield from _agreement("masks of CHASE_DB1 and LES-AV", published_masks(rows), rows)


def _agreement(
    what: str, masks: Iterator[ReferenceMask], rows: dict[str, dict[str, str]]
) -> Iterator[Finding]:
    counted = compared = masks_seen = 0
    unequal, changed, largest = [], [], 0.0
    for reference in masks:
        row = rows[reference.name]
        masks_seen += 1
        if row["digest"] != reference.digest:
            changed.append(reference.name)
            continue
        for name, value in measured_values(reference, row).items():
            # Where the package ends in an error foveal has NaN.
            expected = math.nan if row[name].endswith("Error") else float(row[name])
            same = math.isnan(expected) and math.isnan(value)
            if name.endswith(COUNTS):
                counted += 1
                unequal += [] if same or value == expected else [f"{reference.name} {name}"]
            else:
                compared += 1
                difference = 0.0 if same else abs(value - expected) / max(1.0, abs(expected))
                largest = max(largest, difference) if not math.isnan(difference) else math.inf
    yield Finding.at_least(f"{what} that are the ones the package measured", masks_seen - len(changed), 20)
    yield Finding.fact(
        f"{what}: counts and areas equal the package's, of {counted}",
        not unequal,
        expected="none differs",
        measured=f"{len(unequal)} differ" + (": " + ", ".join(unequal[:5]) if unequal else ""),
    )
    yield Finding.at_most(
        f"{what}: largest difference to the package of {compared} lengths, angles, dimensions and widths, "
        "relative from 1 on",
        largest,
        TOLERANCE,
    )


def faster_than_the_package() -> Iterator[Finding]:
    """Time of the package over that of foveal, as kept by `benchmarks/biomarkers.py`."""
    cells = [line.strip("| ").split(" | ") for line in kept_text(SPEED).splitlines()]
    totals = [cell for cell in cells if len(cell) >= 5 and cell[1] == "all" and cell[4].strip()]
    if not totals:
        raise ValueError(f"{SPEED.name} has no row 'all' with a ratio; write it with pvbm installed")
    for mask, _, package, *ours in totals:
        seconds = f"{float(package):.2f} s against {float(ours[0]):.3f} s"
        claim = f"{mask}: time of the package over the pvbm3 mode ({seconds})"
        yield Finding.at_least(claim, float(package) / float(ours[0]), 10)
        if len(ours) > 2 and ours[2].strip():
            exact = float(ours[2])
            yield Finding.at_least(
                f"{mask}: time of the package over all exact biomarkers ({exact:.3f} s)",
                float(package) / exact,
                50,
            )
