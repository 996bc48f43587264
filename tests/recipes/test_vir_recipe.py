"""The recipe of ViR: what it builds."""

import pytest
import torch

from foveal.encoders.vir import ViR
from foveal.recipes import load_recipe


def test_it_builds_a_classifier_whose_modes_give_equal_logits() -> None:
    recipe = load_recipe("vir")
    encoder = {"depth": 2, "patch_size": 8}
    settings = recipe.Settings(size="tiny", image_size=32, encoder_settings=encoder, classes=("a", "b", "c"))
    model = recipe.build(settings).eval()
    assert isinstance(model.encoder, ViR)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        trained = model(images)
        model.encoder.set_mode("chunkwise", chunk=5)
        torch.testing.assert_close(model(images), trained, rtol=1e-4, atol=1e-5)
    assert trained.shape == (2, 3)


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'decay_range'"):
        load_recipe("vir").Settings(decay_ranges=(32, 100))
