import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.kernels.nearest_seed import nearest_seed, nearest_seed_reference


def tube(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A few wandering tubes and seeds along their middle."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((80, 80), bool)
    seeds = []
    for _ in range(3):
        heading = rng.uniform(0, 2 * np.pi) + rng.normal(scale=0.15, size=60).cumsum()
        line = rng.uniform(20, 60, 2) + np.stack([np.sin(heading), np.cos(heading)], axis=1).cumsum(axis=0)
        inside = ((line > 3) & (line < 76)).all(axis=1)
        seeds.append(np.rint(line[inside]).astype(int))
        for row, column in seeds[-1]:
            mask[row - 2 : row + 3, column - 2 : column + 3] = True
    return mask, np.concatenate(seeds)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_pixels_of_a_tube_go_to_a_seed_as_near_as_the_nearest(seed):
    mask, seeds = tube(seed)
    found, expected = nearest_seed(mask, seeds), nearest_seed_reference(mask, seeds)
    np.testing.assert_array_equal(found < 0, expected < 0)
    place = np.argwhere(found >= 0)
    far, least = (np.hypot(*(place - seeds[number[tuple(place.T)]]).T) for number in (found, expected))
    assert (far >= least - 1e-9).all()
    # A bend of the tube may lead to a seed that is near across the background only.
    assert np.mean(far <= least + 1e-9) > 0.98


def test_nothing_is_reached_across_a_gap():
    mask = np.ones((5, 9), bool)
    mask[:, 4] = False
    found = nearest_seed(mask, np.array([[2, 1], [2, 4], [20, 20]]))
    assert (found[:, :4] == 0).all()
    assert (found[:, 4:] == -1).all()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="two-dimensional"):
        nearest_seed(np.ones(4, bool), np.zeros((1, 2)))
