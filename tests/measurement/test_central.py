"""Equivalents, circles, arcades, sparsity: values that geometry says."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vessel_shapes import bar, full_field

from foveal.measurement.circles import circle_crossings
from foveal.measurement.equivalents import hubbard_equivalent, knudtson_equivalent
from foveal.measurement.eye import Eye
from foveal.measurement.landmarks import Disc, Landmarks
from foveal.measurement.measure import biomarker_columns, measure_eye
from foveal.measurement.measured import VesselMeasurement
from foveal.measurement.regions import REGIONS
from foveal.scans.synthetic import synthesize_eye

CENTER = (300.0, 300.0)
DISC = Disc(CENTER, 60.0)
WIDTHS = st.lists(st.floats(1, 200), min_size=1, max_size=12)


def spokes(widths: dict[float, float], length: float = 280, size: int = 600) -> np.ndarray:
    """Vessels from the centre outwards: width by direction in degrees (0 right, 90 down)."""
    mask = np.zeros((size, size), bool)
    for degrees, width in widths.items():
        angle = np.deg2rad(degrees)
        mask |= bar(
            CENTER, (CENTER[0] + length * np.sin(angle), CENTER[1] + length * np.cos(angle)), width, size
        )
    return mask


def spoked_eye(arteries: dict[float, float], veins: dict[float, float], **landmarks) -> Eye:
    field = full_field((600, 600))
    return Eye(
        field, arteries=spokes(arteries), veins=spokes(veins), landmarks=Landmarks(disc=DISC, **landmarks)
    )


@pytest.mark.parametrize(
    ("combine", "kind", "widths", "expected"),
    [
        (knudtson_equivalent, "artery", range(10, 21, 2), 26.884),
        (knudtson_equivalent, "artery", [100] * 6, 174.843),
        (knudtson_equivalent, "vein", range(10, 21, 2), 32.879),
        (knudtson_equivalent, "vein", [100] * 6, 213.761),
        (hubbard_equivalent, "artery", range(10, 21, 2), 29.817),
        (hubbard_equivalent, "artery", [100] * 6, 193.709),
        (hubbard_equivalent, "vein", range(10, 21, 2), 52.386),
        (hubbard_equivalent, "vein", [100] * 6, 194.332),
    ],
)
def test_equivalents_have_the_values_of_the_package(combine, kind, widths, expected):
    assert combine(np.array(widths, float), kind) == pytest.approx(expected, abs=5e-4)


@given(WIDTHS, st.sampled_from(["artery", "vein"]), st.floats(0.1, 10))
def test_knudtson_is_homogeneous_and_blind_to_order_and_to_small_vessels(widths, kind, scale):
    values = np.array(widths)
    expected = knudtson_equivalent(values, kind)
    assert knudtson_equivalent(scale * values[::-1], kind) == pytest.approx(scale * expected)
    assert knudtson_equivalent(np.sort(values)[-6:], kind) == pytest.approx(expected)


def test_hubbard_is_not_homogeneous():
    widths = np.array([60.0, 80, 90, 100, 110, 120])
    for kind in ("artery", "vein"):
        assert hubbard_equivalent(2 * widths, kind) != pytest.approx(
            2 * hubbard_equivalent(widths, kind), abs=1e-3
        )
    assert len({hubbard_equivalent(np.array(order), "vein") for order in permutations(widths[:4])}) == 1


def test_fewer_than_six_vessels_are_combined_and_none_is_missing():
    assert (
        knudtson_equivalent(np.array([7.0]), "vein") == hubbard_equivalent(np.array([7.0]), "artery") == 7.0
    )
    assert np.isnan(knudtson_equivalent(np.zeros(0), "vein"))
    with pytest.raises(ValueError, match="positive"):
        knudtson_equivalent(np.array([3.0, -1]), "vein")
    with pytest.raises(ValueError, match="'artery' or 'vein', got 'vessel'"):
        knudtson_equivalent(np.array([3.0]), "vessel")  # type: ignore[arg-type]


def test_circles_find_each_vessel_once_with_its_width():
    widths = {20.0: 6.0, 75.0: 9.0, 140.0: 5.0, 200.0: 12.0, 290.0: 7.0}
    m = VesselMeasurement(spoked_eye(widths, {0: 5}).layers["artery"])
    found = circle_crossings(m, np.array([130.0, 160.0]))
    assert np.bincount(found.circles).tolist() == [5, 5]
    for circle in (0, 1):
        here = found.circles == circle
        assert np.sort(found.widths[here]) == pytest.approx(sorted(widths.values()), abs=0.4)
        assert np.hypot(*(found.points[here] - CENTER).T) == pytest.approx(
            np.full(5, found.radii[circle]), abs=0.1
        )


def test_equivalent_and_ratio_are_those_of_the_drawn_widths():
    arteries = {15.0: 8, 65.0: 9, 110.0: 7, 165.0: 10, 215.0: 6, 250.0: 8, 320.0: 5}
    veins = {40.0: 11, 90.0: 12, 140.0: 10, 190.0: 13, 235.0: 9, 280.0: 12}
    values = measure_eye(spoked_eye(arteries, veins))
    artery = knudtson_equivalent(np.array(list(arteries.values()), float), "artery")
    vein = knudtson_equivalent(np.array(list(veins.values()), float), "vein")
    assert values["artery_equivalent_knudtson_px"] == pytest.approx(artery, rel=0.03)
    assert values["vein_equivalent_knudtson_px"] == pytest.approx(vein, rel=0.03)
    assert values["avr_knudtson"] == pytest.approx(artery / vein, rel=0.03)
    # 1800 um over the disc's 120 px.
    assert values["um_per_px"] == pytest.approx(15)
    assert values["vein_equivalent_knudtson_um"] == pytest.approx(15 * vein, rel=0.03)
    assert values["artery_start_points"] == len(arteries)
    assert values["artery_endpoints"] == len(arteries)


def test_equivalents_are_missing_with_the_reason():
    values = measure_eye(Eye(full_field((600, 600)), spokes({0: 5, 90: 5})))
    assert "not known apart" in values.missing_reasons["avr_knudtson"]
    lonely = measure_eye(spoked_eye({0.0: 5}, {0.0: 5, 90.0: 7}))
    assert "fewer than two vessels" in lonely.missing_reasons["artery_equivalent_knudtson_px"]
    far = replace(spoked_eye({0.0: 5}, {90.0: 7}), landmarks=Landmarks(Disc((20.0, 20.0), 200.0)))
    assert "less than half of every circle" in measure_eye(far).missing_reasons["vein_equivalent_knudtson_px"]


@pytest.mark.parametrize("opening", [90.0, 130.0, 180.0, 210.0])
@pytest.mark.parametrize("side", ["L", "R"])
def test_temporal_angle_is_the_opening_of_the_arcades(opening, side):
    temporal = 0.0 if side == "L" else 180.0
    widths = {
        temporal - opening / 2: 9.0,
        temporal + opening / 2: 10.0,
        temporal - 20: 4.0,
        temporal + 180: 8.0,
    }
    fovea = (CENTER[0], CENTER[1] + (240 if side == "L" else -240))
    values = measure_eye(spoked_eye(widths, {90.0: 5}, fovea=fovea))
    assert values["artery_temporal_angle"] == pytest.approx(opening, abs=1)
    assert "no pair" in values.missing_reasons["vein_temporal_angle"]


def test_sparsity_of_parallel_vessels():
    mask = np.zeros((601, 601), bool)
    mask[::60] = True
    values = measure_eye(Eye(full_field(mask.shape), mask))
    # Between two rows 60 px apart the distance rises to 30 and falls again.
    assert values["vessel_sparsity_max_field"] == pytest.approx(1000 * 30 / 601, rel=0.01)
    assert values["vessel_sparsity_mean_field"] == pytest.approx(1000 * 900 / 59 / 601, rel=0.05)


def test_all_columns_are_measured_on_a_synthetic_eye_and_add_up():
    eye = synthesize_eye(5, size=900)
    labels = eye.artery_vein
    known = Eye(
        eye.field,
        eye.vessels,
        np.isin(labels, (1, 3)),
        np.isin(labels, (2, 3)),
        Landmarks(Disc(eye.disc.center, eye.disc.radius), eye.fovea, eye.laterality),
        image=eye.image,
    )
    regions = tuple(REGIONS)
    values = measure_eye(known, regions=regions)
    assert list(values) == [column.name for column in biomarker_columns(regions=regions)]
    assert values.missing_reasons["disc_fovea_distance_mm"] == "the scan does not say how large a pixel is"
    whole = {name: value for name, value in values.items() if not name.endswith(regions)}
    assert [name for name, value in whole.items() if np.isnan(value)] == ["disc_fovea_distance_mm"]
    for kind in ("vessel", "artery", "vein"):
        halves = [values[f"{kind}_length_field_hemifield_{half}"] for half in ("superior", "inferior")]
        assert sum(halves) == pytest.approx(values[f"{kind}_length_field"])
    assert 0.4 < values["avr_knudtson"] < 1.0
    true = eye.laterality
    assert replace(known.landmarks, laterality=None).side == true


def test_regions_do_not_change_what_is_measured_everywhere():
    eye = synthesize_eye(6, size=700)
    known = Eye(
        eye.field, eye.vessels, landmarks=Landmarks(Disc(eye.disc.center, eye.disc.radius), eye.fovea)
    )
    plain, regional = measure_eye(known), measure_eye(known, regions=("etdrs_grid", "hemifield_superior"))
    assert {name: regional[name] for name in plain} == pytest.approx(plain, nan_ok=True)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="unknown region 'etdrs_gird'; did you mean 'etdrs_grid'"):
        biomarker_columns(regions=("etdrs_gird",))
    with pytest.raises(ValueError, match="unknown kind 'arteries'"):
        biomarker_columns(("arteries",))  # type: ignore[arg-type]
