"""Box masses of rotated masks equal those of scikit-image's rotation and NumPy's sums, bit for bit."""

import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.kernels.rotated_boxes import (
    framed_clearance,
    rotated_box_masses,
    rotated_box_masses_reference,
    rotated_shape,
)

# Elsewhere scikit-image is built with fused multiplication and addition, and the last bit may differ.
EXACT = platform.machine() in ("x86_64", "AMD64")


def compare(mask: np.ndarray, degrees: float, sizes: np.ndarray) -> None:
    clearance = framed_clearance(mask)
    found = rotated_box_masses(clearance, degrees, sizes)
    expected = rotated_box_masses_reference(clearance, degrees, sizes)
    assert found.shape == expected.shape == rotated_shape(mask.shape, degrees)
    assert len(found.masses) == len(expected.masses) == len(sizes)
    for one, other in zip(found.masses, expected.masses, strict=True):
        if EXACT:
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert found.highest == pytest.approx(expected.highest, abs=0 if EXACT else 1e-12)
    assert found.lowest == pytest.approx(expected.lowest, abs=0 if EXACT else 1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-400, 400), st.sampled_from([0.003, 0.1, 0.6]))
def test_masses_equal_the_rotated_image(seed: int, degrees: float, density: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(2, 90, 2)) < density
    mask[0, 0], mask[-1, -1] = True, False
    compare(mask, degrees, np.array([1, 3, 8, 13, 40]))


@pytest.mark.parametrize("degrees", np.linspace(0, 360, 25))
def test_masses_of_wide_boxes_are_summed_in_the_same_order(degrees: float) -> None:
    mask = np.random.default_rng(0).random((310, 420)) < 0.3
    compare(mask, float(degrees), np.array([5, 128, 129, 137, 300, 301, 900]))


def test_a_lone_vessel_far_from_the_rest_is_not_passed_over() -> None:
    mask = np.zeros((200, 600), bool)
    mask[10, 10] = mask[190, 590] = True
    compare(mask, 17.0, np.array([5, 50]))


def test_clearance_is_the_chessboard_distance_within_a_frame() -> None:
    mask = np.zeros((4, 300), bool)
    mask[1, 0] = True
    clearance = framed_clearance(mask)
    assert clearance.shape == (6, 302)
    np.testing.assert_array_equal(clearance[2, :6], [1, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(clearance[:, 1], [2, 1, 0, 1, 2, 3])
    assert clearance[2, -1] == 255


def test_images_without_both_values_and_boxes_without_pixels_are_refused() -> None:
    for mask in (np.zeros((5, 5), bool), np.ones((5, 5), bool)):
        with pytest.raises(ValueError, match="both True and False"):
            framed_clearance(mask)
    with pytest.raises(ValueError, match="1 pixel or more"):
        rotated_box_masses(framed_clearance(np.eye(5, dtype=bool)), 0.0, np.array([0, 3]))
    with pytest.raises(ValueError, match="uint8"):
        rotated_box_masses(np.eye(5, dtype=bool), 0.0, np.array([3]))
