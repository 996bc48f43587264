"""Regions lie where anatomy says, partition their grids, and are withheld where they cannot be measured."""

import re
import time
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path
from vessel_shapes import full_field

from foveal.measurement.landmarks import Disc, Landmarks, MissingError
from foveal.measurement.orientation import Orientation
from foveal.measurement.regions import REGIONS, RegionMap
from foveal.scans.field_of_view import FieldOfView

SIDES = ("superior", "nasal", "inferior", "temporal")
SHAPE = (300, 400)
RIGHT_EYE = Landmarks(Disc((140.25, 260.5), 20.0), (150.5, 160.25))  # the fovea lies left of the disc
MM_PER_PX = 0.05  # the whole ETDRS grid has a radius of 60 px

PARTITIONS = {
    "etdrs_grid": [
        ["etdrs_center", "etdrs_inner", "etdrs_outer"],
        [f"etdrs_{side}" for side in SIDES],
        ["etdrs_center", *(f"etdrs_{ring}_{side}" for ring, side in product(("inner", "outer"), SIDES))],
    ],
    "etdrs_inner": [[f"etdrs_inner_{side}" for side in SIDES]],
    "etdrs_outer": [[f"etdrs_outer_{side}" for side in SIDES]],
    "disc_ring": [
        ["disc_ring_inner", "disc_ring_middle", "disc_ring_outer"],
        [f"disc_ring_{side}" for side in SIDES],
    ],
    "ellipse": [["ellipse_superior", "ellipse_inferior"]],
}


def round_field(shape: tuple[int, int], center: tuple[float, float], radius: float) -> FieldOfView:
    """A circular field, as much of it as the frame shows."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    mask = (row - center[0]) ** 2 + (column - center[1]) ** 2 <= radius**2
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    return FieldOfView(mask, center, 2 * radius, "circle", box, float(mask.sum() / (np.pi * radius**2)))


def laid(landmarks: Landmarks = RIGHT_EYE, field: FieldOfView | None = None, **options) -> RegionMap:
    return RegionMap(field or full_field(SHAPE), landmarks, **{"mm_per_px": MM_PER_PX, **options})


def speckle(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.4


def reason(regions: RegionMap, name: str) -> str:
    with pytest.raises(MissingError) as error:
        regions.require(name)
    return str(error.value)


def test_every_region_is_described():
    for name, region in REGIONS.items():
        assert region.name == name
        assert re.fullmatch(r"[a-z_]+", name)
        assert len(region.description) > 60
        assert region.title
        assert region.source
    assert len({region.title for region in REGIONS.values()}) == len(REGIONS)
    assert len({region.description for region in REGIONS.values()}) == len(REGIONS)


positions = st.tuples(st.floats(-30, 90), st.floats(-30, 110))


@settings(deadline=None, max_examples=60)
@given(
    disc=st.one_of(positions, st.tuples(st.integers(0, 60), st.integers(0, 80))),
    fovea=st.one_of(positions, st.tuples(st.integers(0, 60), st.integers(0, 80))),
    radius=st.floats(1, 12),
    laterality=st.sampled_from([None, "L", "R"]),
    scale=st.sampled_from([0.1, 0.125, 0.3]),
    seed=st.integers(0, 9),
)
def test_area_is_the_number_of_pixel_centres_that_a_region_contains(
    disc, fovea, radius, laterality, scale, seed
):
    assume(np.hypot(*np.subtract(disc, fovea)) > radius)
    mask = speckle((60, 80), seed)
    field = round_field((60, 80), (28.0, 41.5), 37.0)
    regions = laid(Landmarks(Disc(disc, radius), fovea, laterality), field, mm_per_px=scale)
    points = np.argwhere(mask & field.mask)
    for name in REGIONS:
        inside = regions.contains(name, points)
        assert regions.area(name, mask) == np.count_nonzero(inside)
        np.testing.assert_array_equal(regions.select(name)[tuple(points.T)], inside)
        assert not regions.select(name)[~field.mask].any()


@pytest.mark.parametrize("whole", PARTITIONS)
def test_parts_cover_a_region_once(whole):
    regions, mask = laid(), speckle()
    for parts in PARTITIONS[whole]:
        covered = sum(regions.select(part).astype(int) for part in parts)
        np.testing.assert_array_equal(covered, regions.select(whole))
        assert sum(regions.area(part, mask) for part in parts) == regions.area(whole, mask) > 0


def test_masks_are_counted_each_for_itself():
    regions = laid()
    for seed in range(5):  # made and dropped in turn, so that their memory may be used again
        mask = speckle(seed=seed)
        expected = np.count_nonzero(mask & regions.select("ellipse"))
        assert regions.area("ellipse", mask) == regions.area("ellipse", mask) == expected


def test_hemifields_cover_the_field_once():
    field = round_field(SHAPE, (150.0, 200.0), 140.0)
    regions = laid(field=field)
    covered = regions.select("hemifield_superior").astype(int) + regions.select("hemifield_inferior")
    np.testing.assert_array_equal(covered, field.mask)
    covered = regions.select("hemifield_temporal").astype(int) + regions.select("hemifield_nasal")
    np.testing.assert_array_equal(covered, field.mask)


def test_temporal_side_of_the_disc_is_that_of_the_fovea():
    regions = laid()
    assert regions.contains("hemifield_temporal", [RIGHT_EYE.fovea, (140.0, 300.0)]).tolist() == [True, False]
    assert regions.contains("hemifield_nasal", [RIGHT_EYE.fovea, (140.0, 300.0)]).tolist() == [False, True]
    assert "optic disc is not known" in reason(
        laid(Landmarks(fovea=(150, 160), laterality="R")), "hemifield_nasal"
    )
    assert "laterality" in reason(laid(Landmarks(RIGHT_EYE.disc)), "hemifield_temporal")


def test_rings_have_the_radii_of_their_definition():
    regions = laid()
    distance = RIGHT_EYE.disc_fovea_distance
    areas = {
        "etdrs_center": np.pi * 10**2,
        "etdrs_inner": np.pi * (30**2 - 10**2),
        "etdrs_outer_nasal": np.pi * (60**2 - 30**2) / 4,
        "disc_ring": np.pi * ((20 + 0.6 * distance) ** 2 - 20**2),
        "disc_ring_middle": np.pi * ((20 + 0.4 * distance) ** 2 - (20 + 0.2 * distance) ** 2),
        "ellipse": np.pi * 1.5 * (distance / 2 + 20) ** 2,
    }
    for name, area in areas.items():
        assert regions.area(name, np.ones(SHAPE, bool)) == pytest.approx(area, rel=0.01)
        assert regions.visible(name) == pytest.approx(1, abs=0.01)
        assert regions.visible(name) <= 1


def test_sides_of_a_right_eye():
    fovea, disc = np.array(RIGHT_EYE.fovea), np.array(RIGHT_EYE.disc.center)
    up, left = np.array([-1, 0]), np.array([0, -1])
    ways = {"superior": up, "nasal": -left, "inferior": -up, "temporal": left}
    regions = laid()
    for side, way in ways.items():
        for other in SIDES:
            expected = [side == other]
            assert regions.contains(f"etdrs_{other}", [fovea + 5 * way]) == expected
            assert regions.contains(f"etdrs_inner_{other}", [fovea + 20 * way]) == expected
            assert regions.contains(f"etdrs_outer_{other}", [fovea + 50 * way]) == expected
            assert regions.contains(f"disc_ring_{other}", [disc + 40 * way]) == expected
    for center in (fovea, disc, (fovea + disc) / 2):
        for half, part in product(("superior", "inferior"), ("hemifield", "ellipse")):
            assert regions.contains(
                f"{part}_{half}", [center + 5 * ways[half], center - 5 * ways[half]]
            ).tolist() == [
                True,
                False,
            ]


@pytest.mark.parametrize("flags", list(product((False, True), repeat=3)))
def test_areas_do_not_depend_on_how_the_photograph_lies(flags):
    """Mirrored with its laterality, or turned by quarters: every named area stays what it was."""
    turn = Orientation(*flags)
    field = round_field(SHAPE, (150.5, 190.0), 170.25)
    mask = speckle()

    def turned_point(point: tuple[float, float]) -> tuple[float, float]:
        row, column = point[::-1] if turn.transpose else point
        height, width = turn.apply(mask).shape
        return (
            height - 1 - row if turn.flip_rows else row,
            width - 1 - column if turn.flip_columns else column,
        )

    mirrored = sum(flags) % 2 == 1
    landmarks = Landmarks(
        Disc(turned_point(RIGHT_EYE.disc.center), RIGHT_EYE.disc.radius),
        turned_point(RIGHT_EYE.fovea),
        "L" if mirrored else "R",
    )
    turned_mask = np.ascontiguousarray(turn.apply(mask))
    turned_field = round_field(turned_mask.shape, turned_point(field.center), field.diameter / 2)
    regions, turned = laid(field=field), laid(landmarks, turned_field)
    for name in REGIONS:
        assert turned.area(name, turned_mask) == regions.area(name, mask) > 0
        assert turned.visible(name) == pytest.approx(regions.visible(name), abs=1e-9)


@pytest.mark.parametrize("degrees", [-160, -37, 8, 100])
def test_regions_turn_with_the_disc_fovea_axis(degrees):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.random.default_rng(1).uniform((0, 0), SHAPE, (3000, 2))
    fovea, center = rotation @ RIGHT_EYE.fovea, rotation @ RIGHT_EYE.disc.center
    turned = laid(Landmarks(Disc(tuple(center), 20.0), tuple(fovea), "R"))
    regions = laid()
    for name in REGIONS:
        np.testing.assert_array_equal(
            turned.contains(name, points @ rotation.T), regions.contains(name, points), err_msg=name
        )


def test_without_laterality_the_photograph_is_upright():
    for fovea_column in (160.0, 360.0):
        regions = laid(Landmarks(Disc((140.0, 260.0), 20.0), (150.0, fovea_column)))
        assert regions.contains("hemifield_superior", [[50.0, 260.0], [250.0, 260.0]]).tolist() == [
            True,
            False,
        ]


def test_outlines_enclose_the_selected_pixels():
    regions = laid(field=round_field(SHAPE, (150.0, 200.0), 180.0))
    pixels = np.argwhere(np.ones(SHAPE))
    for name in REGIONS:
        enclosed = np.zeros(SHAPE, bool)
        for polygon in regions.outline(name):
            enclosed ^= Path(polygon).contains_points(pixels).reshape(SHAPE)
        selected = regions.select(name)
        differing = (enclosed & regions.field.mask) ^ selected
        assert differing.sum() <= 0.03 * selected.sum() + 4, name


def test_outline_of_a_ring_is_two_circles():
    outer, inner = laid().outline("etdrs_inner")
    assert np.hypot(*(outer - RIGHT_EYE.fovea).T) == pytest.approx(30)
    assert np.hypot(*(inner - RIGHT_EYE.fovea).T) == pytest.approx(10)


def test_a_region_less_than_half_visible_is_withheld():
    # The frame ends 10 px left of the fovea: of a circle of 60 px radius a segment is missing.
    regions = laid(Landmarks(fovea=(150.0, 9.5), laterality="R"))
    segment = 60**2 * np.arccos(10 / 60) - 10 * np.sqrt(60**2 - 10**2)
    assert regions.visible("etdrs_grid") == pytest.approx(1 - segment / (np.pi * 60**2), abs=2e-3)
    for name in ("etdrs_grid", "etdrs_nasal", "etdrs_superior", "etdrs_center"):
        regions.require(name)
    found = re.fullmatch(
        r"only (\d+) % of the temporal quadrant of the ETDRS grid is visible; at least 50 % is needed",
        reason(regions, "etdrs_temporal"),
    )
    assert int(found[1]) == int(100 * regions.visible("etdrs_temporal")) < 50
    assert reason(regions, "etdrs_outer_temporal").startswith("only 0 % of the outer temporal sub-field")


@pytest.mark.parametrize(("column", "enough"), [(3.0, True), (-3.0, False)])
def test_half_is_the_least_that_must_be_visible(column, enough):
    regions = laid(Landmarks(fovea=(150.0, column)))
    assert regions.visible("etdrs_grid") == pytest.approx(0.5 + column / 60 * 2 / np.pi, abs=0.01)
    if enough:
        regions.require("etdrs_grid")
    else:
        assert reason(regions, "etdrs_grid").startswith("only 47 % of the whole ETDRS grid")


def test_what_the_field_hides_is_not_visible():
    field = full_field(SHAPE)
    hidden = FieldOfView(
        field.mask & (np.arange(400) >= 161), field.center, 400, "rectangle", (0, 161, 300, 400), 1.0
    )
    regions = laid(Landmarks(fovea=(150.0, 160.5), laterality="R"), hidden)
    assert regions.visible("etdrs_grid") == pytest.approx(0.5, abs=0.01)
    assert regions.visible("etdrs_temporal") == 0
    assert regions.visible("etdrs_nasal") == pytest.approx(1, abs=0.01)


def test_fovea_outside_the_frame():
    landmarks = Landmarks(Disc((150.0, 60.0), 20.0), (150.0, -45.0), "R")
    regions, wider = laid(landmarks), laid(Landmarks(Disc((150.0, 260.0), 20.0), (150.0, 155.0), "R"))
    assert reason(regions, "etdrs_grid").startswith("only ")
    assert regions.contains("etdrs_center", [[150.0, -45.0]]).tolist() == [True]
    assert regions.area("etdrs_center", np.ones(SHAPE, bool)) == 0
    shown = wider.select("disc_ring")[:, 200:].sum() / wider.select("disc_ring").sum()
    assert regions.visible("disc_ring") == pytest.approx(shown, abs=0.01)
    regions.require("hemifield_superior")


def test_hemifield_is_measured_against_its_half_of_the_circle():
    # A circle of radius 150 whose uppermost 90 rows are outside the frame, halved by its level diameter.
    field = round_field((210, 300), (59.5, 149.5), 150.0)
    regions = laid(Landmarks(Disc((59.5, 250.0), 20.0), (59.5, 150.0)), field)
    segment = 150**2 * np.arccos(60 / 150) - 60 * np.sqrt(150**2 - 60**2)
    half = np.pi * 150**2 / 2
    assert regions.visible("hemifield_superior") == pytest.approx(1 - segment / half, abs=5e-3)
    assert regions.visible("hemifield_inferior") == pytest.approx(1, abs=5e-3)


def test_hemifield_beyond_the_field_is_not_visible():
    regions = laid(Landmarks(Disc((-40.0, 200.0), 20.0)), round_field(SHAPE, (150.0, 200.0), 100.0))
    assert regions.visible("hemifield_superior") == 0
    assert regions.visible("hemifield_inferior") == pytest.approx(1, abs=0.01)
    assert regions.outline("hemifield_superior")[0].shape == (0, 2)


@pytest.mark.parametrize(
    "landmarks", [Landmarks(Disc((120.0, 260.0), 20.0)), Landmarks(fovea=(120.0, 260.0))]
)
def test_hemifields_lie_about_the_level_where_one_landmark_is_known(landmarks):
    regions = laid(landmarks)
    assert (
        regions.area("hemifield_inferior", np.ones(SHAPE, bool)) == 180 * 400
    )  # the level itself is inferior
    assert regions.area("hemifield_superior", np.ones(SHAPE, bool)) == 120 * 400
    regions.require("hemifield_superior")


@pytest.mark.parametrize("name", REGIONS)
def test_nothing_known_is_a_reason(name):
    regions = RegionMap(full_field(SHAPE), Landmarks(), mm_per_px=None)
    assert reason(regions, name).endswith("known")
    for method in (regions.visible, regions.select, regions.outline):
        with pytest.raises(MissingError, match="known"):
            method(name)


def test_missing_reasons_name_what_is_missing():
    disc, fovea = RIGHT_EYE.disc, RIGHT_EYE.fovea
    assert reason(laid(Landmarks(disc)), "etdrs_grid") == "the fovea is not known"
    assert reason(laid(Landmarks(disc)), "disc_ring") == "the fovea is not known"
    assert reason(laid(Landmarks(fovea=fovea)), "ellipse") == "the optic disc is not known"
    assert reason(laid(mm_per_px=None), "etdrs_inner") == "the scale in millimetres is not known"
    assert reason(laid(Landmarks(fovea=fovea)), "etdrs_nasal") == (
        "neither the laterality nor both disc and fovea are known"
    )
    overlapping = laid(Landmarks(Disc(fovea, 20.0), fovea))
    assert "the fovea lies within the optic disc" in reason(overlapping, "disc_ring")


def test_superior_needs_no_laterality():
    regions = laid(Landmarks(fovea=RIGHT_EYE.fovea))
    sided = laid(Landmarks(fovea=RIGHT_EYE.fovea, laterality="L"))
    for name in ("etdrs_grid", "etdrs_superior", "etdrs_inner_inferior"):
        np.testing.assert_array_equal(regions.select(name), sided.select(name))


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="unknown region 'etdrs_centre'; did you mean 'etdrs_center'"):
        laid(names=["ellipse", "etdrs_centre"])
    regions = laid(names=["ellipse"])
    assert regions.names == ("ellipse",)
    with pytest.raises(ValueError, match=r"unknown region 'disc_ring'; allowed: ellipse$"):
        regions.visible("disc_ring")


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="mm_per_px must be a positive number or None"):
        laid(mm_per_px=scale)


@pytest.mark.parametrize("mask", [np.zeros(SHAPE, np.uint8), np.zeros((300, 399), bool)])
def test_mask_must_fit_the_field(mask):
    with pytest.raises(ValueError, match=r"mask must be a bool array of the field's shape \(300, 400\)"):
        laid().area("ellipse", mask)


def test_a_grid_is_laid_and_counted_in_milliseconds():
    size = 1444
    field = round_field((size, size), (721.5, 721.5), 710.0)
    landmarks = Landmarks(Disc((690.0, 1080.0), 90.0), (750.0, 600.0))
    mask = speckle((size, size))
    names = [name for name in REGIONS if name.startswith("disc_ring")]
    times = []
    for _ in range(6):
        regions = laid(landmarks, field, mm_per_px=0.01)
        times.append(time.perf_counter())
        for name in names:
            regions.require(name)
            regions.area(name, mask)
        times.append(time.perf_counter())
    assert min(stop - start for start, stop in list(pairwise(times))[::2]) < 0.02
