"""Layers of few bits: grids, packing, saving, and attention whose products are on grids."""

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveal.blocks.changes import change_again, change_model, changes_of
from foveal.blocks.quantized_attention import QuantizedAttention, attention_modules, products_met
from foveal.blocks.quantized_linear import QuantizedConv2d, QuantizedLinear
from foveal.blocks.quantized_numbers import log_sqrt2, pack, packed_size, uniform, unpack


def tiny(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    chosen = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2} | options
    return timm.create_model(name, num_classes=3, **chosen).eval()


def swin():
    return tiny(
        "swin_tiny_patch4_window7_224", img_size=64, patch_size=4, window_size=4, embed_dim=16, depth=None,
        depths=(2, 2), num_heads=(2, 4),
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(bits=st.integers(2, 8), count=st.integers(1, 100), seed=st.integers(0, 99))
def test_packing_is_exact_both_ways(bits, count, seed) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(count, bits) == math.ceil(count * bits / 8)
    assert torch.equal(unpack(packed, bits, count).long(), codes)


def test_four_bits_are_two_a_byte() -> None:
    assert pack(torch.tensor([1, 2, 15, 0]), 4).tolist() == [0x21, 0x0F]


def test_bytes_of_another_count_are_refused() -> None:
    with pytest.raises(ValueError, match="10 codes of 3 bits take 4"):
        unpack(torch.zeros(5, dtype=torch.uint8), 3, 10)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_levels_of_log_sqrt2_are_those_of_the_formula(bits) -> None:
    x = torch.cat([torch.zeros(1), torch.logspace(-6, 0, 200)])
    found, scale = log_sqrt2(x, torch.tensor(0.9), bits), 0.9
    for value, made in zip(x.tolist(), found.tolist(), strict=True):
        q = math.inf if value == 0 else np.round(-2 * np.log2(np.float32(value) / np.float32(scale)))
        level = 0.0
        if q < 2**bits:
            q = max(q, 0)
            level = 2.0 ** -math.ceil(q / 2) * (math.sqrt(2) if q % 2 else 1) * scale
        assert made == pytest.approx(level, rel=1e-6, abs=1e-9)


def test_thirty_two_bits_leave_numbers_alone() -> None:
    x = torch.randn(10)
    assert uniform(x, torch.tensor(0.3), torch.tensor(1.0), 32) is x
    assert log_sqrt2(x, torch.tensor(0.3), 32) is x


def test_gradients_pass_the_grid_where_it_reaches() -> None:
    x = torch.tensor([-5.0, 0.2, 5.0], requires_grad=True)
    y = uniform(x, torch.tensor(0.1), torch.tensor(8.0), 4)
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 0]
    assert torch.equal(y.detach(), uniform(x.detach(), torch.tensor(0.1), torch.tensor(8.0), 4))


def test_a_filled_layer_computes_with_its_grids_and_loads_to_the_bit() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    made = QuantizedLinear(7, 5, weight_bits=3, activation_bits=4)
    scale, zero = torch.rand(5) / 3 + 0.1, torch.full((5,), 4.0)
    made.fill(layer.weight, scale, zero, layer.bias)
    made.activation_scale.fill_(0.2)
    made.activation_zero.fill_(7)
    wanted = nn.functional.linear(
        uniform(x, torch.tensor(0.2), torch.tensor(7.0), 4),
        uniform(layer.weight.detach(), scale[:, None], zero[:, None], 3),
        layer.bias,
    )
    assert torch.equal(made(x), wanted)
    assert len(made.packed) == 14  # 35 codes of 3 bits
    again = QuantizedLinear(7, 5, weight_bits=3, activation_bits=4)
    again(x)  # what was unpacked before loading is forgotten
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x), made(x))


def test_a_convolution_keeps_its_geometry() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    made = QuantizedConv2d(layer, weight_bits=8, activation_bits=32)
    flat = layer.weight.flatten(1)
    scale = (flat.amax(1) - flat.amin(1)) / 255
    made.fill(layer.weight, scale, torch.round(-flat.amin(1) / scale), layer.bias)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(made(x), layer(x), atol=0.02, rtol=0)


def test_a_change_is_made_again_and_loads_the_same_numbers() -> None:
    model, images = tiny(), torch.rand(2, 3, 32, 32)
    change_model(
        model,
        "quantized-linear",
        layers={"patch_embed.proj": [8, 8], "blocks.0.attn.qkv": [4, 6], "head": [8, 8]},
        attention={"blocks.0.attn": [4, 3, "log-sqrt2"]},
    )
    for buffer in model.buffers():
        if buffer.dtype == torch.uint8:
            buffer.random_(0, 255)
    again = tiny()
    change_again(again, changes_of(model))
    again.load_state_dict(model.state_dict())
    assert isinstance(again.blocks[0].attn, QuantizedAttention)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("make", [tiny, swin, lambda: tiny("deit_tiny_distilled_patch16_224")])
def test_both_products_of_every_attention_are_met(make) -> None:
    model = make()
    images, met = torch.rand(2, 3, *[64 if hasattr(model, "layers") else 32] * 2), []
    names = attention_modules(model, images)
    with products_met(model, names, result=lambda name, product, _y: met.append((name, product))):
        inside = model(images)
    assert met == [(name, product) for name in names for product in ("scores", "mixing")]
    torch.testing.assert_close(inside, model(images))


def test_products_met_ends_when_a_pass_fails() -> None:
    model = tiny()

    def fail(*_given):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), products_met(model, ["blocks.0.attn"], fail):
        model(torch.rand(1, 3, 32, 32))
    model(torch.rand(1, 3, 32, 32))
    assert "forward" not in vars(model.blocks[0].attn)


def test_wide_numbers_change_nothing_in_attention() -> None:
    model, images = tiny(), torch.rand(2, 3, 32, 32)
    wanted = model(images)
    change_model(model, "quantized-linear", layers={}, attention={"blocks.1.attn": [32, 32, "log-sqrt2"]})
    torch.testing.assert_close(model(images), wanted)


def test_what_has_no_form_of_few_bits_is_named() -> None:
    with pytest.raises(ValueError, match="norm is a LayerNorm"):
        change_model(tiny(), "quantized-linear", layers={"norm": [4, 4]})
    with pytest.raises(ValueError, match="no layer 'blocks"):
        change_model(tiny(), "quantized-linear", layers={"blocks.7.mlp.fc1": [4, 4]})
    with pytest.raises(ValueError, match="9 bits; allowed: 2 to 8"):
        QuantizedLinear(2, 2, weight_bits=9, activation_bits=4)
    with pytest.raises(ValueError, match="attention weights"):
        QuantizedAttention(tiny().blocks[0].attn, scores_bits=4, mixing_bits=4, weights="log")


def test_attention_that_cannot_be_met_is_named() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 2, batch_first=True)).train()
    with pytest.raises(ValueError, match=r"products of 1\.self_attn cannot be met"):
        attention_modules(model, torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="has no attention"):
        attention_modules(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 8, 8))
