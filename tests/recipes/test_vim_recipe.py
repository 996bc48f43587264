import pytest
import torch

from foveal.recipes.registry import load_recipe


def test_the_settings_reach_the_classifier():
    recipe = load_recipe("vim")
    settings = recipe.Settings(
        image_size=32, stride=8, class_token="none", encoder_settings={"dim": 16, "depth": 1}
    )
    model = recipe.build(settings)
    assert model.encoder.positions.grid == (3, 3)
    assert model.encoder.class_tokens.count == 0
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match="did you mean 'drop_path'"):
        load_recipe("vim").Settings(drop_paths=0.1)
