"""Evidence of the PVBM recipe about widths: bars, and central retinal equivalents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from foveal.measurement.equivalents import hubbard_equivalent, knudtson_equivalent
from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3 import measure_pvbm3
from foveal.recipes._pvbm_shapes import segment
from foveal.recipes._pvbm_table import BiomarkerTable
from foveal.recipes.base import Finding
from foveal.recipes.pvbm import PvbmSettings

exact = BiomarkerTable(PvbmSettings())

_RISING = np.arange(10.0, 21.0, 2.0)
_EQUAL = np.full(6, 100.0)
# Equivalents of six widths by formula and kind: of 10, 12, ..., 20 and of six of 100.
_EQUIVALENTS: dict[tuple[str, Literal["artery", "vein"]], tuple[float, float]] = {
    ("Knudtson", "artery"): (26.884, 174.843),
    ("Knudtson", "vein"): (32.879, 213.761),
    ("Hubbard", "artery"): (29.817, 193.709),
    ("Hubbard", "vein"): (52.386, 194.332),
}
_KINDS: tuple[Literal["artery", "vein"], ...] = ("artery", "vein")
_FORMULAS = {"Knudtson": knudtson_equivalent, "Hubbard": hubbard_equivalent}


def widths_of_bars() -> Iterator[Finding]:
    """Widths of straight vessels of 4 to 20 pixels at four angles."""
    bars = [(angle, width) for angle in (0, 30, 45, 77) for width in range(4, 21)]
    found = np.array([exact(segment(*bar))["vessel_calibre_px"] for bar in bars])
    lost = [
        f"{width} px at {angle} degrees"
        for (angle, width), value in zip(bars, found, strict=True)
        if np.isnan(value)
    ]
    yield Finding.fact(
        f"exact: each of {len(bars)} bars of 4 to 20 px at 0, 30, 45 and 77 degrees has a width",
        not lost,
        measured=", ".join(lost) + " without" if lost else "true",
    )
    errors = np.abs(found - [width for _, width in bars])
    yield Finding.at_most("exact: mean absolute error of their widths, px", float(np.nanmean(errors)), 0.5)
    yield Finding.at_most("exact: largest error of their widths, px", float(np.nanmax(errors)), 0.5)
    compat = []
    for width in range(4, 21):
        thin = measure_pvbm3(
            np.pad(segment(0, width), ((0, 0), (0, 100))),
            disc=Disc((150.0, 5.0), 80.0),
            kind="artery",
            families=("equivalents",),
        )
        compat.append(thin["equivalent_knudtson"] - width)
    yield Finding.fact(
        "pvbm3: the middle pixel is not counted, so that level vessels are too thin",
        float(np.mean(compat)) < -0.5,
        expected="more than half a pixel",
        measured=f"{-float(np.mean(compat)):.2f} px on average",
    )


def equivalents_by_formula() -> Iterator[Finding]:
    """The formulas of Knudtson and Hubbard: known values, any order, and what a scale does."""
    errors = [
        abs(_FORMULAS[formula](widths, kind) - value)
        for (formula, kind), values in _EQUIVALENTS.items()
        for widths, value in zip((_RISING, _EQUAL), values, strict=True)
    ]
    claim = "equivalents of six widths: largest error of the eight known values"
    yield Finding.at_most(claim, max(errors), 5e-4)

    random = np.random.default_rng(0)
    widths = random.uniform(40, 180, (50, 7))
    orders = [
        max(abs(formula(random.permutation(row), kind) - formula(row, kind)) for row in widths)
        for formula in _FORMULAS.values()
        for kind in _KINDS
    ]
    yield Finding.close("equivalents change with the order of the widths by", max(orders), 0, tolerance=0)
    for name, formula in _FORMULAS.items():
        changes = [
            abs(formula(0.1 * row, kind) / formula(row, kind) / 0.1 - 1) for row in widths for kind in _KINDS
        ]
        claim = f"{name}: largest change of equivalent over scale, all widths a tenth"
        if name == "Knudtson":
            yield Finding.at_most(f"{claim} (homogeneous of degree 1)", max(changes), 1e-12)
        else:
            yield Finding.at_least(f"{claim} (not homogeneous: made for micrometres)", max(changes), 0.05)


def equivalents_of_few_vessels() -> Iterator[Finding]:
    """Fewer than six vessels, one, none."""
    few = all(
        np.isfinite(formula(_RISING[:count], kind)) and formula(_RISING[:count], kind) >= _RISING[count - 1]
        for formula in _FORMULAS.values()
        for kind in _KINDS
        for count in range(2, 6)
    )
    yield Finding.fact("two to five vessels have an equivalent, no smaller than the widest", few)
    one = [formula(np.array([73.0]), "vein") for formula in _FORMULAS.values()]
    yield Finding.fact("one vessel returns itself", one == [73.0, 73.0])
    none = [formula(np.zeros(0), "artery") for formula in _FORMULAS.values()]
    yield Finding.fact("no vessel is NaN", bool(np.isnan(none).all()))
    empty = np.zeros((300, 300), bool)
    compat = measure_pvbm3(empty, disc=Disc((150, 150), 30), kind="artery", families=("equivalents",))
    table = exact(arteries=empty, disc=Disc((150, 150), 30))
    yield Finding.fact(
        "no vessel on the photograph: NaN in exact mode, -1 in pvbm3 mode only",
        compat["equivalent_knudtson"] == -1 and math.isnan(table["artery_equivalent_knudtson_px"]),
        measured=f"{table['artery_equivalent_knudtson_px']:g} and {compat['equivalent_knudtson']:g}",
    )
