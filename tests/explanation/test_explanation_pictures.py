"""Pictures of maps: what is large is seen, at its place, with its sign."""

import io

import numpy as np
from PIL import Image

from foveal.explanation.pictures import (
    Drawn,
    comparison_png,
    grey_photograph,
    largest_along,
    limit_of,
    overlay_png,
    projections_png,
)


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_signs_have_colours_of_their_own_at_their_places():
    values = np.zeros((100, 120), np.float32)
    values[20:40, 20:40], values[60:80, 80:100] = 1, -1
    background = np.full((100, 120, 3), 90, np.uint8)
    picture = opened(overlay_png(Drawn(values, "map", True), background))
    scale = picture.shape[1] / 120
    red, _, blue = picture[round(30 * scale), round(30 * scale)]
    assert red > blue + 50
    red, _, blue = picture[round(70 * scale), round(90 * scale)]
    assert blue > red + 50
    red, _, blue = picture[round(50 * scale), round(60 * scale)]
    assert abs(red - blue) < 5


def test_a_map_of_nothing_leaves_the_photograph():
    background = np.full((60, 60, 3), 90, np.uint8)
    picture = opened(overlay_png(Drawn(np.zeros((60, 60), np.float32), "map", False), background))
    assert np.ptp(picture[100, 100]) < 5
    assert picture[100, 100].mean() > 60


def test_sheets_hold_a_panel_for_the_photograph_and_each_map():
    background = np.full((50, 80, 3), 90, np.uint8)
    drawn = Drawn(np.ones((50, 80), np.float32), "map", False)
    narrow, wide = (opened(comparison_png([drawn] * n, background)).shape for n in (1, 3))
    assert wide[1] > 1.9 * narrow[1]
    five = opened(comparison_png([drawn] * 4, background)).shape  # two rows of three
    assert five[0] > 1.9 * wide[0]
    assert five[1] < wide[1]


def test_projections_keep_the_largest_value_with_its_sign():
    values = np.zeros((4, 5, 6))
    values[1, 2, 3], values[2, 2, 3] = -3, 2
    assert largest_along(values, 0)[2, 3] == -3
    assert largest_along(values, 1)[2, 3] == 2
    assert opened(projections_png(Drawn(values, "map", True), np.abs(values))).std() > 10


def test_limits_are_robust_and_never_zero():
    values = np.linspace(0, 1, 1001)
    values[-1] = 1e6
    assert limit_of(values) < 1.01
    assert limit_of(np.zeros(9)) == 1
    one = np.zeros(1000)
    one[5] = -4
    assert limit_of(one) == 4
    assert grey_photograph(np.random.default_rng(0).normal(size=(1, 8, 9))).shape == (8, 9, 3)
    assert grey_photograph(np.random.default_rng(0).normal(size=(3, 8, 9))).shape == (8, 9, 3)
