import pytest
import torch

from foveal.encoders import Features, create_encoder, list_encoders


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("conv-pyramid", {"widths": (8, 12, 16)}),
        ("timm/resnet10t", {}),
        ("timm/convnext_atto", {"in_channels": 4}),
        ("timm/swin_tiny_patch4_window7_224", {"img_size": 64}),
    ],
)
def test_encoder_keeps_the_contract(name, settings):
    encoder = create_encoder(name, **settings).eval()
    images = torch.rand(2, encoder.in_channels, 64, 64)
    features = encoder(images)
    height, width = features.grid
    assert features.patches.shape == (2, height * width, encoder.dim)
    assert features.pooled.shape == (2, encoder.dim)
    assert [m.shape[1] for m in features.pyramid] == list(encoder.pyramid_channels)
    assert [64 // m.shape[-1] for m in features.pyramid] == list(encoder.pyramid_strides)
    assert height == 64 // encoder.patch_size
    # Row-major over the grid.
    torch.testing.assert_close(features.patches[0, width + 1], features.pyramid[-1][0, :, 1, 1])


def test_unknown_encoder_suggests_the_nearest():
    assert "conv-pyramid" in list_encoders()
    with pytest.raises(ValueError, match=r"conv-piramid.*did you mean 'conv-pyramid'"):
        create_encoder("conv-piramid")
    with pytest.raises(ValueError, match="resnet18"):
        create_encoder("timm/resnet_18")


def test_sides_that_do_not_fold_are_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        create_encoder("conv-pyramid")(torch.rand(1, 3, 60, 64))


def test_features_refuse_tokens_that_do_not_fill_the_grid():
    with pytest.raises(ValueError, match="do not fill"):
        Features(torch.rand(1, 5, 3), (2, 3), torch.rand(1, 3))
