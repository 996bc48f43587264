import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.kernels.framing import (
    cut_square,
    cut_square_reference,
    enlarge,
    enlarge_reference,
    enlarge_where,
    enlarge_where_reference,
)


def case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """A photograph, a mask, a small map, and a box that may exceed the photograph."""
    rng = np.random.default_rng(seed)
    height, width, side = rng.integers(1, 60, 3)
    top, left = (int(v) for v in rng.integers(-20, 30, 2))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    values = rng.random((int(rng.integers(1, 30)),) * 2, dtype=np.float32) ** 3
    return image, rng.random((height, width)) < 0.8, values, (top, left, top + int(side), left + int(side))


seeds = given(st.integers(0, 10**6))


@settings(max_examples=50, deadline=None)
@seeds
def test_a_square_is_what_padding_gives(seed):
    image, mask, _, box = case(seed)
    np.testing.assert_array_equal(cut_square(image, mask, box), cut_square_reference(image, mask, box))


@settings(max_examples=50, deadline=None)
@seeds
def test_an_enlarged_map_is_that_of_torch_and_keeps_within_0_to_1(seed):
    _, mask, values, box = case(seed)
    full = enlarge(values, mask, box)
    np.testing.assert_allclose(full, enlarge_reference(values, mask, box), atol=1e-5)
    assert full.dtype == np.float32
    assert full.min() >= 0
    assert full.max() <= 1


@settings(max_examples=50, deadline=None)
@seeds
def test_the_pixels_that_reach_a_level_are_those_of_the_whole_map_to_the_last_bit(seed):
    _, mask, values, box = case(seed)
    for found, expected in zip(
        enlarge_where(values, mask, box, at_least=0.3),
        enlarge_where_reference(values, mask, box, at_least=0.3),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_wrong_arguments_are_named():
    mask = np.ones((4, 5), bool)
    with pytest.raises(ValueError, match="must have the same shape"):
        cut_square(np.zeros((5, 5, 3), np.uint8), mask, (0, 0, 2, 2))
    with pytest.raises(ValueError, match="is empty"):
        cut_square(np.zeros((4, 5, 3), np.uint8), mask, (0, 3, 2, 3))
    with pytest.raises(ValueError, match="map must be square"):
        enlarge(np.zeros((3, 4), np.float32), mask, (0, 0, 2, 2))
    with pytest.raises(ValueError, match="box must be a square"):
        enlarge(np.zeros((3, 3), np.float32), mask, (0, 0, 2, 3))
    with pytest.raises(ValueError, match="level must be above 0"):
        enlarge_where(np.zeros((3, 3), np.float32), mask, (0, 0, 2, 2), at_least=0)
