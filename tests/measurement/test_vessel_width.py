"""The mean width of drawn vessels, and the size at which landmarks are looked for because of it."""

import numpy as np
import pytest

from foveal.measurement.vessel_width import mean_vessel_width
from foveal.models import Segmenter, SegmenterConfig, shipped_model
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import synthesize_eye
from foveal.screening.structures import landmark_diameter

SIZE = 600


def _field():
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2
    image = np.where(np.hypot(rows, columns) < 0.48 * SIZE, 120, 0).astype(np.uint8)
    return find_field_of_view(np.repeat(image[..., None], 3, axis=2))


def _spokes(width: float) -> np.ndarray:
    """Bars of a width from the centre, in directions all round."""
    rows, columns = np.indices((SIZE, SIZE)) - SIZE / 2
    radius = np.hypot(rows, columns)
    mask = np.zeros((SIZE, SIZE), bool)
    for angle in np.linspace(0, 2 * np.pi, 17)[:-1] + 0.1:
        across = rows * np.cos(angle) - columns * np.sin(angle)
        along = rows * np.sin(angle) + columns * np.cos(angle)
        mask |= (np.abs(across) < width / 2) & (along > 120) & (radius < 280)
    return mask


@pytest.mark.parametrize("width", [4, 7, 12])
def test_bars_in_all_directions_have_their_width(width: int) -> None:
    assert mean_vessel_width(_spokes(width), _field()) == pytest.approx(width, rel=0.12)


def test_vessels_at_the_edge_of_the_photograph_end_there() -> None:
    field = _field()
    everything = np.ones((SIZE, SIZE), bool)
    top, left, bottom, right = field.box
    # Each row and each column of a rectangle changes twice.
    expected = 2 * (bottom - top) * (right - left) / (np.pi / 2 * (bottom - top + right - left))
    assert mean_vessel_width(everything, field) == pytest.approx(expected)


def test_without_vessels_there_is_no_width_and_landmarks_are_seen_at_their_own_size() -> None:
    field, none = _field(), np.zeros((SIZE, SIZE), bool)
    assert np.isnan(mean_vessel_width(none, field))
    model = Segmenter.from_pretrained(shipped_model("landmarks"))
    assert landmark_diameter(model, none, field) == model.preprocess.working_diameter


def test_a_field_of_narrow_vessels_is_seen_larger() -> None:
    model = Segmenter.from_pretrained(shipped_model("landmarks"))
    own = model.preprocess.working_diameter
    assert landmark_diameter(model, _spokes(7), _field()) == own
    wide = synthesize_eye(5, size=SIZE, field_angle=55)
    assert landmark_diameter(model, wide.vessels > 0, wide.field) == round(1.25 * own)
    other = Segmenter(SegmenterConfig()).eval()  # a model of one's own, which says nothing of wide fields
    assert landmark_diameter(other, wide.vessels > 0, wide.field) == other.preprocess.working_diameter
