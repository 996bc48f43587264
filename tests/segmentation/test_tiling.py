import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.segmentation.tiling import tiled_inference


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), overlap=st.sampled_from([0.0, 0.3, 0.9]))
def test_tiles_of_a_pointwise_network_give_the_whole(height, width, overlap):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    out = tiled_inference(lambda x: x[:, :2] * 2, images, tile=64, overlap=overlap)
    torch.testing.assert_close(out, images[:, :2] * 2)


def test_seams_are_blended_and_the_network_sees_bounded_batches():
    seen = []

    def shifted_by_tile(x):
        seen.append(x.shape)
        return torch.full_like(x[:, :1], float(len(seen)))

    out = tiled_inference(shifted_by_tile, torch.zeros(1, 1, 64, 200), tile=64, overlap=0.5, batch=1)
    assert len(seen) > 3
    assert all(shape == (1, 1, 64, 64) for shape in seen)
    steps = out[0, 0, 32].diff().abs()
    assert steps.max() < 0.2


def test_images_no_larger_than_a_tile_are_run_whole():
    shapes = []
    tiled_inference(lambda x: shapes.append(x.shape) or x, torch.rand(3, 1, 40, 70), tile=96, batch=2)
    assert shapes == [(2, 1, 64, 96), (1, 1, 64, 96)]


@pytest.mark.parametrize("wrong", [{"tile": 60}, {"tile": 64, "overlap": 1.0}, {"tile": 64, "batch": 0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match="is wanted"):
        tiled_inference(lambda x: x, torch.rand(1, 1, 64, 64), **wrong)
