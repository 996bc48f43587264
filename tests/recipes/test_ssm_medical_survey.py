"""The recipe of the survey's toolkit: it builds a model of each task, and refuses what does not fit."""

import pytest
import torch

from foveal.recipes import load_recipe
from foveal.recipes.state_space_models import catalogue

SMALL = {"dims": (4, 8)}


def build(**settings):
    recipe = load_recipe("ssm-medical-survey")
    return recipe.build(recipe.Settings(**settings))


def test_segmentation_and_restoration_have_the_network_of_any_name_and_scan():
    network = build(arch="ssm-unet", in_channels=1, out_channels=3, scan="hilbert", network=SMALL)
    assert network(torch.rand(1, 1, 9, 11)).shape == (1, 3, 9, 11)
    volumes = build(arch="umamba-enc", spatial_dims=3, in_channels=2, out_channels=2, network=SMALL)
    assert volumes(torch.rand(1, 2, 4, 6, 8)).shape == (1, 2, 4, 6, 8)


def test_registration_moves_an_image():
    model = build(task="registration", arch="mambamorph", in_channels=1, network=SMALL)
    assert model(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8)).flow.shape == (1, 2, 8, 8)


def test_bags_are_classified():
    model = build(task="bags", in_channels=6, out_channels=2, network={"dim": 8, "depth": 1})
    assert model(torch.rand(3, 20, 6)).shape == (3, 2)


def test_every_network_of_the_catalogue_is_built_by_its_recipe():
    names = {model.network for model in catalogue() if model.recipe == "ssm-medical-survey" and model.network}
    assert len(names) >= 15
    with torch.device("meta"):
        for name in names:
            deep = name in ("vivim", "vmrnn", "segmamba")
            fixed = {"image_size": (64, 64)} if name == "tm-unet" else {}
            assert build(arch=name, spatial_dims=3 if deep else 2, network=fixed)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="did you mean 'umamba-bot'"):
        build(arch="umamba-bt")
    with pytest.raises(ValueError, match="did you mean 'hilbert'"):
        build(arch="ssm-unet", scan="hilbrt", network=SMALL)
    with pytest.raises(ValueError, match="spatial_dims"):
        build(arch="tm-unet", spatial_dims=3, network={"image_size": (8, 8, 8)})
    with pytest.raises(ValueError, match="unknown setting 'depht'"):
        build(task="bags", network={"depht": 1})
