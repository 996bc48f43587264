import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from foveal.scans.field_of_view import field_square, square_box
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import pictures
from foveal.screening.explaining import place_box
from foveal.screening.screener import probability_levels


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_probability_map_keeps_sixteen_bits():
    probability = np.linspace(0, 1, 256 * 300, dtype=np.float32).reshape(256, 300)
    field = np.ones(probability.shape, bool)
    field[:, :10] = False
    saved = Image.open(io.BytesIO(pictures.grey_png(probability_levels(probability, field))))
    levels = np.asarray(saved).astype(np.float64)
    assert saved.mode == "I;16"
    assert np.abs(levels[:, 10:] / 65535 - probability[:, 10:]).max() <= 0.5 / 65535 + 1e-7
    assert not levels[:, :10].any()


def test_opacity_of_an_overlay_follows_its_levels():
    levels = np.repeat(np.array([[0, 64, 128, 255]], np.uint8), 3, axis=0)
    alpha = np.asarray(opened(pictures.stain(levels, pictures.PROBABILITY_RAMP)).convert("RGBA"))[..., 3]
    assert np.abs(alpha.astype(int) - levels).max() <= 255 / (pictures.TONES - 1) / 2


def test_classes_keep_their_colours_and_their_opacity():
    levels = np.zeros((2, 3, 4), np.uint8)
    levels[0, 0], levels[1, 0] = [0, 100, 255, 20], [0, 50, 128, 90]
    picture = np.asarray(opened(pictures.stain_classes(levels, ["#ff0000", "#0000ff"])).convert("RGBA"))
    assert not picture[1:, :, 3].any()
    assert picture[0, :, :3].tolist()[1:] == [[255, 0, 0], [255, 0, 0], [0, 0, 255]]
    expected = np.array([0, 100, 255, 90])
    assert np.all((picture[0, :, 3] >= expected) & (picture[0, :, 3] <= expected + 255 / 7))
    with pytest.raises(ValueError, match="8 classes and 1 colours: one to 7"):
        pictures.stain_classes(np.zeros((8, 2, 2), np.uint8), ["#ff0000"])


def test_outline_surrounds_vessels_without_covering_them():
    coverage = np.zeros((40, 40), np.uint8)
    coverage[10:20, 15:18] = 255
    alpha = np.asarray(opened(pictures.vessel_outline(coverage)).convert("RGBA"))[..., 3]
    assert not alpha[10:20, 15:18].any()
    assert (alpha[9:21, 14:19] > 0).sum() == 12 * 5 - 10 * 3


@pytest.mark.parametrize("shape", [(4000, 3000), (50, 60), (1, 5000)])
def test_pictures_fit_the_report_and_are_never_enlarged(shape: tuple[int, int]):
    width, height = opened(pictures.photograph(np.zeros((*shape, 3), np.uint8))).size
    assert max(width, height) == min(max(shape), pictures.REPORT_SIDE)
    assert min(width, height) >= 1


def test_field_outline_is_the_border_of_the_field():
    eye = synthesize_eye(0, size=256)
    numbers = np.array(re.findall(r"[\d.]+", pictures.field_path(eye.field)), float).reshape(-1, 2)
    row, column = eye.field.center
    radius = np.hypot(numbers[:, 1] - row, numbers[:, 0] - column)
    assert np.abs(radius - eye.field.diameter / 2).max() < 2.5


def test_a_map_over_the_graders_square_lands_where_it_came_from():
    eye = synthesize_eye(0, size=256)
    row, column = (round(value) for value in eye.disc.center)
    marked = np.zeros((256, 256, 3), np.uint8)
    marked[row - 6 : row + 7, column - 6 : column + 7] = 255
    placed = place_box(field_square(marked, eye.field, size=128)[..., 0], eye.field, square_box(eye.field))
    assert placed.shape == (256, 256)
    found = np.argwhere(placed > 127).mean(axis=0)
    assert np.abs(found - [row, column]).max() < 1
