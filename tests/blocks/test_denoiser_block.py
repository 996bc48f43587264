import pytest
import torch
from timm.models.vision_transformer import Block

from foveal.blocks.denoiser import DenoiserBlock


def test_parameters_are_those_of_one_block_and_of_the_positions():
    block = DenoiserBlock(128, (5, 7))
    own = sum(p.numel() for p in Block(128, 2, mlp_ratio=4, qkv_bias=True).parameters())
    assert sum(p.numel() for p in block.parameters()) == own + 5 * 7 * 128
    assert block.block.attn.num_heads == 2
    assert block.block.norm1.eps == 1e-6


def test_the_output_is_the_block_of_features_and_positions_with_nothing_added():
    torch.manual_seed(0)
    block = DenoiserBlock(64, (3, 4)).eval()
    features = torch.randn(2, 3, 4, 64)
    tokens = (features + block.positions.table.view(1, 3, 4, 64)).flatten(1, 2)
    torch.testing.assert_close(block(features), block.block(tokens).view(2, 3, 4, 64))


def test_other_grids_get_resized_positions():
    block = DenoiserBlock(16, (4, 4))
    assert block(torch.randn(1, 6, 3, 16)).shape == (1, 6, 3, 16)


def test_features_of_another_length_and_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"allowed: \(B, h, w, 16\)"):
        DenoiserBlock(16, (4, 4))(torch.randn(1, 4, 4, 8))
    with pytest.raises(ValueError, match="heads 3"):
        DenoiserBlock(16, (4, 4), heads=3)
