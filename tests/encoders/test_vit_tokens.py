"""Tokens of vision transformers: prefix tokens kept, blocks skipped, the last normalisation applied."""

import pytest
import torch

from foveal.blocks.patch_masks import masked_images
from foveal.encoders import create_encoder
from foveal.encoders.vit_tokens import patch_grid, vit_tokens

TINY = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def tiny(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    return create_encoder(f"timm/{name}", **{**TINY, **options}).eval()


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, 1),
        ({"reg_tokens": 4}, 5),
        ({"class_token": False, "global_pool": "map"}, 0),
        ({"global_pool": "avg"}, 1),
    ],
)
def test_all_tokens_behind_the_penultimate_block_are_normalised_by_the_last_norm(options, prefix):
    encoder, images = tiny(**options), torch.randn(2, 3, 32, 32)
    vit = encoder.backbone
    found = vit_tokens(encoder, images, skip_blocks=1)
    assert found.shape == (2, prefix + 16, 24)
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    wanted = vit.norm(vit.blocks[1](vit.blocks[0](x)))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(vit_tokens(encoder, images), vit.forward_features(images), atol=1e-6, rtol=0)


def test_pixels_of_dropped_patches_have_no_influence():
    encoder, images, masks = tiny(), torch.randn(1, 3, 32, 32), torch.ones(1, 1, 16, dtype=torch.bool)
    masks[..., 5] = False
    other = images.clone()
    other[..., 8:16, 8:16] += 5
    first, second = (vit_tokens(encoder, masked_images(x, masks, 8), skip_blocks=1) for x in (images, other))
    assert torch.equal(first, second)


def test_sides_that_are_no_multiple_of_the_patch_lose_their_border():
    encoder = tiny(image_size=30)
    assert encoder(torch.rand(1, 3, 30, 30)).grid == patch_grid(encoder, (30, 30)) == (3, 3)


def test_a_soft_cap_is_saved_and_its_weights_are_those_of_the_plain_encoder(tmp_path):
    plain, capped = tiny(), tiny(soft_cap=30.0)
    capped.load_state_dict(plain.state_dict())
    capped.save_pretrained(tmp_path)
    loaded = type(capped).from_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    assert loaded.settings["soft_cap"] == 30.0
    torch.testing.assert_close(loaded(images).patches, capped(images).patches)
    torch.testing.assert_close(capped(images).patches, plain(images).patches, atol=1e-3, rtol=1e-3)


def test_other_networks_and_too_many_skipped_blocks_are_refused():
    with pytest.raises(ValueError, match="timm/resnet10t is no vision transformer"):
        vit_tokens(create_encoder("timm/resnet10t"), torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="allowed: 0 to 2"):
        vit_tokens(tiny(), torch.rand(1, 3, 32, 32), skip_blocks=3)
