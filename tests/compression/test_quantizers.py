"""Grids that are found for numbers, and LayerNorms that are scaled for them."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from foveal.blocks.quantized_numbers import uniform
from foveal.compression.calibration import (
    ChannelGrids,
    channel_grids,
    common_grid,
    norm_readers,
    reparameterise,
)
from foveal.compression.quantizers import MIN_MAX, LogSqrt2Quantizer, UniformQuantizer


def reference(x, bits):
    """RepQ-ViT's search, number by number."""
    best = (np.inf, None)
    for p in (0.999, 0.9999, 0.99999):
        high, low = np.quantile(x, p), np.quantile(x, 1 - p)
        s = (high - low) / (2**bits - 1)
        z = np.round(-low / s)
        made = (np.clip(np.round(x / s) + z, 0, 2**bits - 1) - z) * s
        error = ((made - x) ** 2).sum()
        if error < best[0]:
            best = error, made
    return best[1]


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_numbers_are_those_of_the_reference(bits) -> None:
    x = torch.randn(3, 4000, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    x[1] *= torch.linspace(0.1, 9, 4000)
    found = UniformQuantizer(bits, axis=0).calibrate(x)(x)
    for row, made in zip(x, found, strict=True):
        assert made.numpy() == pytest.approx(reference(row.numpy(), bits), abs=1e-6)
    one = UniformQuantizer(bits).calibrate(x)(x)
    assert one.numpy().ravel() == pytest.approx(reference(x.numpy().ravel(), bits), abs=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_errors_are_half_a_step_and_the_grid_holds_itself_and_0(bits) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    grid = UniformQuantizer(bits, percentiles=MIN_MAX).calibrate(x)
    y = grid(x)
    assert float((x - y).abs().max()) <= float(grid.scale) / 2 * (1 + 1e-4)
    assert torch.equal(grid(y), y)
    assert float(grid(torch.zeros(1))) == 0
    if bits == 8:
        assert float((x - y).square().mean()) < 1.2 * float(grid.scale) ** 2 / 12
    assert torch.equal((torch.unique(grid.codes(x)) <= 2**bits - 1), torch.ones(len(torch.unique(y))) > 0)


def test_constants_have_a_grid_without_nan() -> None:
    for value in (0.0, 3.0, -2.0):
        grid = UniformQuantizer(4).calibrate(torch.full((64,), value))
        assert float(grid.scale) > 0
        assert grid(torch.full((3,), value)).tolist() == pytest.approx([value] * 3)
    assert torch.isfinite(LogSqrt2Quantizer(4).calibrate(torch.zeros(9))(torch.zeros(9))).all()
    rows = torch.cat([torch.zeros(50, 1), torch.randn(50, 3)], dim=1)
    grids = channel_grids(rows, [nn.Linear(4, 2)], [4], 4)
    assert torch.isfinite(grids.scale).all()
    assert (grids.scale > 0).all()


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        UniformQuantizer(4).calibrate(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match="12 bits; allowed"):
        UniformQuantizer(12)


def test_packed_codes_are_the_codes() -> None:
    x = torch.randn(11)
    grid = UniformQuantizer(4).calibrate(x)
    assert len(grid.pack(x)) == 6


def norm_and_layer():
    torch.manual_seed(0)
    norm, layer = nn.LayerNorm(12), nn.Linear(12, 5)
    nn.init.uniform_(norm.weight, 0.2, 4)
    nn.init.normal_(norm.bias)
    return norm, layer, torch.randn(200, 12)


@pytest.mark.parametrize("clip", [(0.0,), (0.05,)])
def test_scaling_a_norm_leaves_what_its_reader_gives(clip) -> None:
    norm, layer, x = norm_and_layer()
    wanted = layer(norm(x))
    grids = channel_grids(norm(x), [layer], [4], 4, clip=clip)
    reparameterise(norm, [layer], grids)
    torch.testing.assert_close(layer(norm(x)), wanted, rtol=1e-4, atol=1e-4)


def test_a_layer_without_bias_gets_one() -> None:
    norm, _, x = norm_and_layer()
    layer = nn.Linear(12, 5, bias=False)
    wanted = layer(norm(x))
    reparameterise(norm, [layer], channel_grids(norm(x), [layer], [4], 4))
    torch.testing.assert_close(layer(norm(x)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whole", [True, False])
def test_one_grid_does_what_the_channels_own_did_only_with_a_whole_zero_point(whole) -> None:
    norm, layer, x = norm_and_layer()
    norm, layer, x = norm.double(), layer.double(), x.double()
    grids = channel_grids(norm(x), [layer], [4], 4, clip=(0.0,))
    wanted = uniform(norm(x), grids.scale, grids.zero_point, 4)
    ratio = grids.scale / common_grid(grids, whole=whole)[0]
    shift = (common_grid(grids, whole=whole)[1] - grids.zero_point) * common_grid(grids)[0]
    scale, zero = reparameterise(norm, [layer], grids, whole=whole)
    apart = ((uniform(norm(x), scale, zero, 4) + shift) * ratio - wanted).detach()
    if whole:
        assert float(apart.abs().max()) < 1e-6
    else:
        assert float((apart / grids.scale).abs().max()) > 0.1


def test_clipping_is_taken_only_where_outputs_err_less() -> None:
    norm, layer, x = norm_and_layer()
    y = norm(x)
    assert channel_grids(y, [layer], [8], 8, clip=(0.0, 0.49)).clipped == 0.0
    y = y.detach()
    y[0, 3] = 20.0  # one number in one channel: a large factor for its column of weights
    assert channel_grids(y, [layer], [3], 3, percentiles=MIN_MAX, clip=(0.0, 0.1)).clipped == 0.1


def test_a_norm_without_weights_is_refused() -> None:
    grids = ChannelGrids(torch.ones(3), torch.zeros(3))
    with pytest.raises(ValueError, match="elementwise_affine=False"):
        reparameterise(nn.LayerNorm(3, elementwise_affine=False), [], grids)


def test_readers_of_norms_are_found_through_windows_and_left_out_where_others_read_too() -> None:
    torch.manual_seed(0)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=4, embed_dim=16,
        depths=(2, 2), num_heads=(2, 4),
    ).eval()  # fmt: skip
    found = norm_readers(swin, torch.rand(1, 3, 64, 64))
    assert found["layers.0.blocks.1.norm1"] == ["layers.0.blocks.1.attn.qkv"]
    assert found["layers.1.downsample.norm"] == ["layers.1.downsample.reduction"]
    padded = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=3, img_size=56, window_size=4, embed_dim=16,
        depths=(2,), num_heads=(2,),
    ).eval()  # fmt: skip
    assert "layers.0.blocks.0.norm1" not in norm_readers(padded, torch.rand(1, 3, 56, 56))  # 14 = 3.5 windows
    post = timm.create_model(
        "vit_relpos_small_patch16_224", num_classes=3, img_size=32, patch_size=8, embed_dim=32, depth=2,
        num_heads=2, block_fn=timm.models.vision_transformer_relpos.ResPostRelPosBlock,
    ).eval()  # fmt: skip
    assert norm_readers(post, torch.rand(1, 3, 32, 32)) == {"fc_norm": ["head"]}
