"""Areas of a mask in the boxes of a square; the tests of dyadic counts are in test_kernels.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from foveal.kernels.boxes import box_areas, box_areas_reference

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20))


@settings(max_examples=200, deadline=None)
@given(masks, st.integers(1, 24), st.data())
def test_box_areas_equal_reference(mask: np.ndarray, side: int, data: st.DataObject) -> None:
    boxes = data.draw(st.integers(1, side))
    corner = (data.draw(st.integers(-6, 20)), data.draw(st.integers(-6, 20)))
    expected = box_areas_reference(mask, boxes, corner=corner, side=side)
    np.testing.assert_array_equal(box_areas(mask, boxes, corner=corner, side=side), expected)


@settings(max_examples=50, deadline=None)
@given(masks, st.integers(1, 20))
def test_no_area_is_lost_in_a_square_that_holds_the_image(mask: np.ndarray, boxes: int) -> None:
    areas = box_areas(mask, boxes, corner=(-2, 0), side=23)
    assert areas.sum() == np.count_nonzero(mask) * boxes**2


def test_a_full_square_is_shared_out_equally() -> None:
    areas = box_areas(np.ones((13, 13), bool), 8, corner=(0, 0), side=13)
    np.testing.assert_array_equal(areas, 13**2)


def test_a_pixel_on_the_border_of_four_boxes_is_shared_out_by_area() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 1] = True
    # Boxes are 5/3 pixels long: the pixel's column is cut at 5/3, two thirds of the way; its row is not.
    np.testing.assert_array_equal(
        box_areas(mask, 3, corner=(0, 0), side=5), [[0, 0, 0], [6, 3, 0], [0, 0, 0]]
    )
    np.testing.assert_array_equal(box_areas(mask, 2, corner=(0, -1), side=5), [[1, 1], [1, 1]])


@pytest.mark.parametrize(("boxes", "side"), [(0, 4), (5, 4), (1, 0), (1 << 16, 1 << 16)])
def test_impossible_squares_are_refused(boxes: int, side: int) -> None:
    with pytest.raises(ValueError, match=f"boxes must be 1 to side .* got {boxes} boxes and side {side}"):
        box_areas(np.ones((4, 4), bool), boxes, corner=(0, 0), side=side)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"non-empty \(H, W\) array, got shape \(0, 4\)"):
        box_areas(np.ones((0, 4), bool), 1, corner=(0, 0), side=4)
