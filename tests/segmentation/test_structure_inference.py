import numpy as np
import pytest
import torch

from foveal.models import Preprocess, Segmenter, SegmenterConfig
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import synthesize_eye
from foveal.segmentation.frames import working_frame
from foveal.segmentation.inference import segment_structures, segment_vessels


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    config = SegmenterConfig(
        encoder_settings={"widths": [8, 12, 16]},
        classes=("artery", "vein"),
        activation="sigmoid",
        preprocess=Preprocess(working_diameter=96),
    )
    return Segmenter(config).eval()


def test_maps_have_the_photographs_size_and_end_at_the_field(model):
    eye = synthesize_eye(1, size=150)
    found = segment_structures(model, eye.image, eye.field)
    assert found.names == ("artery", "vein")
    spread = found.spread("vein")
    assert found.probability.shape == (2, 150, 150)
    assert found.probability.dtype == spread.dtype == np.float32
    assert not found.probability[:, ~eye.field.mask].any()
    assert not spread[~eye.field.mask].any()
    assert 0 < spread.max() <= 0.5
    np.testing.assert_array_equal(found["vein"], found.probability[1])
    np.testing.assert_array_equal(found.spread() >= spread, True)
    with pytest.raises(KeyError, match="structure 'disc'; there are artery, vein"):
        found["disc"]


def test_mirroring_the_photograph_mirrors_the_maps(model):
    eye = synthesize_eye(2, size=128)
    turned = np.ascontiguousarray(eye.image[:, ::-1])
    one = segment_structures(model, eye.image, find_field_of_view(eye.image))
    other = segment_structures(model, turned, find_field_of_view(turned))
    difference = np.abs(other.probability[..., ::-1] - one.probability)
    assert np.median(difference) < 0.01


def test_one_view_has_no_spread_and_agrees_with_the_vessels_call(model):
    eye = synthesize_eye(3, size=128)
    found = segment_structures(model, eye.image, eye.field, views=1)
    assert not found.spread("artery").any()
    same = segment_vessels(model, eye.image, eye.field, views=1, scales=(1.0,))
    np.testing.assert_allclose(found["artery"], same.probability, atol=1e-6)


def test_small_maps_are_those_of_the_photographs_size_averaged(model):
    eye = synthesize_eye(4, size=180)
    found = segment_structures(model, eye.image, eye.field)
    top, left = (round(middle) - 60 for middle in eye.field.center)
    box = (top, left, top + 120, left + 120)
    large = found.frame.place_back(found.seen[0])[top : top + 120, left : left + 120]
    small = found.mean("artery", box, (40, 60))
    np.testing.assert_allclose(small, large.reshape(40, 3, 60, 2).mean(axis=(1, 3)), atol=2e-3)
    spread, inside = found.mean_spread((90, 90)), eye.field.mask.reshape(90, 2, 90, 2)
    assert spread.dtype == np.float32
    assert not spread[~inside.any(axis=(1, 3))].any()
    whole = found.spread().reshape(90, 2, 90, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(*(each[inside.all(axis=(1, 3))] for each in (spread, whole)), atol=2e-3)


def test_pixels_that_reach_a_level_are_those_of_the_map(model):
    eye = synthesize_eye(1, size=150)
    found = segment_structures(model, eye.image, eye.field)
    level = float(np.median(found["vein"][eye.field.mask]))
    places, values = found.reaching("vein", level)
    np.testing.assert_array_equal(places, np.flatnonzero(found["vein"] >= np.float32(level)))
    np.testing.assert_array_equal(values, found["vein"].ravel()[places])


@pytest.mark.parametrize("sigma", [32.0, 48.0], ids=["prepared once", "prepared for each view"])
def test_views_are_those_of_mirrored_photographs(sigma):
    torch.manual_seed(1)
    preprocess = Preprocess(working_diameter=128, contrast_sigma=sigma)
    config = SegmenterConfig(encoder_settings={"widths": [8, 12]}, preprocess=preprocess)
    model = Segmenter(config).eval()
    frame = working_frame(
        (eye := synthesize_eye(2, size=160)).image, find_field_of_view(eye.image), diameter=128
    )
    with torch.inference_mode():
        expected = [
            model.signed(model(frame.image.flip(axes) if axes else frame.image)).flip(axes)
            for axes in ((), (-1,))
        ]
    found = segment_structures(model, eye.image, find_field_of_view(eye.image), views=2)
    torch.testing.assert_close(found.seen[None], (2 + sum(expected)) / 4, atol=1e-5, rtol=0)


def test_wrong_views_are_named(model):
    eye = synthesize_eye(3, size=128)
    with pytest.raises(ValueError, match="views 3; allowed: 1, 2, 4"):
        segment_structures(model, eye.image, eye.field, views=3)
