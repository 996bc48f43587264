"""How far foveal's PVBM mode agrees with the values of pvbm that the tests keep."""

from __future__ import annotations

import math
from pathlib import Path

from peers.pvbm import COLUMNS, REFERENCE, drawn_masks, photograph_masks

from pvbm3_reference import kept_values, measured_values  # isort: skip  (peers.pvbm says where it is)


def agreement(data: Path) -> list[list[str]]:
    """Rows of a table: columns of the reference, values compared, values that differ, largest difference.

    A value differs where it is further away than 1e-9 of its size, or than 1e-9 if it is less than 1. Where
    pvbm raises an error foveal has NaN.
    """
    cases = {case.name: case for case in drawn_masks()}
    if data.is_dir():
        cases |= {case.name: case for case in photograph_masks(data)}
    compared, differing = dict.fromkeys(COLUMNS, 0), dict.fromkeys(COLUMNS, 0)
    largest = dict.fromkeys(COLUMNS, 0.0)
    for path in sorted(REFERENCE.glob("pvbm-*.csv")):
        for mask, kept in kept_values(path.name).items():
            if mask not in cases or cases[mask].digest != kept["digest"]:
                continue
            names = [name for name, cell in kept.items() if "." in name and cell]
            measured = measured_values(cases[mask], names)
            for name in names:
                cell, value, prefix = kept[name], measured[name], name.split(".")[0]
                expected = float("nan") if cell.endswith("Error") else float(cell)
                both_missing = math.isnan(expected) and math.isnan(value)
                difference = 0.0 if both_missing else abs(value - expected)
                compared[prefix] += 1
                differing[prefix] += not difference <= 1e-9 * max(1.0, abs(expected))
                largest[prefix] = max(largest[prefix], difference)
    return [
        [prefix.replace("_", " "), str(compared[prefix]), str(differing[prefix]), f"{largest[prefix]:.1e}"]
        for prefix in COLUMNS
    ]
