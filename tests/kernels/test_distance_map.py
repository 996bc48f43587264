import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.kernels.distance_map import distance_map, distance_map_reference


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
def test_distance_map_equals_scipys(seed: int, height: int, width: int, every: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.choice([0.01, 0.1, 0.5])
    mask[rng.integers(height), rng.integers(width)] = True
    expected = distance_map_reference(mask, every=every)
    np.testing.assert_allclose(distance_map(mask, every=every), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("mask", "every", "message"),
    [
        (np.zeros((4, 4), bool), 1, "no True pixel"),
        (np.ones((4, 4), bool), 0, "every must be 1 or more, got 0"),
        (np.ones(4, bool), 1, "two-dimensional"),
    ],
)
def test_wrong_arguments_are_named(mask: np.ndarray, every: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance_map(mask, every=every)
