import pytest
import torch

from foveal.encoders.channelvit import ChannelViT
from foveal.explanation.channel_relevance import channel_relevance, channel_shares


def _model(depth: int = 2) -> ChannelViT:
    torch.manual_seed(0)
    return ChannelViT(dim=24, depth=depth, heads=3, image_size=32, patch_size=8, in_channels=4).eval()


def test_relevance_has_a_map_for_each_channel_and_leaves_the_encoder_as_it_was():
    model, images = _model(), torch.rand(2, 3, 32, 32)
    before = model(images, [0, 3, 1]).pooled
    relevance = channel_relevance(model, images, lambda z: z[:, 0], channels=[0, 3, 1])
    assert relevance.shape == (2, 3, 4, 4)
    assert (relevance >= 0).all()
    torch.testing.assert_close(channel_shares(relevance).sum(dim=1), torch.ones(2))
    assert torch.equal(model(images, [0, 3, 1]).pooled, before)
    assert all(not block.attn.attn_drop._forward_hooks for block in model.blocks)


def test_one_block_gives_the_positive_part_of_gradient_times_attention():
    model, images = _model(depth=1), torch.rand(1, 4, 32, 32)
    relevance = channel_relevance(model, images, lambda z: z[:, 1])
    block = model.blocks[0]
    block.attn.fused_attn = False
    kept = []
    block.attn.attn_drop.register_forward_hook(lambda _, __, out: kept.append(out))
    (gradient,) = torch.autograd.grad(model(images).pooled[:, 1].sum(), kept)
    wanted = (gradient * kept[0]).relu().mean(dim=1)[0, 0, 1:]
    torch.testing.assert_close(relevance.flatten(), wanted.detach())


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        channel_relevance(_model().train(), torch.rand(1, 4, 32, 32), lambda z: z[:, 0])
