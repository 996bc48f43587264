"""Overlays of structures: what was found is drawn where it lies, the fainter the less sure."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from foveal.measurement.landmark_finding import FoundLandmarks
from foveal.measurement.landmarks import NOTHING_KNOWN, Disc, Landmarks
from foveal.measurement.lesions import find_lesions
from foveal.scans.synthetic import synthesize_eye
from foveal.screening.landmark_overlays import boundary_path, landmark_layer
from foveal.screening.layers import lesion_rings
from foveal.screening.pictures import LESION_COLOURS
from foveal.screening.structures import STRUCTURE_LEVELS, structure_levels


def opened(uri: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    return np.asarray(picture.convert("RGBA"))


@pytest.mark.parametrize("size", [300, 2400])
def test_a_ring_surrounds_each_lesion_in_the_colour_of_its_kind(size: int):
    eye = synthesize_eye(0, size=size)
    kinds = tuple(LESION_COLOURS)
    maps = np.zeros((len(kinds), size, size), np.float32)
    side = size // 50
    spots = [
        (size // 2, size // 4),
        (size // 2, size // 2),
        (size // 3, size // 2),
        (size // 2, 2 * size // 3),
    ]
    for layer, (row, column) in zip(maps, spots, strict=True):
        layer[row : row + side, column : column + side] = 0.95
    drawn = opened(lesion_rings(find_lesions(maps, kinds, eye.field)))
    scale = len(drawn) / size
    for name, (row, column) in zip(kinds, spots, strict=True):
        top, left, reach = round(row * scale), round(column * scale), round(side * scale) + 4
        around = drawn[top - 4 : top + reach, left - 4 : left + reach]
        shown = around[around[..., 3] > 0]
        assert {tuple(pixel) for pixel in shown[:, :3].tolist()} == {
            tuple(bytes.fromhex(LESION_COLOURS[name][1:]))
        }
        middle = round((row + side / 2) * scale), round((column + side / 2) * scale)
        assert drawn[middle][3] == 0
    assert (drawn[..., 3] > 0).sum() < 0.02 * drawn[..., 3].size


def test_no_lesion_gives_an_empty_overlay():
    eye = synthesize_eye(0, size=200)
    maps = np.zeros((4, 200, 200), np.float32)
    assert not opened(lesion_rings(find_lesions(maps, tuple(LESION_COLOURS), eye.field)))[..., 3].any()


def test_disc_and_fovea_are_drawn_where_they_lie():
    eye = synthesize_eye(1, size=400)
    center = (float(eye.disc.center[0]), float(eye.disc.center[1]))
    landmarks = Landmarks(Disc(center, eye.disc.radius), (210.0, 190.0))
    found = FoundLandmarks(landmarks, eye.disc.mask, 0.9, 0.8, "L", 0.99)
    layer = landmark_layer(eye.field, found)["landmarks"]
    root = ElementTree.fromstring(base64.b64decode(layer.split(",", 1)[1]))
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert texts == {"disc 90 %", "fovea 80 %"}
    numbers = np.array(re.findall(r"-?[\d.]+", boundary_path(eye.disc.mask)), float).reshape(-1, 2)
    distance = np.hypot(numbers[:, 1] - center[0], numbers[:, 0] - center[1])
    assert np.abs(distance - eye.disc.radius).max() < 0.15 * eye.disc.radius


def test_without_landmarks_there_is_no_overlay_of_them():
    eye = synthesize_eye(1, size=200)
    assert landmark_layer(eye.field, FoundLandmarks(NOTHING_KNOWN, None, None, None, None, None)) == {}


def test_levels_code_disc_and_lesions():
    eye = synthesize_eye(2, size=300)
    maps = np.zeros((4, 300, 300), np.float32)
    maps[1, 150:156, 150:156] = 0.9
    lesions = find_lesions(maps, tuple(LESION_COLOURS), eye.field)
    levels = structure_levels(eye.disc.mask, lesions)
    assert (levels == STRUCTURE_LEVELS["haemorrhages"]).sum() == 36
    assert (levels == STRUCTURE_LEVELS["disc"]).sum() == eye.disc.mask.sum() - eye.disc.mask[
        150:156, 150:156
    ].sum()
