import pytest
import torch

from foveal.encoders import ConvPyramid, create_encoder
from foveal.encoders.base import Encoder
from foveal.models import Segmenter, SegmenterConfig
from foveal.models.decoders import EncoderDecoder

VIT = {"depth": 1, "embed_dim": 24, "num_heads": 2}


@torch.no_grad()
def test_an_encoder_of_one_map_tells_each_patch_its_own_pixels():
    torch.manual_seed(0)
    network = EncoderDecoder(create_encoder("timm/vit_tiny_patch16_224", **VIT), outputs=2).eval()
    images = torch.rand(1, 3, 64, 48)
    logits = network(images)
    assert network.decoder is None
    assert logits.shape == (1, 2, 64, 48)
    token = network.encoder(images).patches[0, 1 * 3 + 2]  # second row, third column
    patch = logits[0, :, 16:32, 32:48]
    expected = (network.head.project.weight.flatten(1) @ token + network.head.project.bias).view(2, 16, 16)
    torch.testing.assert_close(patch, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "conv-pyramid"])
def test_sides_that_are_no_multiple_of_the_stride_are_padded_with_black_and_cropped(name):
    torch.manual_seed(0)
    settings = VIT if name.startswith("timm") else {"widths": (4, 6, 8)}
    network = EncoderDecoder(create_encoder(name, **settings)).eval()
    images = torch.rand(1, 3, 50, 75)
    multiple = network.multiple
    padded = torch.nn.functional.pad(images, (0, -75 % multiple, 0, -50 % multiple))
    torch.testing.assert_close(network(images), network(padded)[..., :50, :75])


def test_a_segmenter_over_a_plain_transformer_learns_and_is_saved(tmp_path):
    config = SegmenterConfig(encoder="timm/vit_tiny_patch16_224", encoder_settings=VIT)
    model = Segmenter(config)
    images = torch.rand(1, 3, 40, 40)
    model(images).square().mean().backward()
    assert all(p.grad is not None for p in model.network.head.parameters())
    again = Segmenter.from_pretrained(model.save_pretrained(tmp_path))
    torch.testing.assert_close(again(images), model.eval()(images))


def test_an_encoder_without_maps_is_refused():
    class Blind(Encoder):
        patch_size = 8

    with pytest.raises(ValueError, match="Blind has a pyramid of 0 levels"):
        EncoderDecoder(Blind())
    with pytest.raises(ValueError, match=r"decoder widths \[4\]: 2 values are wanted"):
        EncoderDecoder(ConvPyramid(widths=(4, 6, 8)), widths=[4])
