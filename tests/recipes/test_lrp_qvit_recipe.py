"""The recipe of LRP-QViT: a trained transformer to few bits, with a row for each layer."""

import json

import pytest
import torch

from foveal.recipes._lrp_qvit_evidence import small, small_swin
from foveal.recipes.lrp_qvit import LrpQvitSettings, recipe


@pytest.mark.parametrize(
    ("make", "side"),
    [(small, 32), (small_swin, 64), (lambda: small("deit_tiny_distilled_patch16_224"), 32)],
)
def test_the_papers_settings_take_transformers_of_three_kinds(make, side) -> None:
    model, images = make(), torch.rand(8, 3, side, side)
    wanted = model(images)
    made, rows = recipe.build(LrpQvitSettings(bits=5))(model, images)
    assert torch.equal(model(images), wanted)  # the given model stays
    assert not torch.equal(made(images), wanted)
    assert sum(row["contribution"] for row in rows) == pytest.approx(1)
    assert {row["weight_bits"] for row in rows if row["layers"]} <= {3, 4, 5, 6, 7, 8}
    json.dumps(rows)


def test_a_norm_behind_windows_and_one_of_merged_patches_are_scaled() -> None:
    _, rows = recipe.build(LrpQvitSettings(bits=6, mixed=False))(small_swin(), torch.rand(8, 3, 64, 64))
    scaled = {row["scaled_norm"] for row in rows}
    assert {"layers.0.blocks.1.norm1", "layers.1.downsample.norm"} <= scaled


def test_norms_without_weights_are_told_by_their_layers() -> None:
    model = small()
    model.blocks[0].norm1 = torch.nn.LayerNorm(32, elementwise_affine=False)
    _, rows = recipe.build(LrpQvitSettings(bits=6, mixed=False))(model, torch.rand(8, 3, 32, 32))
    row = next(row for row in rows if row["name"] == "blocks.0.attn.qkv")
    assert row["scaled_norm"] is None


def test_uniform_bits_are_whole() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        recipe.build(LrpQvitSettings(bits=4.5, mixed=False))(small(), torch.rand(2, 3, 32, 32))


def test_products_can_stay_whole() -> None:
    settings = LrpQvitSettings(bits=4, products=False, mixed=False)
    made, rows = recipe.build(settings)(small(), torch.rand(4, 3, 32, 32))
    assert all(row["layers"] for row in rows)
    assert type(made.blocks[0].attn).__name__ == "Attention"
