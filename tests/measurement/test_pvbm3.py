"""The PVBM mode has the package's numbers, shows its quirks, and does not break where the package does."""

import resource
from pathlib import Path

import numpy as np
import pytest
from pvbm3_reference import kept_values, measured_values
from reference_masks import ReferenceMask, drawn_masks, photograph_masks
from vessel_shapes import arc, tree

from foveal.kernels.thinning import thin
from foveal.measurement.landmarks import Disc
from foveal.measurement.pvbm3 import (
    PVBM3_FAMILIES,
    calibre_zone,
    geometry_zone,
    measure_equivalents,
    measure_fractals,
    measure_geometry,
    measure_legacy_geometry,
    measure_pvbm3,
    whole_pixel_disc,
)

DRAWN = kept_values("pvbm-3.0.1.8-drawn.csv")
PHOTOGRAPHS = kept_values("pvbm-3.0.1.8-photographs.csv")


@pytest.fixture(scope="module")
def drawn() -> dict[str, ReferenceMask]:
    return {reference.name: reference for reference in drawn_masks()}


def assert_equals_kept(reference: ReferenceMask, kept: dict[str, str]) -> None:
    assert kept["digest"] == reference.digest, "the mask is not the one that the values were computed on"
    # Where the package stops with an error, this has no value.
    expected = {
        name: float("nan") if cell.endswith("Error") else float(cell)
        for name, cell in kept.items()
        if "." in name and cell
    }
    assert len(expected) > 20
    found = measured_values(reference, expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_masks_have_the_values_of_the_package(name: str, drawn: dict[str, ReferenceMask]) -> None:
    assert_equals_kept(drawn[name], DRAWN[name])


def test_photographs_have_the_values_of_the_package(data_root: Path) -> None:
    """Every ninth of the kept rows, for time."""
    names = set(list(PHOTOGRAPHS)[::9])
    for reference in photograph_masks(data_root):
        if reference.name in names:
            assert_equals_kept(reference, PHOTOGRAPHS[reference.name])
            names.remove(reference.name)
    assert not names, "these are not among the photographs"


def capsule(start: tuple[float, float], end: tuple[float, float], radius: float, size: int) -> np.ndarray:
    """Pixels whose centre is not farther than the radius from a segment."""
    row, column = np.mgrid[:size, :size] - np.array(start, float)[:, None, None]
    axis = np.subtract(end, start)
    along = np.clip((row * axis[0] + column * axis[1]) / (axis**2).sum(), 0, 1)
    return np.hypot(row - along * axis[0], column - along * axis[1]) <= radius


@pytest.fixture(scope="module")
def fork() -> np.ndarray:
    """A trunk and two daughters of 150 pixels at 30 degrees to either side of its direction."""
    mask = capsule((256, 120), (256, 280), 5, 512)
    for side in (-1, 1):
        end = (256 + side * 150 * np.sin(np.pi / 6), 280 + 150 * np.cos(np.pi / 6))
        mask |= capsule((256, 280), end, 4, 512)
    return mask


def test_fork_has_the_geometry_of_the_package(fork: np.ndarray) -> None:
    found = measure_geometry(fork, thin(fork), Disc((256, 80), 40))
    assert (found.area, found.start_points, found.end_points, found.intersections) == (4210, 1, 2, 1)
    assert found.tortuosity_index == pytest.approx(1.0474628488318787, rel=1e-12)
    assert found.median_tortuosity == pytest.approx(1.0756567682213096, rel=1e-12)
    assert found.length == pytest.approx(458.1614716074871, rel=1e-12)
    assert found.branching_angle == pytest.approx(65.05915764465247, rel=1e-12)
    np.testing.assert_array_equal(
        found.branches,
        [[(256, 120), (256, 283)], [(256, 283), (186, 401)], [(256, 283), (326, 401)]],
    )
    np.testing.assert_array_equal(found.angle_arms, [[(237, 312), (256, 283), (274, 312)]])


def test_fork_has_the_legacy_geometry_of_the_package(fork: np.ndarray) -> None:
    found = measure_legacy_geometry(fork, thin(fork))
    assert (found.area, found.end_points, found.intersections) == (4210, 3, 3)
    assert found.perimeter == pytest.approx(979.0924958366747, rel=1e-12)
    assert found.tortuosity == pytest.approx(1.072052660941496, rel=1e-12)
    assert found.length == pytest.approx(455.7554285790619, rel=1e-12)
    assert found.arcs == pytest.approx([156.65180361560908, 163, 157.65180361560908])
    assert found.branching_angle_median == pytest.approx(70.82967315283695, rel=1e-12)
    assert (found.branching_angle_sd, len(found.angles)) == (0, 1)
    assert {tuple(place) for place in found.angle_arms[0].tolist()} == {(256, 284), (269, 302), (242, 304)}


def test_fork_has_the_fractals_and_the_equivalent_of_the_package(fork: np.ndarray) -> None:
    for options, expected in (
        ({}, (1.23976965, 1.17019988, 1.1334099, 1.07891609)),
        ({"occupancy": (1e-4, 0.9999)}, (1.04563681, 1.01288978, 1.00821462, 0.84285673)),
        ({"rotations": 1}, (1.10761212, 1.05674309, 1.04083136, 0.83579813)),
    ):
        found = measure_fractals(fork, **options)
        assert (found.d0, found.d1, found.d2, found.singularity_length) == pytest.approx(expected, abs=1e-8)
    vessel = measure_equivalents(fork, thin(fork), Disc((256, 80), 40), "artery")
    assert (vessel.knudtson, vessel.hubbard, vessel.counts.tolist()) == (10, 10, [71])
    np.testing.assert_array_equal((vessel.starts, vessel.ends), [[(256, 130)], [(256, 201)]])


def test_values_depend_on_the_order_of_neighbours() -> None:
    """The same skeleton turned, not made anew: only the order in which pixels are met differs."""
    mask = tree(5, size=300, generations=4)
    skeleton = thin(mask)
    upright = measure_geometry(mask, skeleton, Disc((150, 10), 60))
    turned = measure_geometry(np.rot90(mask), np.rot90(skeleton), Disc((289, 150), 60))
    assert (upright.area, upright.start_points) == (turned.area, turned.start_points)
    assert upright.length != pytest.approx(turned.length, rel=1e-3)
    legacy = measure_legacy_geometry(mask, skeleton)
    legacy_turned = measure_legacy_geometry(np.rot90(mask), np.rot90(skeleton))
    assert (legacy.end_points, legacy.intersections) == (
        legacy_turned.end_points,
        legacy_turned.intersections,
    )
    assert legacy.branching_angle_median != pytest.approx(legacy_turned.branching_angle_median, abs=1)


def test_a_line_loses_its_last_nine_pixels() -> None:
    line = np.zeros((60, 200), bool)
    line[30, 20:180] = True
    found = measure_geometry(line, line, Disc((30, 0), 10))
    np.testing.assert_array_equal(found.branches, [[(30, 20), (30, 170)]])
    assert found.length == 150


def test_intersections_of_the_first_generation_are_clusters() -> None:
    cross = np.zeros((101, 101), bool)
    cross[50] = cross[:, 50] = True
    assert measure_legacy_geometry(cross, cross).intersections == 5


def test_an_empty_mask_has_nothing_to_measure() -> None:
    values = measure_pvbm3(np.zeros((80, 90), bool), disc=Disc((40, 40), 10), kind="vein")
    counted = ("area", "points", "intersections", "perimeter")
    for name, value in values.items():
        if name.startswith("equivalent"):
            assert value == -1
        elif name.endswith(counted) or name in ("length", "legacy_length"):
            assert value == 0, name
        else:
            assert np.isnan(value), name


def test_a_closed_ring_has_one_end_where_the_walk_bites_its_tail() -> None:
    ring = arc(60, 7, quarter=False)
    found = measure_geometry(ring, thin(ring), Disc((150, 90), 30))
    assert (found.start_points, found.end_points, found.intersections) == (1, 1, 0)
    legacy = measure_legacy_geometry(ring, thin(ring))
    assert (legacy.end_points, legacy.intersections, legacy.length) == (0, 0, 0)
    assert np.isnan(legacy.tortuosity)


def test_a_loop_back_to_the_same_pixel_is_no_segment() -> None:
    loop = np.zeros((50, 50), bool)
    row, column = np.mgrid[:50, :50]
    loop[np.abs(row - 25) + np.abs(column - 25) == 12] = True
    loop[5:13, 25] = True
    found = measure_legacy_geometry(loop, loop)
    assert (found.end_points, found.intersections, found.length) == (1, 1, 0)
    assert np.isnan(found.tortuosity)


def test_vessels_may_touch_the_border() -> None:
    bands = np.zeros((200, 200), bool)
    bands[:6] = bands[-6:] = bands[:, :6] = bands[:, -6:] = bands[97:103] = True
    values = measure_pvbm3(bands, disc=Disc((100, 60), 20), kind="artery", max_roi=np.inf)
    assert values["start_points"] >= 1
    assert values["legacy_perimeter"] > 0
    assert all(np.isfinite(values[name]) for name in PVBM3_FAMILIES["fractals"])


def test_single_pixels_are_no_vessels() -> None:
    specks = np.zeros((150, 150), bool)
    specks[::3, ::3] = True
    values = measure_pvbm3(specks, disc=Disc((75, 75), 20), kind="artery")
    assert (values["start_points"], values["end_points"], values["length"]) == (0, 0, 0)
    assert (values["legacy_end_points"], values["legacy_perimeter"], values["legacy_length"]) == (0, 0, 0)
    assert values["equivalent_knudtson"] == -1


def test_large_masks_need_neither_recursion_nor_much_memory() -> None:
    """One vessel that winds through 3000 x 3000 pixels: the package recurses a thousand times that limit."""
    mask = np.zeros((3000, 3000), bool)
    for turn, row in enumerate(range(20, 2980, 20)):
        mask[row - 1 : row + 2, 20:2980] = True
        side = 2976 if turn % 2 == 0 else 20
        mask[row : row + 20, side : side + 4] = row + 20 < 2980
    values = measure_pvbm3(mask, disc=Disc((20, 10), 15), kind="artery", max_roi=np.inf, rotations=2)
    assert (values["start_points"], values["end_points"], values["intersections"]) == (1, 1, 0)
    assert values["length"] > 148 * 2900
    assert all(np.isfinite(values[name]) for name in PVBM3_FAMILIES["fractals"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB on Linux


def test_zones_are_filled_circles_of_whole_pixels() -> None:
    disc = whole_pixel_disc(Disc((50.9, 60.2), 10.7))
    assert disc == Disc((50.0, 60.0), 10.0)
    zone, calibre = geometry_zone((120, 130), disc, max_roi=30.9), calibre_zone((120, 130), disc)
    row, column = np.mgrid[:120, :130]
    squared = (row - 50) ** 2 + (column - 60) ** 2
    np.testing.assert_array_equal(zone, (squared > 100) & (squared <= 900))
    np.testing.assert_array_equal(calibre, (squared > 400) & (squared <= 900))
    assert geometry_zone((120, 130), disc, max_roi=np.inf).sum() == (squared > 100).sum()


def test_everything_at_once_equals_the_single_functions(drawn: dict[str, ReferenceMask]) -> None:
    reference = drawn["large-tree-14"]
    disc, kept = Disc(reference.disc[:2], reference.disc[2]), DRAWN[reference.name]
    values = measure_pvbm3(reference.mask, disc=disc, kind="vein", max_roi=reference.region_radius)
    assert list(values) == [name for names in PVBM3_FAMILIES.values() for name in names]
    for name, column in (
        ("area", "geometry.area"),
        ("branching_angle", "geometry.median_angle"),
        ("start_points", "geometry.starts"),
        ("legacy_perimeter", "old.perimeter"),
        ("legacy_branching_angle_sd", "old_angles.standard_deviation"),
        ("equivalent_knudtson", "equivalents.vein_knudtson"),
        ("equivalent_hubbard", "equivalents.vein_hubbard"),
    ):
        assert values[name] == pytest.approx(float(kept[column]), rel=1e-9), name
    zone = geometry_zone(reference.mask.shape, disc, max_roi=reference.region_radius)
    assert values["d0"] == measure_fractals(reference.mask & zone).d0


def test_without_a_disc_what_needs_one_is_missing(drawn: dict[str, ReferenceMask]) -> None:
    mask = drawn["tree-0"].mask
    values = measure_pvbm3(mask, disc=None, kind="artery")
    assert values["area"] == mask.sum()
    assert values["d0"] == pytest.approx(float(DRAWN["tree-0"]["fractals.d0"]), rel=1e-9)
    missing = {name for name, value in values.items() if np.isnan(value)}
    assert missing == {*PVBM3_FAMILIES["geometry"][1:], *PVBM3_FAMILIES["equivalents"]}


def test_only_the_chosen_families_are_measured() -> None:
    mask = tree(5)
    values = measure_pvbm3(mask, disc=Disc((200, 10), 60), families=["equivalents", "geometry"])
    assert list(values) == [*PVBM3_FAMILIES["geometry"], *PVBM3_FAMILIES["equivalents"]]
    assert np.isnan(values["equivalent_knudtson"]), "there is no formula for all vessels together"


def test_hubbards_formula_in_pixels_has_no_value_for_thin_arteries() -> None:
    thin_bars = np.zeros((200, 200), bool)
    thin_bars[60:63, 100:] = thin_bars[130:133, 100:] = True
    found = measure_equivalents(thin_bars, thin(thin_bars), Disc((97, 97), 40), "artery")
    np.testing.assert_array_equal(found.widths, [2, 2])
    assert found.knudtson == pytest.approx(0.88 * np.sqrt(8))
    assert np.isnan(found.hubbard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((9, 9))}, r"bool array \(H, W\), got float64"),
        ({"kind": "capillary"}, "'vessel', 'artery' or 'vein', got 'capillary'"),
        ({"families": ["calibre"]}, r"\['calibre'\] are not known; known are geometry"),
        ({"max_roi": 0}, "above 0 in pixels, got 0"),
        ({"disc": Disc((4, 4), 0.5)}, "1 pixel or more, got 0.5"),
        ({"rotations": 0}, "1 or more, got 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"mask": np.eye(9, dtype=bool), "disc": None} | change
    with pytest.raises(ValueError, match=message):
        measure_pvbm3(arguments.pop("mask"), **arguments)
