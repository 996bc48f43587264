import torch

from foveal.recipes._medvitv2_evidence import fits_a_sine
from foveal.recipes.medvitv2 import MedViTV2Settings, recipe


def test_a_sine_is_followed_but_by_eight_narrow_switches() -> None:
    assert [finding.holds for finding in fits_a_sine()][:3] == [False, True, True]


def test_the_recipe_builds_a_classifier_with_its_settings() -> None:
    settings = MedViTV2Settings(
        image_size=64,
        classes=("a", "b", "c"),
        kan={"basis": "rbf"},
        encoder_settings={
            "dims": (16, 32, 32, 48),
            "depths": (1, 2, 3, 1),
            "head_dim": 8,
            "stem": (8, 8, 16),
        },
    )
    model = recipe.build(settings).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    kans = [module for module in model.modules() if type(module).__name__ == "KANLayer"]
    assert {kan.basis for kan in kans} == {"rbf"}
