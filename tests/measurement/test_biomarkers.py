"""Biomarkers have the values that geometry says, carry units, and say why they are missing."""

import math
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from vessel_shapes import arc, bar, full_field, star, tree

from foveal.measurement.biomarkers import BIOMARKERS
from foveal.measurement.eye import Eye
from foveal.measurement.measure import biomarker_columns, measure_eye
from foveal.measurement.orientation import Orientation
from foveal.measurement.registry import Measures, register

SPACING = (0.01, 0.01)


ANGLES = tuple(f"vessel_bifurcation_angle_{name}" for name in ("median", "mean", "spread"))
TORTUOSITIES = (
    "vessel_tortuosity_distance_median",
    "vessel_tortuosity_distance_weighted",
    "vessel_tortuosity_distance_resolved_median",
    "vessel_tortuosity_index",
)
COLUMNS = biomarker_columns(("vessel",))


def measured(mask: np.ndarray, **options) -> Measures:
    return measure_eye(Eye(full_field(mask.shape), mask, **options))


def carpet(generations: int) -> np.ndarray:
    """Sierpinski carpet of side 3^generations; dimension log 8 / log 3 = 1.8928."""
    pattern = np.ones((3, 3), bool)
    pattern[1, 1] = False
    image = np.ones((1, 1), bool)
    for _ in range(generations):
        image = np.kron(image, pattern)
    return image


def test_every_biomarker_is_described():
    for name, biomarker in BIOMARKERS.items():
        assert biomarker.name == name
        assert len(biomarker.description) > 30
        assert biomarker.title
        assert biomarker.source
        assert biomarker.range
        for unit in ("px2", "mm2", "px", "mm", "um"):
            assert name.endswith(f"_{unit}") == (biomarker.unit == unit) or name == "um_per_px"


def test_bar_has_the_values_of_a_rectangle():
    mask = np.zeros((400, 400), bool)
    mask[200:205, 100:300] = True
    values = measured(mask, spacing_mm=SPACING)
    assert list(values) == [column.name for column in COLUMNS]
    assert all(
        column.biomarker.needs or column.name in ("laplacian_variance", *ANGLES)
        for column in COLUMNS
        if column.name in values.missing_reasons
    )
    assert values["vessel_area_px2"] == 1000
    assert values["vessel_area_mm2"] == pytest.approx(0.1)
    assert values["vessel_perimeter_px"] == pytest.approx(410, rel=0.06)  # worst along the axes
    assert values["vessel_length_density"] == pytest.approx(200 * 400 / 160_000, rel=0.005)
    assert values["vessel_density"] == pytest.approx(1000 / 160_000)
    assert values["vessel_length_px"] == pytest.approx(200, abs=1)
    assert values["vessel_length_field"] == pytest.approx(0.5, abs=0.0025)
    assert values["vessel_length_mm"] == pytest.approx(2.0, abs=0.01)
    for calibre in ("vessel_calibre", "vessel_calibre_median"):
        assert values[f"{calibre}_px"] == pytest.approx(5, abs=0.05)
        assert values[f"{calibre}_field"] == pytest.approx(12.5, abs=0.13)
        assert values[f"{calibre}_um"] == pytest.approx(50, abs=0.5)
    assert values["vessel_calibre_p10_field"] == pytest.approx(12.5, abs=0.13)
    assert values["vessel_calibre_p90_field"] == pytest.approx(12.5, abs=0.13)
    assert values["vessel_calibre_spread_field"] == pytest.approx(0, abs=0.05)
    for tortuosity in TORTUOSITIES:
        assert values[tortuosity] == pytest.approx(1, abs=1e-3)
    assert (values["vessel_endpoints"], values["vessel_branch_points"], values["vessel_crossings"]) == (
        2,
        0,
        0,
    )
    assert values["vessel_endpoints_per_length"] == pytest.approx(4, abs=0.02)


def test_calibre_of_two_bars_is_weighted_by_length():
    mask = np.zeros((400, 400), bool)
    mask[100:104, 50:350] = True
    mask[200:212, 100:200] = True
    values = measured(mask)
    thin, wide = 300 - 4, 100 - 12  # a half-width at each end is left out
    assert values["vessel_calibre_px"] == pytest.approx((4 * thin + 12 * wide) / (thin + wide), rel=0.02)
    assert values["vessel_calibre_median_px"] == pytest.approx(4, abs=0.05)
    assert values["vessel_calibre_p90_field"] == pytest.approx(1000 * 12 / 400, rel=0.01)


def test_tortuosity_of_a_quarter_circle():
    values = measured(arc(200, 4))
    for tortuosity in TORTUOSITIES:
        assert values[tortuosity] == pytest.approx(1.1107, rel=0.01)


def test_counts_of_a_y_and_an_x():
    fork, cross = measured(star(180, 30, -30, width=5)), measured(star(10, 70, 190, 250, width=5))
    assert (fork["vessel_endpoints"], fork["vessel_branch_points"], fork["vessel_crossings"]) == (3, 1, 0)
    assert (cross["vessel_endpoints"], cross["vessel_branch_points"], cross["vessel_crossings"]) == (4, 0, 1)
    assert fork["vessel_branch_points_per_length"] == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("mask", "dimension", "tolerance"),
    [
        (np.ones((512, 512), bool), 2, 1e-9),
        (np.ones((300, 300), bool), 2, 1e-9),
        (bar((50, 0), (50, 512), 1, 512), 1, 0.01),
        (bar((0, 0), (511, 511), 1, 512), 1, 0.01),
        (carpet(5), math.log(8) / math.log(3), 0.03),
        (carpet(6), math.log(8) / math.log(3), 0.03),
    ],
)
def test_fractal_dimension_of_known_sets(mask, dimension, tolerance):
    assert measured(mask)["vessel_fractal_dimension"] == pytest.approx(dimension, abs=tolerance)


@pytest.mark.parametrize("turn", [Orientation(*flags) for flags in product((False, True), repeat=3)])
def test_values_do_not_depend_on_how_the_image_lies(turn):
    mask = tree(6)[:350]
    expected, found = measured(mask), measured(turn.apply(mask).copy())
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=1e-10, nan_ok=True), name


def test_values_do_not_depend_on_where_the_vessels_lie():
    mask = tree(6)
    moved = np.zeros((480, 480), bool)
    moved[37:437, 61:461] = mask
    framed = np.zeros((480, 480), bool)
    framed[:400, :400] = mask
    expected, found = measured(framed), measured(moved)
    for name in expected:
        if "sparsity" in name:  # it looks at the distance to the border
            continue
        assert found[name] == pytest.approx(expected[name], rel=1e-9, nan_ok=True), name


def test_field_units_do_not_depend_on_the_resolution():
    mask = tree(4)
    first, second = measured(mask), measured(mask.repeat(2, axis=0).repeat(2, axis=1))
    for column in COLUMNS:
        if column.biomarker.unit in ("fraction", "field", "count", "1/field") and not column.biomarker.needs:
            name = column.name
            if "perimeter" in name:  # an enlarged staircase is longer than the border it stands for
                continue
            assert second[name] == pytest.approx(first[name], rel=0.02), name
    assert second["vessel_tortuosity_index"] == pytest.approx(first["vessel_tortuosity_index"], rel=0.02)


def test_vessels_outside_the_field_are_ignored():
    mask = tree(1)
    field = full_field(mask.shape)
    half = np.arange(400) < 200
    seen = replace(field, mask=np.broadcast_to(half, (400, 400)).copy())
    expected = measure_eye(Eye(seen, mask & half))
    assert measure_eye(Eye(seen, mask)) == pytest.approx(expected, nan_ok=True)


def test_unequal_spacing_measures_lengths_exactly():
    mask = np.zeros((300, 300), bool)
    mask[150, 50:250] = True
    mask[50:250, 20] = True
    assert measured(mask, spacing_mm=(0.02, 0.01))["vessel_length_mm"] == pytest.approx(4 + 2, rel=0.01)


def test_values_without_spacing_are_missing_with_the_reason():
    values = measured(tree(1))
    for column in COLUMNS:
        reason = values.missing_reasons.get(column.name)
        assert (reason is not None) == math.isnan(values[column.name])
        if column.biomarker.unit in ("mm", "mm2", "um") and not column.biomarker.needs:
            assert reason == "the scan does not say how large a pixel is, and the optic disc is not known"
        elif column.biomarker.needs:
            assert "not known" in str(reason) or reason == "the scan does not say how large a pixel is"


def test_empty_mask_has_counts_and_reasons():
    values = measured(np.zeros((80, 90), bool), spacing_mm=SPACING)
    zero = {f"vessel_{name}" for name in ("endpoints", "branch_points", "crossings", "bifurcations")}
    zero |= {
        f"vessel_{name}" for name in ("density", "area_px2", "area_mm2", "perimeter_px", "perimeter_field")
    }
    assert all(values[name] == 0 for name in zero)
    for name in set(values) - zero - {"um_per_px"}:
        assert math.isnan(values[name]), name
        assert values.missing_reasons[name]
    assert "no vessel" in values.missing_reasons["vessel_length_px"]


def test_full_mask_is_dense_and_without_lines():
    values = measured(np.ones((128, 128), bool))
    assert values["vessel_density"] == 1
    assert values["vessel_fractal_dimension"] == pytest.approx(2)
    assert math.isnan(values["vessel_length_px"])


@pytest.mark.parametrize(
    ("vessels", "options", "message"),
    [
        (np.zeros((30, 30), np.uint8), {}, "vessels must be a bool array .*uint8.*threshold"),
        (np.zeros((30, 31), bool), {}, r"vessels \(30, 31\) and the field's mask \(30, 30\)"),
        (np.zeros((30, 30), bool), {"spacing_mm": (0.0, 1.0)}, "spacing_mm must be two positive numbers"),
        (np.zeros((30, 30), bool), {"image": np.zeros((30, 30), np.uint8)}, r"image must be uint8 of shape"),
        (None, {}, "needs vessels, arteries or veins"),
    ],
)
def test_wrong_arguments_are_named(vessels, options, message):
    with pytest.raises(ValueError, match=message):
        Eye(full_field((30, 30)), vessels, **options)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'endpoints' is registered already"):
        register("endpoints", "", "count", "")(lambda m: 0.0)


def test_photograph_sized_mask_is_measured_within_a_second():
    mask = np.tile(tree(5, size=500), (3, 3))[:1444, :1444]
    measured(mask)  # compile
    start = time.process_time()
    measured(mask)
    assert time.process_time() - start < 1.0
