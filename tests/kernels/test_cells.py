"""Pixels and points get the cells of a polar grid that its definition says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foveal.kernels.cells import (
    cell_areas,
    cell_areas_reference,
    polar_cells,
    polar_cells_at,
    polar_cells_reference,
)

quick = settings(deadline=None, max_examples=150)
LEVEL = np.eye(2)
coordinates = st.one_of(st.integers(-8, 20).map(float), st.floats(-8, 20))


@st.composite
def grids(draw):
    """A box, and a grid whose borders often go through pixel centres."""
    top, left = draw(st.integers(-3, 6)), draw(st.integers(-3, 6))
    box = top, left, top + draw(st.integers(0, 12)), left + draw(st.integers(0, 12))
    angle = draw(st.one_of(st.sampled_from([0.0, np.pi / 4]), st.floats(0, 6.3)))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    axes = turn * np.array([[draw(st.sampled_from([1.0, 0.5, 0.31]))], [1.0]])
    edges = np.cumsum(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))).astype(float)
    edges = np.concatenate([[draw(st.sampled_from([0.0, 0.5]))], edges])
    if draw(st.booleans()):
        edges[-1] = np.inf
    return box, (draw(coordinates), draw(coordinates)), axes, edges


@quick
@given(grids())
def test_cells_equal_reference(grid):
    np.testing.assert_array_equal(polar_cells(*grid), polar_cells_reference(*grid))


@quick
@given(grids())
def test_points_at_pixel_centres_have_the_cells_of_the_pixels(grid):
    box, *rest = grid
    points = np.argwhere(np.ones((box[2] - box[0], box[3] - box[1]))) + box[:2]
    np.testing.assert_array_equal(polar_cells_at(points, *rest), polar_cells(*grid).ravel())


def test_quarters_go_around_and_borders_belong_to_one_side():
    cells = polar_cells((-1, -1, 2, 2), (0.0, 0.0), LEVEL, np.array([0.0, 1.1, 2.0]))
    # Axes point down (p) and right (q): quarter 0 is below on the right, 1 below on the left.
    assert cells.tolist() == [[6, 2, 7], [2, 2, 3], [5, 1, 4]]


def test_rings_take_their_inner_edge():
    points = np.array([[0, 0.5], [0, 1.0], [0, 1.999], [0, 2.0], [0, 3.0]])
    cells = polar_cells_at(points, (0.0, 0.0), LEVEL, np.array([1.0, 2.0, 3.0]))
    assert cells.tolist() == [8, 3, 3, 7, 8]


def test_what_is_no_number_lies_outside():
    points = np.array([[np.nan, 0.0], [0.0, np.inf]])
    assert polar_cells_at(points, (0.0, 0.0), LEVEL, np.array([0.0, np.inf])).tolist() == [4, 4]


@quick
@given(arrays(np.uint8, (7, 9)), arrays(np.bool_, (7, 9)), st.integers(0, 8))
def test_cell_areas_equal_reference(cells, mask, left):
    for part in (slice(None), (slice(1, 6), slice(left, None))):
        found = cell_areas(cells[part], mask[part])
        np.testing.assert_array_equal(found, cell_areas_reference(cells[part], mask[part]))


@pytest.mark.parametrize(
    "edges", [[1.0], [2.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, np.nan], np.arange(65.0)]
)
def test_edges_must_ascend(edges):
    with pytest.raises(ValueError, match="edges must be 2 to 64 ascending radii"):
        polar_cells((0, 0, 2, 2), (0.0, 0.0), LEVEL, np.array(edges))


def test_other_arguments_are_checked():
    edges = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match=r"axes must be two vectors.*\(2,\)"):
        polar_cells((0, 0, 2, 2), (0.0, 0.0), np.ones(2), edges)
    with pytest.raises(ValueError, match=r"points must be \(N, 2\).*\(3,\)"):
        polar_cells_at(np.ones(3), (0.0, 0.0), LEVEL, edges)
    with pytest.raises(ValueError, match=r"uint8 \(H, W\) and mask bool.*int64"):
        cell_areas(np.zeros((2, 2), np.int64), np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="of the same shape"):
        cell_areas(np.zeros((2, 2), np.uint8), np.ones((2, 3), bool))
