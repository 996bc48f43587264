import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.kernels.bending import (
    bend_reversals,
    bend_reversals_reference,
    end_directions,
    end_directions_reference,
    path_curvature,
    path_curvature_reference,
)


def wandering_paths(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A few paths of random length with a step of one pixel and a direction that drifts."""
    rng = np.random.default_rng(seed)
    offsets = np.append(0, np.cumsum(rng.integers(2, 80, 4)))
    heading = rng.normal(scale=0.3, size=offsets[-1]).cumsum()
    return np.stack([np.sin(heading), np.cos(heading)], axis=1).cumsum(axis=0), offsets


def arc_of(radius: float, angle: float) -> np.ndarray:
    theta = np.arange(0, angle, 1 / radius)
    return radius * np.stack([np.sin(theta), np.cos(theta)], axis=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_curvature_equals_numpys_fit(seed: int) -> None:
    points, offsets = wandering_paths(seed)
    reach = np.random.default_rng(seed).uniform(3, 12, 4)
    expected = path_curvature_reference(points, offsets, reach)
    np.testing.assert_allclose(path_curvature(points, offsets, reach), expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 1.0]))
def test_reversals_equal_removal_of_small_swings(seed: int, least_turn: float) -> None:
    points, offsets = wandering_paths(seed)
    curvature = path_curvature(points, offsets, np.full(4, 5.0))
    expected = bend_reversals_reference(points, offsets, curvature, least_turn)
    np.testing.assert_array_equal(bend_reversals(points, offsets, curvature, least_turn), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_end_directions_equal_singular_vectors(seed: int) -> None:
    points, offsets = wandering_paths(seed)
    rng = np.random.default_rng(seed)
    skip, reach = rng.uniform(0, 20, (4, 2)), rng.uniform(3, 20, (4, 2))
    expected = end_directions_reference(points, offsets, skip, reach)
    np.testing.assert_allclose(end_directions(points, offsets, skip, reach), expected, atol=1e-6)


@pytest.mark.parametrize("radius", [20.0, 50.0, 300.0])
def test_circle_has_the_inverse_of_its_radius(radius: float) -> None:
    path = arc_of(radius, 1.5)
    curvature = path_curvature(path, np.array([0, len(path)]), np.array([10.0]))
    np.testing.assert_allclose(np.abs(curvature[10:-10]), 1 / radius, rtol=0.03)
    np.testing.assert_allclose(np.abs(curvature), 1 / radius, rtol=0.1)  # one-sided fits at the ends
    back = path_curvature(path[::-1], np.array([0, len(path)]), np.array([10.0]))
    np.testing.assert_allclose(back[::-1], -curvature, atol=1e-9)


def test_s_bend_reverses_once_and_a_straight_line_never() -> None:
    bend = arc_of(40, 1.2)
    mirrored = 2 * bend[-1] - bend[::-1]
    path = np.concatenate([bend, mirrored[1:]])
    line = np.stack([np.arange(50.0), np.zeros(50)], axis=1)
    points, offsets = np.concatenate([path, line]), np.array([0, len(path), len(path) + 50])
    curvature = path_curvature(points, offsets, np.full(2, 8.0))
    np.testing.assert_array_equal(bend_reversals(points, offsets, curvature, 0.1), [1, 0])


def test_ends_of_a_line_point_along_it() -> None:
    direction = np.array([3.0, 4.0]) / 5
    line = np.arange(30.0)[:, None] * direction
    found = end_directions(line, np.array([0, 30]), np.full((1, 2), 2.0), np.full((1, 2), 10.0))
    np.testing.assert_allclose(found[0], [direction, -direction], atol=1e-12)


def test_too_short_paths_are_missing_or_fall_back() -> None:
    points, offsets = np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([0, 2])
    assert np.isnan(path_curvature(points, offsets, np.array([5.0]))).all()
    found = end_directions(points, offsets, np.full((1, 2), 9.0), np.full((1, 2), 9.0))
    np.testing.assert_allclose(found[0], [[0, 1], [0, -1]], atol=1e-12)
