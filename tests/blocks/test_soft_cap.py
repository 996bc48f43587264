"""Soft-capped attention: ordinary attention where logits are small, and never beyond the cap."""

import math

import pytest
import timm
import torch
from timm.layers.attention import Attention

from foveal.blocks.soft_cap import SoftCappedAttention, cap_attention, soft_capped


def attention(**options):
    torch.manual_seed(0)
    return Attention(32, num_heads=4, qkv_bias=True, norm_layer=torch.nn.LayerNorm, **options).eval()


TOKENS = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"scale_norm": True}, {"gated": True}])
def test_without_a_cap_it_is_timms_attention(options):
    plain = attention(**options)
    wanted = plain(TOKENS)
    torch.testing.assert_close(SoftCappedAttention(plain, cap=math.inf)(TOKENS), wanted, atol=1e-6, rtol=0)


def test_small_logits_pass_and_large_ones_stay_within_the_cap():
    plain = attention()
    with torch.no_grad():
        plain.qkv.weight.mul_(2)
        capped = SoftCappedAttention(plain)
        logits, _ = SoftCappedAttention(plain, cap=math.inf).logits(TOKENS)
        plain.qkv.weight.mul_((2.9 / logits.abs().max()).sqrt())
        plain.qkv.bias.mul_((2.9 / logits.abs().max()).sqrt())
        difference = (capped(TOKENS) - plain(TOKENS)).norm() / plain(TOKENS).norm()
        assert float(difference) < 1e-3
        plain.qkv.weight.mul_(100)
        assert float(capped.logits(TOKENS)[0].abs().max()) <= 30
    assert float(soft_capped(torch.tensor([1e9, -1e9]), 30.0).abs().max()) == 30


def test_gradients_are_those_of_the_formula():
    capped = SoftCappedAttention(attention(), cap=2.0)
    logits, _ = capped.logits(TOKENS)
    weights = torch.rand_like(logits)
    found = torch.autograd.grad((logits * weights).sum(), capped.qkv.weight)[0]
    other = attention()
    plain, _ = SoftCappedAttention(other, cap=math.inf).logits(TOKENS)
    wanted = torch.autograd.grad((soft_capped(plain, 2.0) * weights).sum(), other.qkv.weight)[0]
    torch.testing.assert_close(logits, soft_capped(plain, 2.0))
    torch.testing.assert_close(found, wanted)


def test_weights_load_unchanged_both_ways_and_attention_of_a_whole_model_is_replaced():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3)
    images, names = torch.rand(2, 3, 32, 32), list(model.state_dict())
    wanted = model.eval()(images)
    assert cap_attention(model, math.inf) == 3
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(images), wanted, atol=1e-6, rtol=0)
    assert cap_attention(timm.create_model("vit_tiny_patch16_224", depth=2)) == 2


def test_models_and_caps_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no attention of timm's"):
        cap_attention(timm.create_model("resnet10t"))
    with pytest.raises(ValueError, match="above 0"):
        SoftCappedAttention(attention(), cap=0)
