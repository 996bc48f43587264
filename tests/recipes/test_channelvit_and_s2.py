"""The recipes build what their settings say; their evidence is run by test_evidence.py."""

import torch

from foveal.recipes import load_recipe


def test_channelvit_is_built_from_its_settings():
    recipe = load_recipe("channelvit")
    settings = recipe.Settings(
        size="tiny",
        image_size=32,
        patch_size=8,
        in_channels=4,
        channel_names=("IR", "BAF", "green", "blue"),
        encoder_settings={"depth": 1, "dim": 24},
        classes=("no", "mild", "severe"),
    )
    model = recipe.build(settings).eval()
    assert model(torch.rand(2, 4, 32, 32)).shape == (2, 3)
    assert model.encoder.channel_names == ("IR", "BAF", "green", "blue")
    assert model.encoder.sampler.mode == "hcs"


def test_s2_is_built_around_any_encoder():
    recipe = load_recipe("s2")
    settings = recipe.Settings(
        encoder="conv-pyramid", inner_settings={"widths": (4, 6)}, image_size=32, scales=(1, 2), frozen=True
    )
    model = recipe.build(settings).eval()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2)
    assert model.encoder.dim == 12
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_sizes_replace_scales():
    recipe = load_recipe("s2")
    settings = recipe.Settings(
        encoder="conv-pyramid", inner_settings={"widths": (4, 6)}, image_size=96, scales=None, sizes=(32, 64)
    )
    features = recipe.build(settings).eval().encoder(torch.rand(1, 3, 96, 96))
    assert features.grid == (8, 8)
