"""The vessel graph tells the truth about shapes whose geometry is known."""

import subprocess
import sys
import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from vessel_shapes import arc, arm, bar, star, tree

from foveal.measurement.graph import NodeKind, vessel_graph
from foveal.measurement.orientation import Orientation, standard_orientation

TURNS = [Orientation(*flags) for flags in product((False, True), repeat=3)]


def counts(graph) -> dict[str, int]:
    return {kind.name: int((graph.kinds == kind).sum()) for kind in NodeKind if (graph.kinds == kind).any()}


@pytest.mark.parametrize("angle", [0, 30, 45, 77])
def test_width_of_bars_is_right_within_a_quarter_pixel(angle):
    rng = np.random.default_rng(angle)
    errors = []
    for width in np.arange(4, 20.5, 1):
        turn = np.deg2rad(angle)
        half = 110 * np.array([np.sin(turn), np.cos(turn)])
        center = 150 + rng.uniform(0, 1, 2)
        mask = bar(tuple(center - half), tuple(center + half), width)
        graph = vessel_graph(mask)
        assert len(graph.edges) == 1
        # At 0 and 45 degrees whole rows of pixels are in or out: the drawn width is not the wanted one.
        errors.append(graph.edge_widths[0] - mask.sum() / 220)
    assert np.abs(errors).max() < 0.25
    assert np.abs(errors).mean() < 0.15


@pytest.mark.parametrize("width", [1, 3, 4, 8, 15])
def test_straight_bar_is_as_long_as_drawn_and_not_tortuous(width):
    mask = np.zeros((100, 300), bool)
    mask[40 : 40 + width, 50:250] = True
    graph = vessel_graph(mask)
    assert counts(graph) == {"ENDPOINT": 2}
    assert graph.arcs[0] == pytest.approx(200, abs=1.0)
    # an even bar has no pixel in its middle, and its ends are led on along the tangent
    assert graph.arcs[0] / graph.chords[0] == pytest.approx(1, abs=2e-4)


def test_one_pixel_line_has_tortuosity_one_exactly():
    mask = np.zeros((20, 100), bool)
    mask[7, 10:90] = True
    graph = vessel_graph(mask)
    assert graph.arcs[0] / graph.chords[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("radius", "width"), [(100, 3), (100, 5), (100, 7), (200, 4), (200, 10), (250, 6)])
def test_quarter_circle_has_its_tortuosity(radius, width):
    graph = vessel_graph(arc(radius, width))
    assert counts(graph) == {"ENDPOINT": 2}
    assert graph.arcs[0] / graph.chords[0] == pytest.approx(np.pi / (2 * np.sqrt(2)), rel=0.01)
    assert graph.arcs[0] == pytest.approx(radius * np.pi / 2, rel=0.015)


@pytest.mark.parametrize("width", [3, 4, 5, 7, 10])
def test_y_of_60_degrees_has_one_branch_and_three_ends(width):
    graph = vessel_graph(star(180, 30, -30, width=width))
    assert counts(graph) == {"ENDPOINT": 3, "BRANCH": 1}
    assert graph.arcs.sum() == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("width", [3, 4, 7, 10])
@pytest.mark.parametrize("angle", [30, 45, 60, 75, 90])
def test_two_bars_that_cross_make_one_crossing(width, angle):
    graph = vessel_graph(star(10, 190, 10 + angle, 190 + angle, width=width))
    assert counts(graph) == {"ENDPOINT": 4, "CROSSING": 1}
    assert graph.arcs.sum() == pytest.approx(400, rel=0.02)
    np.testing.assert_allclose(graph.edge_widths, width, atol=0.5)


@pytest.mark.parametrize("turn", [10, 40, 43, 75])
@pytest.mark.parametrize("angle", [15, 20, 25, 30])
def test_two_bars_that_cross_at_a_shallow_angle_make_one_crossing(angle, turn):
    for width in (3, 5, 7, 10):
        graph = vessel_graph(star(turn, 180 + turn, turn + angle, 180 + turn + angle, width=width))
        assert counts(graph) == {"ENDPOINT": 4, "CROSSING": 1}, width
        assert graph.arcs.sum() == pytest.approx(400, rel=0.02)


@pytest.mark.parametrize("angle", [20, 30, 45, 60, 75])
@pytest.mark.parametrize("turn", [0, 33])
def test_two_branchings_with_a_vessel_between_them_are_not_a_crossing(angle, turn):
    for width in (3, 5, 8):
        along = np.array([np.sin(np.deg2rad(turn)), np.cos(np.deg2rad(turn))])
        ends = [150.3 - 3 * width * along, 150.3 + 3 * width * along]
        mask = bar(tuple(ends[0]), tuple(ends[1]), 1.26 * width)  # 2 ** (1 / 3): Murray's law
        for end, back in zip(ends, (180, 0), strict=True):
            for side in (-angle / 2, angle / 2):
                mask |= arm(turn + back + side, width, 90, tuple(end))
        assert counts(vessel_graph(mask)) == {"ENDPOINT": 4, "BRANCH": 2}, width


def test_two_branchings_in_a_row_are_not_a_crossing():
    mask = star(180, 0, 50, width=5) | bar((150.3, 168.0), (70.0, 220.0), 5)
    assert counts(vessel_graph(mask)) == {"ENDPOINT": 4, "BRANCH": 2}


@pytest.mark.parametrize("width", [1, 3, 4, 9])
def test_ring_is_one_closed_edge(width):
    graph = vessel_graph(arc(80, max(width, 1.5), quarter=False))
    assert counts(graph) == {"LOOP": 1}
    assert graph.degrees.tolist() == [2]
    assert graph.arcs[0] == pytest.approx(2 * np.pi * 80, rel=0.01)
    assert graph.chords[0] == 0
    np.testing.assert_allclose(graph.nodes[0], graph.path(0)[0])


def test_spurs_shorter_than_the_vessel_is_wide_are_removed():
    trunk = bar((150, 30), (150, 270), 11)
    assert counts(vessel_graph(trunk | bar((150, 150), (159, 150), 3))) == {"ENDPOINT": 2}
    assert counts(vessel_graph(trunk | bar((150, 150), (185, 150), 3))) == {"ENDPOINT": 3, "BRANCH": 1}
    assert len(vessel_graph(trunk | bar((150, 150), (159, 150), 3), spur_factor=0).edges) > 1


def test_small_hole_makes_no_loop():
    mask = bar((150, 30), (150, 270), 11)
    mask[149:152, 149:152] = False
    assert counts(vessel_graph(mask)) == {"ENDPOINT": 2}
    assert counts(vessel_graph(mask, hole_area=0)) == {"ENDPOINT": 2, "BRANCH": 2}


def test_nothing_comes_of_an_empty_mask_a_full_mask_or_specks():
    specks = np.zeros((60, 60), bool)
    specks[::7, ::5] = True
    for mask in (np.zeros((50, 40), bool), np.ones((64, 64), bool), specks, np.zeros((0, 0), bool)):
        graph = vessel_graph(mask)
        assert len(graph.nodes) == len(graph.edges) == len(graph.points) == 0
        assert graph.offsets.tolist() == [0]
        assert graph.shape == mask.shape
        assert graph.arcs.sum() == 0


def test_vessel_may_touch_the_border():
    mask = np.zeros((80, 120), bool)
    mask[0:5] = True
    mask[:, 60:65] = True
    graph = vessel_graph(mask)
    assert counts(graph) == {"ENDPOINT": 3, "BRANCH": 1}
    np.testing.assert_allclose(graph.edge_widths, 5, atol=0.1)


@pytest.mark.parametrize("seed", range(1, 6))
def test_noise_of_single_pixels_changes_no_count(seed):
    clean = tree(seed)
    noisy = clean.copy()
    noisy[tuple(np.random.default_rng(seed).integers(0, 400, (2, 200)))] = True
    first, second = vessel_graph(clean), vessel_graph(noisy)
    assert abs(len(second.edges) - len(first.edges)) <= 1
    assert second.arcs.sum() == pytest.approx(first.arcs.sum(), rel=0.01)


@pytest.mark.parametrize("seed", [1, 2, 4, 5, 6, 7])
def test_doubled_resolution_doubles_lengths_and_keeps_counts(seed):
    mask = tree(seed)
    double = mask.repeat(2, axis=0).repeat(2, axis=1)
    first, second = vessel_graph(mask), vessel_graph(double)
    assert counts(first) == counts(second)
    assert second.arcs.sum() == pytest.approx(2 * first.arcs.sum(), rel=0.02)
    assert np.nanmean(second.widths) == pytest.approx(2 * np.nanmean(first.widths), rel=0.02)


def test_dilation_by_a_pixel_widens_by_two_and_keeps_the_length():
    mask = star(180, 30, -40, width=6)
    padded = np.pad(mask, 1)
    wide = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    first, second = vessel_graph(mask), vessel_graph(wide)
    assert counts(first) == counts(second)
    assert second.arcs.sum() == pytest.approx(first.arcs.sum(), rel=0.02)
    assert 1 < np.nanmean(second.widths) - np.nanmean(first.widths) < 3


@pytest.mark.parametrize("turn", TURNS)
def test_graph_turns_with_the_mask(turn):
    mask = tree(2)[:350]
    graph, turned = vessel_graph(mask), vessel_graph(turn.apply(mask).copy())
    np.testing.assert_array_equal(turned.edges, graph.edges)
    np.testing.assert_array_equal(turned.kinds, graph.kinds)
    np.testing.assert_array_equal(turned.widths, graph.widths)
    np.testing.assert_allclose(turned.arcs, graph.arcs, rtol=1e-12)
    back = turn.undo_points(turned.points, turn.apply(mask).shape)
    np.testing.assert_allclose(back, graph.points, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(lambda shape: arrays(np.bool_, shape)))
def test_standard_position_is_the_same_from_all_eight(mask):
    standard = standard_orientation(mask).apply(mask)
    for turn in TURNS:
        other = turn.apply(mask)
        np.testing.assert_array_equal(standard_orientation(other).apply(other), standard)


@settings(deadline=None, max_examples=100)
@given(st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda shape: arrays(np.bool_, shape)))
def test_any_mask_gives_a_consistent_graph(mask):
    graph = vessel_graph(mask, spur_factor=0.5)
    assert graph.degrees.min(initial=1) >= 1
    assert (np.diff(graph.offsets) >= 2).all()
    assert graph.offsets[-1] == len(graph.points) == len(graph.widths)
    np.testing.assert_array_equal(graph.kinds, np.minimum(graph.degrees, NodeKind.CROSSING))
    if len(graph.edges):
        np.testing.assert_allclose(
            graph.points[graph.offsets[:-1]], graph.nodes[graph.edges[:, 0]], atol=1e-9
        )
        np.testing.assert_allclose(
            graph.points[graph.offsets[1:] - 1], graph.nodes[graph.edges[:, 1]], atol=1e-9
        )
    assert (graph.arcs >= graph.chords - 1e-9).all()
    assert graph.spans.sum() == pytest.approx(graph.arcs.sum())
    assert (graph.points >= -1).all()
    assert (graph.points <= np.array(mask.shape)).all()
    assert np.isfinite(graph.points).all()


def test_length_follows_the_spacing_of_each_direction():
    mask = np.zeros((60, 160), bool)
    mask[30, 10:151] = True
    across = vessel_graph(mask).arc_lengths((0.02, 0.01))
    down = vessel_graph(mask.T.copy()).arc_lengths((0.02, 0.01))
    assert across[0] == pytest.approx(1.41, rel=0.01)
    assert down[0] == pytest.approx(2.82, rel=0.01)


def seconds(mask: np.ndarray) -> float:
    """Least processor time of three graphs of a mask."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        vessel_graph(mask)
        taken.append(time.process_time() - start)
    return min(taken)


def test_time_is_linear_in_the_vessel_pixels():
    mask = tree(5, size=500)
    vessel_graph(mask)  # compile
    small, large = np.tile(mask, (2, 2)), np.tile(mask, (6, 6))
    assert len(vessel_graph(large).edges) > 1000
    assert seconds(large) < 2 * 9 * seconds(small)
    assert seconds(large) < 1


def test_mask_of_3000_pixels_takes_less_than_a_gibibyte():
    # In a process of its own: compiled kernels take memory that no Python tool sees.
    code = """
import numpy as np
from foveal.measurement.graph import vessel_graph
from foveal.machine import peak_memory
mask = np.zeros((3000, 3000), bool)
mask[:, ::40] = mask[::40] = mask[:, 1::40] = mask[1::40] = True
assert len(vessel_graph(mask).edges) > 10_000
print(peak_memory())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2**30


@pytest.mark.parametrize("mask", [np.zeros((4, 4)), np.zeros(4, bool), [[True]]])
def test_mask_must_be_bool_and_flat(mask):
    with pytest.raises(ValueError, match=r"mask must be a bool array \(H, W\), got .*threshold"):
        vessel_graph(mask)


def test_negative_options_are_refused():
    with pytest.raises(ValueError, match="spur_factor must be 0 or more, got -1"):
        vessel_graph(np.zeros((4, 4), bool), spur_factor=-1)
