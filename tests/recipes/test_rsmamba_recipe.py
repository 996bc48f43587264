import torch

from foveal.recipes.registry import load_recipe


def test_the_settings_reach_the_classifier():
    recipe = load_recipe("rsmamba")
    settings = recipe.Settings(
        image_size=32, path_type="forward_reverse_mean", encoder_settings={"dim": 16, "depth": 2}, seed=3
    )
    model = recipe.build(settings)
    assert model.encoder.blocks[1].paths == ("forward", "reverse")
    assert model.encoder.blocks[1].seed == 7
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2)
