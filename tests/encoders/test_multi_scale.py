import logging

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from foveal.blocks.tiles import split_tiles
from foveal.encoders import create_encoder
from foveal.encoders.multi_scale import MultiScale, multiscale_features
from foveal.encoders.scale_plan import ScalePlan, cost_ratio, plan_scales, token_budget


class Patches(nn.Module):
    """The patch projection of a transformer, with prefix tokens in front."""

    def __init__(self, dim: int = 4, *, patch: int = 16, prefix: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Conv2d(3, dim, patch, patch)
        self.prefix = prefix
        self.sizes: list[int] = []

    def forward(self, images):
        self.sizes.append(len(images))
        tokens = self.project(images).flatten(2).mT
        return torch.cat([tokens.mean(dim=1, keepdim=True).expand(-1, self.prefix, -1), tokens], dim=1)


IMAGES = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
SMALL = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", [Patches(), Patches(prefix=1), Patches().project])
def test_one_scale_is_the_model_itself_to_the_bit(model):
    assert torch.equal(multiscale_features(model, IMAGES, scales=[1]), model(IMAGES))


def test_output_has_the_tokens_of_the_first_scale_and_the_channels_of_all():
    assert multiscale_features(Patches(), IMAGES, scales=[1, 2]).shape == (2, 196, 8)
    assert multiscale_features(Patches(prefix=1), IMAGES, scales=[1, 2]).shape == (2, 197, 8)
    assert multiscale_features(Patches(prefix=5), IMAGES, scales=[1, 2], num_prefix=5).shape == (2, 201, 8)
    assert multiscale_features(Patches().project, IMAGES, scales=[1, 2, 3]).shape == (2, 12, 14, 14)
    assert multiscale_features(Patches(), IMAGES, scales=[1, 2], out_index=-1).shape == (2, 784, 8)


def _by_hand(model, images, sizes, *, prefix):
    """The published behaviour for squares, written with slices and loops."""
    side, scales, heads = images.shape[-1], [], []
    for size in sizes:
        count = -(-size // side)
        tile = size // count
        big = images
        if size != side:
            big = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)
        rows, head = [], 0
        for i in range(count):
            row = []
            for j in range(count):
                tokens = model(big[:, :, i * tile : (i + 1) * tile, j * tile : (j + 1) * tile])
                grid = round((tokens.shape[1] - prefix) ** 0.5)
                row.append(tokens[:, prefix:].mT.reshape(len(images), -1, grid, grid))
                head = head + tokens[:, :prefix] / count**2
            rows.append(torch.cat(row, dim=3))
        scales.append(torch.cat(rows, dim=2))
        heads.append(head)
    target = scales[0].shape[-2:]
    joined = torch.cat([F.interpolate(m, size=target, mode="area") for m in scales], dim=1)
    return torch.cat([torch.cat(heads, dim=-1), joined.flatten(2).mT], dim=1)


@pytest.mark.parametrize("scales", [(1, 2), (1, 2, 3), (0.5, 1)])
def test_squares_come_out_as_published(scales):
    model = Patches(patch=8, prefix=1)
    images = torch.rand(2, 3, 64, 64)
    wanted = _by_hand(model, images, [int(64 * s) for s in scales], prefix=1)
    given = multiscale_features(model, images, scales=scales)
    torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-6)
    sized = multiscale_features(model, images, sizes=[int(64 * s) for s in scales], max_tile=64)
    assert torch.equal(sized, given)


def test_a_model_of_patch_means_is_pooled_without_a_shift():
    model = nn.AvgPool2d(4)
    images = torch.rand(1, 1, 32, 32)
    doubled = F.interpolate(images, size=(64, 64), mode="bicubic", align_corners=False)
    out = multiscale_features(model, images, scales=[1, 2])
    torch.testing.assert_close(
        out[:, 1:], F.interpolate(doubled, size=(8, 8), mode="area"), atol=1e-5, rtol=0
    )


def test_a_shift_by_a_tile_shifts_the_merged_map():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(4))
    images = torch.rand(1, 1, 64, 64)
    plain = multiscale_features(model, images, scales=[1], max_tile=16)
    rolled = multiscale_features(model, images.roll((16, 32), dims=(2, 3)), scales=[1], max_tile=16)
    torch.testing.assert_close(rolled, plain.roll((4, 8), dims=(2, 3)))


def test_sub_batches_change_nothing_and_bound_what_the_model_sees():
    model = Patches(prefix=1)
    whole = multiscale_features(model, IMAGES, scales=[1, 2])
    model.sizes.clear()
    parts = multiscale_features(model, IMAGES, scales=[1, 2], tile_batch=2)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert model.sizes == [2] * 5


def test_tiles_of_one_colour_are_run_once():
    model = Patches(patch=8)
    images = torch.zeros(2, 3, 64, 64)
    images[:, :, 20:44, 20:30] = torch.rand(2, 3, 24, 10)
    plain = multiscale_features(model, images, scales=[1, 4])
    model.sizes.clear()
    reused = multiscale_features(model, images, scales=[1, 4], reuse_constant_tiles=True)
    torch.testing.assert_close(reused, plain)
    assert model.sizes[1] < 12  # of 32 tiles


def test_overlapping_tiles_blend_to_the_same_map_where_the_model_sees_single_patches():
    model = Patches(patch=8)
    images = torch.rand(2, 3, 64, 64)
    plain = multiscale_features(model, images, scales=[1, 2])
    overlapping = multiscale_features(model, images, scales=[1, 2], overlap=0.25)
    torch.testing.assert_close(overlapping, plain)
    assert sum(model.sizes) > 20


def test_normalised_scales_have_unit_variance():
    out = multiscale_features(Patches(dim=16), IMAGES, scales=[1, 2], norm_per_scale=True)
    for scale in out.split(16, dim=-1):
        torch.testing.assert_close(scale.var(dim=-1, unbiased=False), torch.ones(2, 196), atol=1e-3, rtol=0)


def test_gradients_pass_to_model_and_images():
    model = Patches(patch=8)
    images = SMALL.clone().requires_grad_()
    for overlap in (0.0, 0.5):
        multiscale_features(model, images, scales=[1, 2], overlap=overlap).square().sum().backward()
    assert images.grad.abs().min() > 0
    assert model.project.weight.grad.abs().sum() > 0


def test_outputs_of_the_usual_libraries_are_read():
    from transformers.modeling_outputs import BaseModelOutput

    tower = Patches(patch=8, prefix=1)
    out = multiscale_features(lambda x: BaseModelOutput(last_hidden_state=tower(x)), SMALL, scales=[1, 2])
    torch.testing.assert_close(out[..., :4], tower(SMALL))

    plain = timm.create_model("test_vit", img_size=32, patch_size=8).eval()
    out = multiscale_features(plain, SMALL, scales=[1, 2])
    torch.testing.assert_close(out[..., : plain.embed_dim], plain.forward_features(SMALL))

    out = multiscale_features(lambda x: (tower(x).mean(dim=1), tower(x)), SMALL, scales=[1, 2])
    torch.testing.assert_close(out[..., :4], tower(SMALL))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "exactly one of them"),
        ({"scales": [1], "sizes": [32]}, "exactly one of them"),
        ({"scales": []}, "one at least"),
        ({"scales": [0.001]}, "1 px at least"),
        ({"sizes": [33], "max_tile": 32}, "do not divide into 2 x 2 tiles"),
        ({"scales": [1], "out_index": 1}, "allowed: -1 to 0"),
        ({"scales": [1], "num_prefix": 16}, "allowed: 0 to 15"),
        ({"scales": [1], "num_prefix": 3}, "do not fill a square grid"),
        ({"scales": [1], "layout": "maps"}, "layout says 'maps'"),
        ({"scales": [1], "layout": "map"}, "did you mean 'maps'"),
        ({"scales": [1], "shape": "round"}, "unknown shape"),
        ({"scales": [1, 2], "overlap": 1.0}, "overlap 1.0"),
        ({"scales": [1], "tile_batch": 0}, "tile_batch 0"),
    ],
)
def test_wrong_options_are_named(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        multiscale_features(Patches(patch=8), SMALL, **options)


def test_numbers_of_tokens_that_no_square_holds_are_refused():
    with pytest.raises(ValueError, match="do not fill a square grid"):
        multiscale_features(lambda x: torch.rand(len(x), 399, 4), SMALL, scales=[1])


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match="not square; crop or pad"):
        multiscale_features(Patches(patch=8), SMALL[..., :16], scales=[1])
    with pytest.raises(ValueError, match=r"images.float\(\) / 255"):
        multiscale_features(Patches(patch=8), SMALL.mul(255).byte(), scales=[1])
    with pytest.raises(ValueError, match="allowed: tokens"):
        multiscale_features(lambda x: x.flatten(1), SMALL, scales=[1])


def test_sizes_are_cut_off_and_tiles_may_be_smaller_than_the_largest():
    assert plan_scales(100, 100, scales=[0.29])[0].size == (28, 28)
    assert plan_scales(224, 224, scales=[1.5]) == (ScalePlan((336, 336), 2, 2),)
    assert plan_scales(2000, 2000, sizes=[224, 448])[1] == ScalePlan((448, 448), 2, 2)


def test_any_shape_keeps_the_shape_up_to_whole_tiles():
    one, two = plan_scales(448, 300, scales=[1, 2], max_tile=224, shape="any")
    assert (one.size, one.rows, one.columns) == ((448, 448), 2, 2)
    assert (two.size, two.rows, two.columns) == ((896, 672), 4, 3)
    images = torch.rand(1, 3, 64, 96)
    out = multiscale_features(Patches(patch=8).project, images, scales=[1, 2], max_tile=32, shape="any")
    assert out.shape == (1, 8, 8, 12)


def test_dynamic_shape_adds_the_nearest_grid_of_tiles_and_comes_out_on_it():
    assert plan_scales(600, 900, sizes=[448, 896], max_tile=448, shape="dynamic", max_tiles=6) == (
        ScalePlan((448, 448), 1, 1),
        ScalePlan((896, 896), 2, 2),
        ScalePlan((896, 1344), 2, 3),
    )
    assert plan_scales(100, 100, sizes=[10], shape="dynamic", max_tiles=10)[-1].tiles == 9
    images = torch.rand(1, 3, 40, 60)
    out = multiscale_features(Patches(patch=8).project, images, sizes=[32], shape="dynamic", max_tiles=6)
    assert out.shape == (1, 8, 8, 12)


def test_budget_tells_tiles_tokens_and_cost():
    plans = plan_scales(336, 336, scales=[1, 2, 3])
    text = token_budget(plans, patch_size=14)
    assert "14 tiles, 8064 tokens run, 576 come out with 3 times the channels; about 14.0" in text
    assert cost_ratio(plans[:2]) == 5


ENCODERS = [
    ("conv-pyramid", {"widths": (4, 6)}),
    ("timm/resnet10t", {"out_indices": (1, 2)}),
    ("channelvit", {"dim": 8, "depth": 1, "heads": 1, "image_size": 32, "patch_size": 8}),
]


@pytest.mark.parametrize(("name", "settings"), ENCODERS)
@pytest.mark.parametrize("out_index", [0, 1])
def test_any_encoder_becomes_a_multi_scale_one_that_keeps_the_contract(name, settings, out_index):
    encoder = create_encoder(
        "multi-scale", encoder=name, encoder_settings=settings, out_index=out_index
    ).eval()
    features = encoder(SMALL)
    side = features.grid[0]
    assert features.patches.shape == (2, side**2, encoder.dim)
    assert features.pooled.shape == (2, encoder.dim)
    assert side == 32 // encoder.patch_size
    assert [m.shape[1] for m in features.pyramid] == list(encoder.pyramid_channels)
    assert [32 // m.shape[-1] for m in features.pyramid] == list(encoder.pyramid_strides)
    if out_index == 0:
        alone = encoder.encoder(SMALL)
        assert torch.equal(features.patches[..., : alone.patches.shape[-1]], alone.patches)
        torch.testing.assert_close(features.pooled[:, : alone.pooled.shape[-1]], alone.pooled)


def test_pooled_vectors_are_means_over_the_tiles_of_a_scale():
    encoder = create_encoder(
        "multi-scale", encoder="conv-pyramid", encoder_settings={"widths": (4, 6)}
    ).eval()
    doubled = F.interpolate(SMALL, size=(64, 64), mode="bicubic", align_corners=False)
    tiles = encoder.encoder(split_tiles(doubled, 2, 2)).pooled
    torch.testing.assert_close(encoder(SMALL).pooled[:, 6:], tiles.reshape(4, 2, 6).mean(dim=0))


def test_an_encoder_that_is_made_already_is_wrapped_and_can_be_made_again():
    inner = create_encoder("conv-pyramid", widths=(4, 6), in_channels=2)
    wrapped = MultiScale(encoder=inner, scales=(1, 3))
    again = create_encoder("multi-scale", **wrapped.settings)
    again.load_state_dict(wrapped.state_dict())
    images = SMALL[:, :2]
    torch.testing.assert_close(again.eval()(images).pooled, wrapped.eval()(images).pooled)
    with pytest.raises(ValueError, match="made already"):
        MultiScale(encoder=inner, encoder_settings={"widths": (4,)})


def test_frozen_encoders_stay_as_they_are():
    encoder = create_encoder("multi-scale", encoder_settings={"widths": (4, 6)}, frozen=True).train()
    before = encoder.encoder.stages[0].state_dict()
    features = encoder(SMALL)
    assert not features.pooled.requires_grad
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), encoder.encoder.stages[0].state_dict().values(), strict=True)
    )


def test_the_budget_is_logged_before_the_first_run_of_a_size(caplog):
    encoder = create_encoder("multi-scale", encoder_settings={"widths": (4, 6)}).eval()
    with caplog.at_level(logging.INFO, logger="foveal"):
        encoder(SMALL)
        encoder(SMALL)
    assert caplog.text.count("5 tiles") == 1
