"""The package `pvbm`, used as its README says, and the table of its values of the tests' reference masks."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from skimage.morphology import skeletonize

TESTS = Path(__file__).parents[2] / "tests" / "measurement"
sys.path.append(str(TESTS))  # the masks are the tests' own

from reference_masks import ReferenceMask, drawn_masks, photograph_masks  # noqa: E402

REFERENCE = TESTS / "data"
# The old module's branching angles take minutes a photograph: these are enough.
ANGLED = ("CHASE_DB1/Image_01L", "CHASE_DB1/Image_02R", "LES-AV/12-arteries", "LES-AV/15-veins")


class Pvbm:
    """The measures of `pvbm`; raises `ImportError` where it is not installed."""

    def __init__(self) -> None:
        sys.setrecursionlimit(10**6)  # it labels components by recursion
        from PVBM.CentralRetinalAnalysis import CREVBMs
        from PVBM.FractalAnalysis import MultifractalVBMs
        from PVBM.GeometricalAnalysis import GeometricalVBMs as OldGeometry
        from PVBM.GeometryAnalysis import GeometricalVBMs

        self.geometry_class, self.calibre_class = GeometricalVBMs, CREVBMs
        self.fractal_class, self.old_class = MultifractalVBMs, OldGeometry

    def geometry(self, case: ReferenceMask, *, cut: bool = True) -> list[float]:
        """Area, tortuosity index, median tortuosity, length, median angle, starts, ends, intersections."""
        mask, skeleton = case.mask.astype(float), skeletonize(case.mask) * 1.0
        row, column, radius = case.disc
        measure = self.geometry_class()
        if cut:
            mask, skeleton = measure.apply_roi(mask, skeleton, *_zones(case))
        return measure.compute_geomVBMs(mask, skeleton, column, row, radius)[0]

    def equivalents(self, case: ReferenceMask) -> list[float]:
        """Central equivalents by Knudtson and Hubbard, of arteries and of veins, and how many vessels."""
        mask, skeleton = case.mask.astype(float), skeletonize(case.mask) * 1.0
        row, column, radius = case.disc
        measure = self.calibre_class()
        mask, skeleton = measure.apply_roi(mask, skeleton, _zones(case)[0])
        values = []
        for artery in (True, False):
            found, vessels = measure.compute_central_retinal_equivalents(
                mask, skeleton, column, row, radius, artery=artery
            )
            values += list(found.values())
        return [*values, len(vessels or [])]

    def fractals(self, case: ReferenceMask, **options: object) -> list[float]:
        """D0, D1, D2 and singularity length of the whole mask."""
        return list(self.fractal_class(**options).compute_multifractals(case.mask.astype(float)))

    def old_extent(self, case: ReferenceMask) -> list[float]:
        """Area, perimeter, ends, intersections."""
        measure, skeleton = self.old_class(), skeletonize(case.mask) * 1.0
        points = measure.compute_particular_points(skeleton)[:2]
        mask = case.mask.astype(float)
        return [measure.area(mask), measure.compute_perimeter(mask)[0], *points]

    def old_tortuosity(self, case: ReferenceMask) -> list[float]:
        """Median tortuosity and sum of chords."""
        return list(self.old_class().compute_tortuosity_length(skeletonize(case.mask) * 1.0)[:2])

    def old_angles(self, case: ReferenceMask) -> list[float]:
        """Mean, standard deviation and median of the branching angles."""
        return list(self.old_class().compute_branching_angles(skeletonize(case.mask) * 1.0)[:3])


def _zones(case: ReferenceMask) -> tuple[np.ndarray, np.ndarray]:
    """What `pvbm` makes of a disc: zones (H, W, 4) and region of interest (H, W, 3), 0 to 255."""
    row, column, radius = case.disc
    rows, columns = np.ogrid[: case.mask.shape[0], : case.mask.shape[1]]
    distance = (rows - row) ** 2 + (columns - column) ** 2
    zones = np.zeros((*case.mask.shape, 4))
    for channel, reach in ((1, radius), (0, 2 * radius), (2, 3 * radius)):
        zones[..., channel] = 255 * (distance <= reach**2)
    region = np.zeros((*case.mask.shape, 3), np.uint8)
    region[..., 1] = 255 * (distance <= case.region_radius**2)
    return zones, region


EXTENT = ("area", "tortuosity_index", "median_tortuosity", "length", "median_angle")
GEOMETRY = (*EXTENT, "starts", "ends", "intersections")
FRACTALS = ("d0", "d1", "d2", "singularity_length")
# Prefix of the columns, their names, and how the values come about.
Measure = Callable[[Pvbm, ReferenceMask], list[float]]
COLUMNS: dict[str, tuple[tuple[str, ...], Measure]] = {
    "geometry": (GEOMETRY, Pvbm.geometry),
    "uncut_geometry": (GEOMETRY, lambda pvbm, case: pvbm.geometry(case, cut=False)),
    "equivalents": (
        ("artery_knudtson", "artery_hubbard", "vein_knudtson", "vein_hubbard", "vessels"),
        Pvbm.equivalents,
    ),
    "fractals": (FRACTALS, Pvbm.fractals),
    "wide_fractals": (FRACTALS, lambda pvbm, case: pvbm.fractals(case, min_proba=1e-4, maxproba=0.9999)),
    "upright_fractals": (FRACTALS, lambda pvbm, case: pvbm.fractals(case, optimize=False)),
    "old": (("area", "perimeter", "ends", "intersections"), Pvbm.old_extent),
    "old_segments": (("median_tortuosity", "length"), Pvbm.old_tortuosity),
    "old_angles": (("mean", "standard_deviation", "median"), Pvbm.old_angles),
}
SLOW = ("uncut_geometry", "wide_fractals", "upright_fractals")  # left out on photographs


def reference_row(pvbm: Pvbm, case: ReferenceMask, skipped: tuple[str, ...] = ()) -> dict[str, object]:
    """One row of the table: values as Python writes them, the error's name where `pvbm` fails."""
    row: dict[str, object] = {
        "mask": case.name,
        "digest": case.digest,
        **dict(zip(("height", "width"), case.mask.shape, strict=True)),
        **dict(zip(("disc_row", "disc_column", "disc_radius"), case.disc, strict=True)),
        "region_radius": case.region_radius,
    }
    for prefix, (names, measure) in COLUMNS.items():
        values: list[object] = [""] * len(names)
        if prefix not in skipped:
            try:
                with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    values = [repr(float(value)) for value in measure(pvbm, case)]
            except Exception as error:
                values = [type(error).__name__] * len(names)
        row.update(zip((f"{prefix}.{name}" for name in names), values, strict=True))
    return row


def write_reference(data: Path) -> None:
    """Let `pvbm` measure all reference masks and keep what it says."""
    try:
        version = importlib.metadata.version("pvbm")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("pvbm is not installed: pip install pvbm") from None
    if not data.is_dir():
        raise SystemExit(f"no published masks at {data}: set FOVEAL_DATA or give --data")
    pvbm = Pvbm()
    rows = (reference_row(pvbm, case) for case in drawn_masks())
    _write_table(REFERENCE / f"pvbm-{version}-drawn.csv", rows)
    rows = (
        reference_row(pvbm, case, SLOW if case.name in ANGLED else (*SLOW, "old_angles"))
        for case in photograph_masks(data)
    )
    _write_table(REFERENCE / f"pvbm-{version}-photographs.csv", rows)


def _write_table(path: Path, rows: Iterable[dict[str, object]]) -> None:
    """A CSV file that grows row by row, so that a long run can be watched."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            print(f"{path.name}: {row['mask']}", flush=True)
