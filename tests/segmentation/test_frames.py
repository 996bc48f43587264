import numpy as np
import pytest
import torch

from foveal.models import Preprocess, Segmenter, SegmenterConfig
from foveal.scans.field_of_view import find_field_of_view
from foveal.scans.synthetic import synthesize_eye
from foveal.segmentation.frames import frame_box, resample, working_frame
from foveal.segmentation.inference import segment_vessels


@pytest.fixture(scope="module")
def photograph():
    eye = synthesize_eye(5, size=400).image
    return np.pad(eye, ((20, 60), (90, 10), (0, 0)))


@pytest.mark.parametrize("diameter", [200, 384, 700])
def test_what_a_frame_shows_goes_back_to_where_it_was(photograph, diameter):
    field = find_field_of_view(photograph)
    frame = working_frame(photograph, field, diameter=diameter)
    assert frame.image.shape[-1] % 32 == 0
    rows, columns = np.indices(photograph.shape[:2], dtype=np.float32)
    inside = field.mask.copy()
    inside[:, :120] = False  # keep off the border, where the blur of resampling mixes in the outside
    for coordinate in (rows, columns):
        top, left, bottom, _ = frame.box
        extent = np.arange(max(bottom - top, 1), dtype=np.float32)
        ramp = extent[:, None] + top if coordinate is rows else extent[None] + left
        square = np.broadcast_to(ramp, (bottom - top, bottom - top))
        back = frame.place_back(resample(square.copy(), frame.image.shape[-1])[0, 0])
        scale = (bottom - top) / frame.image.shape[-1]
        assert np.abs(back - coordinate)[inside].max() < 0.6 * max(1, scale)


def test_a_frame_as_large_as_the_field_is_the_photograph_itself(photograph):
    field = find_field_of_view(photograph)
    (top, _, bottom, _), side = frame_box(field, diameter=384, multiple=1)
    assert side == 384
    frame = working_frame(photograph, field, diameter=bottom - top, multiple=1)
    back = np.stack([frame.place_back(channel) for channel in frame.image[0]], axis=-1)
    np.testing.assert_array_equal(np.round(back * 255), np.where(field.mask[..., None], photograph, 0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = SegmenterConfig(
        encoder_settings={"widths": (4, 8)}, preprocess=Preprocess(working_diameter=128, contrast_sigma=8)
    )
    return Segmenter(config).eval()


def test_vessel_map_has_the_photographs_size_and_is_empty_outside_the_field(model, photograph):
    field = find_field_of_view(photograph)
    found = segment_vessels(model, photograph, field)
    assert found.probability.shape == found.confidence.shape == photograph.shape[:2]
    assert found.probability.dtype == np.float32
    assert found.probability.min() >= 0
    assert found.probability.max() <= 1
    assert (found.probability[~field.mask] == 0).all()
    np.testing.assert_allclose(
        found.confidence[field.mask], np.abs(2 * found.probability[field.mask] - 1), atol=1e-6
    )
    np.testing.assert_array_equal(found.mask(), found.probability >= 0.5)


def test_all_four_views_make_the_map_equivariant_to_mirroring(model):
    eye = synthesize_eye(6, size=256).image
    field = find_field_of_view(eye)
    mirrored = find_field_of_view(eye[:, ::-1].copy())
    options = {"views": 4, "scales": (1.0,)}
    a = segment_vessels(model, eye, field, **options).probability
    b = segment_vessels(model, eye[:, ::-1].copy(), mirrored, **options).probability[:, ::-1]
    both = field.mask & mirrored.mask[:, ::-1]
    assert np.abs(a - b)[both].mean() < 0.01


def test_tiles_bound_what_enters_the_network(model, photograph):
    seen = []
    handle = model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    segment_vessels(model, photograph, find_field_of_view(photograph), scales=(3.0,), views=1, tile=128)
    handle.remove()
    assert len(seen) > 4
    assert all(max(shape[-2:]) <= 128 for shape in seen)


def test_wrong_arguments_are_named(model, photograph):
    field = find_field_of_view(photograph)
    with pytest.raises(ValueError, match="views 3"):
        segment_vessels(model, photograph, field, views=3)
    with pytest.raises(ValueError, match="uint8 is wanted"):
        segment_vessels(model, photograph[..., 0], field)
