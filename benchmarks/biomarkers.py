"""Vessel biomarkers of foveal beside those of the packages pvbm and retinalysis-vascx: time and agreement.

    python benchmarks/biomarkers.py [--repeats 3] [--write]
    python benchmarks/biomarkers.py --write-reference

The peers are not among foveal's dependencies: `pip install pvbm retinalysis-vascx`. Where one is missing its
figures are left out. All masks are measured in one run by one thread, each package in its own way of use; a
time is the least of the repeats. `--write` keeps the tables in docs/evidence/biomarkers-speed.md. With
`--write-reference` the installed pvbm measures the masks of tests/measurement/reference_masks.py; its values
go to tests/measurement/data, and foveal's PVBM mode is tested against them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # before the libraries that read them

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from PIL import Image  # noqa: E402

from foveal.kernels.thinning import thin  # noqa: E402
from foveal.machine import describe_environment, peak_memory  # noqa: E402
from foveal.measurement.eye import Eye  # noqa: E402
from foveal.measurement.landmarks import Disc, Landmarks  # noqa: E402
from foveal.measurement.measure import biomarker_columns, measure_eye  # noqa: E402
from foveal.measurement.pvbm3 import measure_fractals, measure_pvbm3  # noqa: E402
from foveal.measurement.registry import BiomarkerColumn  # noqa: E402
from foveal.scans.field_of_view import FieldOfView  # noqa: E402
from peers.agreement import agreement  # noqa: E402
from peers.pvbm import Pvbm, ReferenceMask, photograph_masks, write_reference  # noqa: E402
from peers.vascx import SIDE, Vascx, fit_square, resized  # noqa: E402

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence" / "biomarkers-speed.md"
DATA = Path(os.environ.get("FOVEAL_DATA", ROOT.parent / "shared" / "data"))
INSTALL = "pip install pvbm retinalysis-vascx"
MIB = 2**20
HEIGHTS = (722, 1444, 2166, 3000)  # to which one mask is scaled
# What full_v3 measures of arteries and veins; sparsity it takes of all vessels.
OF_VASCX = (
    *(
        "temporal_angle",
        "bifurcation_angle_mean",
        "calibre_median_px",
        "calibre_median_field",
        "calibre_field",
    ),
    *("equivalent_knudtson_px", "equivalent_knudtson_um", "tortuosity_distance_median"),
    *("tortuosity_curvature_median", "tortuosity_distance_resolved_weighted", "tortuosity_distance_weighted"),
    *("tortuosity_curvature_weighted", "density", "disc_fovea_distance_px"),
)
REGIONS = ("hemifield_superior", "hemifield_inferior", "disc_ring", "etdrs_grid", "ellipse")  # as vascx
FOVEA_OF_34 = (1090.0, 1420.0)  # placed by eye, like the discs


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, the least of the repeats; NaN where it was not run or failed."""

    seconds: float = float("nan")
    failure: str = ""


def timed(call: Callable[[], object] | None, repeats: int) -> Timing:
    """Run once to compile and warm up, then `repeats` times; calls of over 10 seconds run once."""
    if call is None:
        return Timing()
    best = float("inf")
    for attempt in range(repeats + 1):
        start = time.perf_counter()
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                call()
        except Exception as error:
            return Timing(failure=type(error).__name__)
        seconds = time.perf_counter() - start
        if attempt or seconds > 10:
            best = min(best, seconds)
        if seconds > 10:
            break
    return Timing(best)


@dataclass(frozen=True)
class Scene:
    """One eye to measure: (H, W) bool masks, and the disc as row, column and radius."""

    name: str
    arteries: np.ndarray
    veins: np.ndarray
    vessels: np.ndarray
    field: np.ndarray
    disc: tuple[float, float, float]
    fovea: tuple[float, float]

    def case(self) -> ReferenceMask:
        """As PVBM sees it; its region is 600 pixels on photographs of 1444."""
        return ReferenceMask(self.name, self.vessels, self.disc, round(600 * min(self.vessels.shape) / 1444))

    def scaled(self, height: int) -> Scene:
        """The same eye at another height, by nearest neighbour."""
        factor = height / self.vessels.shape[0]
        shape = height, round(factor * self.vessels.shape[1])
        masks = [resized(mask, shape) for mask in (self.arteries, self.veins, self.vessels, self.field)]
        row, column, radius = (round(factor * value) for value in self.disc)
        fovea = factor * self.fovea[0], factor * self.fovea[1]
        return Scene(f"{self.name}, scaled", *masks, (row, column, radius), fovea)

    def eye(self, *, all_vessels_only: bool) -> Eye:
        """As foveal sees it."""
        rows, columns = np.nonzero(self.field.any(1))[0], np.nonzero(self.field.any(0))[0]
        box = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
        field = FieldOfView(
            mask=self.field,
            center=((box[0] + box[2] - 1) / 2, (box[1] + box[3] - 1) / 2),
            diameter=float(max(box[2] - box[0], box[3] - box[1])),
            shape="circle",
            box=box,
            completeness=1.0,
        )
        landmarks = Landmarks(
            Disc((float(self.disc[0]), float(self.disc[1])), float(self.disc[2])), self.fovea
        )
        parts = {} if all_vessels_only else {"arteries": self.arteries, "veins": self.veins}
        return Eye(field, self.vessels, landmarks=landmarks, **parts)


def scenes(data: Path) -> tuple[list[Scene], Scene]:
    """The eyes to measure one kind of vessel of, and the one for arteries and veins in regions."""
    if not data.is_dir():
        print(f"No published masks at {data} (set FOVEAL_DATA): drawn eyes are measured instead.")
        drawn = [_drawn(size) for size in (960, 1444)]
        return [*drawn, drawn[-1].scaled(3000)], drawn[-1]
    kept = ("CHASE_DB1/Image_01L", "LES-AV/12-", "LES-AV/34-")
    cases = {case.name: case for case in photograph_masks(data) if case.name.startswith(kept)}
    small = cases["CHASE_DB1/Image_01L"]
    field = np.array(Image.open(data / "CHASE_DB1" / "mask" / "Image_01L_mask.png")) > 0
    nothing = np.zeros_like(small.mask)
    first = Scene(small.name, nothing, nothing, small.mask, field, small.disc, (small.disc[0], 0.0))
    middle, regional = (_of_les_av(data, cases, name) for name in ("12", "34"))
    return [first, middle, middle.scaled(3000)], regional


def _of_les_av(data: Path, cases: dict[str, ReferenceMask], name: str) -> Scene:
    masks = [cases[f"LES-AV/{name}-{kind}"] for kind in ("arteries", "veins", "vessels")]
    field = np.array(Image.open(data / "LES-AV" / "mask" / f"{name}_mask.png")) > 0
    return Scene(f"LES-AV/{name}", *(case.mask for case in masks), field, masks[0].disc, FOVEA_OF_34)


def _drawn(size: int) -> Scene:
    from foveal.scans.synthetic import synthesize_eye

    eye = synthesize_eye(0, size=size)
    row, column = (round(value) for value in eye.disc.center)
    index = eye.artery_vein
    disc = row, column, round(eye.disc.radius)
    return Scene(
        f"drawn eye, {size}", index % 2 == 1, index >= 2, eye.vessels, eye.field.mask, disc, eye.fovea
    )


def peer(package: type[Pvbm] | type[Vascx]) -> Pvbm | Vascx | None:
    """The package's measures, or None, with a message, where it is not installed."""
    try:
        return package()
    except ImportError as error:
        print(f"{package.__name__} is left out ({error}): {INSTALL}")
        return None


def against_pvbm(eyes: list[Scene], repeats: int) -> list[str]:
    """Seconds a mask of pvbm, of foveal's PVBM mode and of its exact mode."""
    pvbm, rows = peer(Pvbm), []
    for scene in eyes:
        case = scene.case()
        ours = pvbm_mode(case)
        slow = [timed(pvbm and partial(getattr(pvbm, part), case), repeats) for part in ours]
        fast = [timed(call, repeats) for call in ours.values()]
        exact = timed(lambda scene=scene: measure_eye(scene.eye(all_vessels_only=True)), repeats)
        height, width = scene.vessels.shape
        name = f"{scene.name}, {width} x {height}"
        for part, *timings in zip(ours, slow, fast, strict=True):
            rows.append([name, part, *_compared(*timings), "", ""])
        total = [Timing(sum(timing.seconds for timing in timings)) for timings in (slow, fast)]
        rows.append([name, "all", *_compared(*total), figure(exact), ratio(total[0], exact)])
    header = ["mask, px", "part", "pvbm, s", "foveal's PVBM mode, s", "ratio"]
    header += ["foveal's exact mode, s", "its ratio"]
    return table(header, rows)


def pvbm_mode(case: ReferenceMask) -> dict[str, Callable[[], object]]:
    """The questions to `Pvbm`, put to foveal."""
    row, column, radius = case.disc
    mode = partial(measure_pvbm3, case.mask, disc=Disc((row, column), radius), max_roi=case.region_radius)
    return {
        "geometry": partial(mode, families=("geometry",)),
        "fractals": partial(measure_fractals, case.mask),
        "equivalents": lambda: [mode(kind=kind, families=("equivalents",)) for kind in ("artery", "vein")],
    }


def against_vascx(scene: Scene, repeats: int) -> list[str]:
    """Seconds an eye of vascx and of foveal, on the 1024 x 1024 pixels of the former."""
    masks = [fit_square(mask) for mask in (scene.arteries, scene.veins, scene.field)]
    factor = SIDE / max(scene.vessels.shape)
    shift = [(max(scene.vessels.shape) - side) // 2 for side in scene.vessels.shape]
    center = tuple(factor * (value + offset) for value, offset in zip(scene.disc[:2], shift, strict=True))
    fovea = tuple(factor * (value + offset) for value, offset in zip(scene.fovea, shift, strict=True))
    disc = (*center, factor * scene.disc[2])
    square = Scene(scene.name, masks[0], masks[1], masks[0] | masks[1], masks[2], disc, fovea)
    vascx = peer(Vascx)
    results: dict[str, int] = {}

    def theirs() -> None:
        found = vascx.measure(masks[0].copy(), masks[1].copy(), masks[2], disc, fovea)
        results["vascx"] = sum(value is not None for value in found.values())

    def ours(columns: Sequence[BiomarkerColumn]) -> None:
        found = measure_eye(square.eye(all_vessels_only=False), columns=columns)
        results["foveal"] = sum(not np.isnan(value) for value in found.values())

    slow = timed(vascx and theirs, repeats)
    rows = []
    wanted = {
        "the measures of full_v3": [
            *biomarker_columns(("artery", "vein"), REGIONS, names=OF_VASCX),
            *biomarker_columns(("vessel",), REGIONS, names=("sparsity_mean", "sparsity_max")),
        ],
        "everything": biomarker_columns(regions=REGIONS),
    }
    for what, columns in wanted.items():
        fast = timed(partial(ours, columns), repeats)
        ours_told = [what, figure(fast), str(results["foveal"]), ratio(slow, fast)]
        rows.append([scene.name, figure(slow), str(results.get("vascx", "")), *ours_told])
    header = ["eye", "vascx full_v3, s", "its values", "foveal measures", "s", "values", "ratio"]
    return table(header, rows)


def growth(scene: Scene, data: Path, repeats: int) -> list[str]:
    """Seconds and peak memory of foveal's exact mode against the size of one mask."""
    rows = []
    for height in HEIGHTS:
        scaled = scene.scaled(height)
        seconds = timed(lambda scaled=scaled: measure_eye(scaled.eye(all_vessels_only=True)), repeats).seconds
        vessels, lines = np.count_nonzero(scaled.vessels), np.count_nonzero(thin(scaled.vessels))
        before, peak = peak_of_measuring(data, height)
        rows.append(
            [
                f"{scaled.vessels.shape[1]} x {height}",
                *(f"{vessels:,}", f"{lines:,}", f"{seconds:.3f}"),
                *(f"{1e6 * seconds / vessels:.2f}", f"{1e6 * seconds / lines:.1f}"),
                *(f"{peak - before:.0f}", f"{peak:.0f}"),
            ]
        )
    header = ["mask, px", "vessel pixels", "centre-line pixels", "s", "us a vessel pixel"]
    header += ["us a centre-line pixel", "peak memory of the measurement, MiB", "of the process, MiB"]
    return table(header, rows)


def peak_of_measuring(data: Path, height: int) -> tuple[float, float]:
    """MiB that a fresh process holds before, and at most while, it measures the mask of `growth`."""
    command = [sys.executable, __file__, "--data", str(data), "--peak-at", str(height)]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, peak = report.split()[-2:]
    return float(before), float(peak)


def report_peak(data: Path, height: int) -> None:
    """Print the memory before one measurement and the peak during it."""
    scene = scenes(data)[0][1]
    small = scene.scaled(HEIGHTS[0] // 2)
    measure_eye(small.eye(all_vessels_only=True))  # compiles, which takes memory of its own
    eye = scene.scaled(height).eye(all_vessels_only=True)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far, that of reading
    before = psutil.Process().memory_info().rss / MIB
    measure_eye(eye)
    print(before, peak_memory() / MIB)


def figure(timing: Timing) -> str:
    return timing.failure or ("" if np.isnan(timing.seconds) else f"{timing.seconds:.3f}")


def ratio(slow: Timing, fast: Timing) -> str:
    value = slow.seconds / fast.seconds
    return "" if np.isnan(value) else f"{value:.0f}"


def _compared(slow: Timing, fast: Timing) -> list[str]:
    return [figure(slow), figure(fast), ratio(slow, fast)]


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


def page(data: Path, repeats: int) -> str:
    """All tables as Markdown."""
    eyes, regional = scenes(data)
    header = ["values", "compared", "differ by more than 1e-9", "largest difference"]
    lines = [
        "# Vessel biomarkers beside pvbm and vascx",
        "",
        "Measured by `python benchmarks/biomarkers.py --write`: one thread, all packages in one run, the "
        f"least of {repeats} times (once where it takes over 10 s), compilation left out.",
        "",
        "## Time beside pvbm",
        "",
        "Geometry with the skeleton, multifractals with 25 rotations, central equivalents by the formulas "
        "for arteries and for veins. foveal's exact mode is all its biomarkers of all vessels at once.",
        *against_pvbm(eyes, repeats),
        "## Time beside vascx",
        "",
        "vascx measures images of 1024 x 1024; both have the same masks, disc and fovea. vascx measures "
        f"arteries and veins, foveal all vessels too, everywhere and in {', '.join(REGIONS)}.",
        *against_vascx(regional, repeats),
        "## Agreement of foveal's PVBM mode",
        "",
        "With the values of pvbm that are kept in tests/measurement/data.",
        *table(header, agreement(data)),
        "## Growth",
        "",
        f"foveal's exact mode on all vessels of {eyes[1].name}, scaled.",
        *growth(eyes[1], data, repeats),
        *(f"- {name}: {value}" for name, value in describe_environment().items()),
        *(f"- {package}: {_version(package)}" for package in ("pvbm", "retinalysis-vascx")),
        "",
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed ({INSTALL})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each timing")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CHASE_DB1 and LES-AV")
    parser.add_argument("--write", action="store_true", help=f"keep the page in {PAGE.name}")
    parser.add_argument("--write-reference", action="store_true", help="measure the reference masks by pvbm")
    parser.add_argument("--peak-at", type=int, metavar="HEIGHT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_at:
        report_peak(options.data, options.peak_at)
    elif options.write_reference:
        write_reference(options.data)
    else:
        text = page(options.data, options.repeats)
        print(text)
        if options.write:
            PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
