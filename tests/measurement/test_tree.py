"""Graphs rooted at the disc: parents, whole vessels, bifurcation angles."""

from itertools import product

import numpy as np
import pytest
from vessel_shapes import bar, star, tree

from foveal.measurement.graph import NodeKind, vessel_graph
from foveal.measurement.landmarks import Disc
from foveal.measurement.orientation import Orientation
from foveal.measurement.tree import root_graph

LEFT = Disc((150.0, 40.0), 12.0)


def fork(opening: float, tilt: float = 0.0, width: float = 5.0) -> np.ndarray:
    """A trunk from the left whose daughters open by an angle in degrees."""
    return star(180 + tilt, tilt + opening / 2, tilt - opening / 2, width=width)


@pytest.mark.parametrize("opening", [40.0, 60.0, 75.0, 90.0])
@pytest.mark.parametrize("tilt", [0.0, 17.0, 45.0])
@pytest.mark.parametrize("disc", [None, LEFT])
def test_angle_of_a_fork(opening, tilt, disc):
    if disc is not None and tilt:
        disc = Disc((150 - 110 * np.sin(np.deg2rad(tilt)), 150 - 110 * np.cos(np.deg2rad(tilt))), 12.0)
    # Without a disc the trunk is known by its width.
    trunk = star(180 + tilt, width=7.0)
    found = root_graph(vessel_graph(fork(opening, tilt) | trunk), disc).bifurcations
    assert found.angles == pytest.approx([opening], abs=3)


def test_trunk_is_the_parent_of_its_daughters():
    graph = vessel_graph(fork(60))
    rooted = root_graph(graph, LEFT)
    assert len(rooted.roots) == 1
    assert graph.nodes[rooted.roots[0]] == pytest.approx((150, 50), abs=3)
    (parent,), (daughters,) = rooted.bifurcations.parents, rooted.bifurcations.daughters
    assert rooted.parents[parent] == -1
    assert (rooted.parents[daughters] == parent).all()


def test_crossing_vessels_do_not_become_each_others_branches():
    mask = bar((150, 20), (150, 280), 6) | bar((20, 150), (280, 150), 4)
    graph = vessel_graph(mask)
    assert (graph.kinds == NodeKind.CROSSING).sum() == 1
    rooted = root_graph(graph, Disc((150.0, 10.0), 12.0))
    assert len(rooted.bifurcations.nodes) == 0
    assert len(np.unique(rooted.vessels)) == 2
    arcs, chords = rooted.vessel_spans
    assert arcs == pytest.approx([260, 260], abs=3)
    assert chords == pytest.approx([260, 260], abs=3)


def test_vessel_goes_on_past_its_branches_into_the_wider_daughter():
    mask = bar((150, 20), (150, 280), 8) | bar((150, 120), (250, 200), 3) | bar((150, 180), (60, 250), 3)
    rooted = root_graph(vessel_graph(mask), Disc((150.0, 10.0), 12.0))
    arcs, _ = rooted.vessel_spans
    assert np.sort(arcs)[-1] == pytest.approx(260, abs=4)
    assert len(arcs) == 3


def test_loop_is_directed_away_from_the_root():
    ring = np.abs(np.hypot(*(np.mgrid[:300, :300] - 150.0)) - 60) < 3
    mask = ring | bar((150, 30), (150, 92), 6) | bar((150, 208), (150, 270), 6)
    rooted = root_graph(vessel_graph(mask), Disc((150.0, 20.0), 12.0))
    assert len(rooted.near) == 4
    assert len(rooted.bifurcations.nodes) == 1  # the vessels meet again on the other side
    assert (rooted.parents < 0).sum() == 1


def test_every_part_has_a_root_and_every_edge_a_way_to_it():
    mask = tree(3) | np.roll(tree(4), (200, 0), axis=(0, 1))
    rooted = root_graph(vessel_graph(mask), Disc((200.0, 10.0), 20.0))
    edge = np.arange(len(rooted.parents))
    for _ in range(len(edge)):
        edge = np.where(edge >= 0, rooted.parents[edge], -1)
    assert (edge == -1).all()


@pytest.mark.parametrize("turn", [Orientation(*flags) for flags in product((False, True), repeat=3)])
def test_angles_and_vessels_do_not_depend_on_how_the_image_lies(turn):
    mask = tree(6)
    expected, found = root_graph(vessel_graph(mask)), root_graph(vessel_graph(turn.apply(mask).copy()))
    np.testing.assert_allclose(
        np.sort(found.bifurcations.angles), np.sort(expected.bifurcations.angles), atol=1e-6
    )
    np.testing.assert_allclose(np.sort(found.vessel_spans[0]), np.sort(expected.vessel_spans[0]), rtol=1e-9)


def test_empty_graph_has_nothing():
    rooted = root_graph(vessel_graph(np.zeros((20, 20), bool)), LEFT)
    assert len(rooted.roots) == len(rooted.vessels) == len(rooted.bifurcations.nodes) == 0
    assert len(rooted.vessel_spans[0]) == 0
