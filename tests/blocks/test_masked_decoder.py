"""The masked decoder: hidden tokens and prefix tokens have no influence, kept ones do."""

import pytest
import timm
import torch
from torch import nn

from foveal.blocks.masked_decoder import MaskedDecoder, decoder_like


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = MaskedDecoder(16, 24, patches=9, prefix_tokens=2, num_heads=2, layer_scale=0.5).eval()
    nn.init.normal_(made.project.weight)
    return made


def test_hidden_tokens_and_prefix_tokens_change_nothing_and_kept_tokens_do(decoder):
    tokens, masks = torch.randn(2, 11, 16), torch.rand(2, 3, 9) < 0.5
    masks[0, 0, :2] = torch.tensor([True, False])
    before = decoder(tokens, masks)
    assert before.shape == (6, 11, 24)
    for place, changes in ((0, False), (1, False), (2, True), (3, False)):
        other = tokens.clone()
        other[0, place] += 1
        assert torch.equal(decoder(other, masks)[0], before[0]) != changes


def test_copies_of_an_image_are_one_after_the_other(decoder):
    tokens, masks = torch.randn(2, 11, 16), torch.rand(2, 3, 9) < 0.5
    alone = decoder(tokens[1:], masks[1:, 2:])
    torch.testing.assert_close(decoder(tokens, masks)[5], alone[0])


def test_first_predictions_are_small_beside_unit_targets():
    for width in (16, 768):
        decoder = MaskedDecoder(width, 32, patches=9, prefix_tokens=1, num_heads=4)
        shown = decoder(torch.zeros(1, 10, width), torch.ones(1, 1, 9))
        assert float(shown.detach().square().mean()) < 0.05


def test_blocks_are_like_the_encoders():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=3, qkv_bias=False, qk_norm=True,
        reg_tokens=2, act_layer="relu",
    )  # fmt: skip
    block = decoder_like(vit, image_tokens=4).blocks[0]
    assert block.attn.num_heads == 3
    assert block.attn.qkv.bias is None
    assert isinstance(block.attn.q_norm, type(vit.norm))
    assert isinstance(block.mlp.act, nn.ReLU)
    assert decoder_like(vit, dim=32, image_tokens=4).blocks[0].attn.num_heads == 4
    assert decoder_like(vit, image_tokens=4).prefix_tokens == 3


def test_prefix_tokens_alone_can_be_predicted_where_there_are_some():
    decoder = MaskedDecoder(16, 24, patches=9, prefix_tokens=2, num_heads=2, prefix_only=True)
    assert decoder(torch.randn(2, 11, 16), torch.ones(2, 1, 9)).shape == (2, 2, 24)
    with pytest.raises(ValueError, match="no prefix token"):
        MaskedDecoder(16, 24, patches=9, prefix_tokens=0, prefix_only=True)


def test_tokens_and_masks_that_do_not_fit_are_refused(decoder):
    with pytest.raises(ValueError, match="made for 2 prefix tokens and 9 patches"):
        decoder(torch.randn(2, 10, 16), torch.ones(2, 1, 9))
    with pytest.raises(ValueError, match=r"wanted: \(2, R, 9\)"):
        decoder(torch.randn(2, 11, 16), torch.ones(2, 1, 8))
