"""The recipe of the survey's toolkit: it builds a model of each task, and refuses what does not fit."""

import numpy as np
import pytest
import torch

from foveal.models.mask_model import MaskModel
from foveal.recipes import load_recipe
from foveal.recipes.state_space_models import catalogue

SMALL = {"dims": (4, 8)}


def build(**settings):
    recipe = load_recipe("ssm-medical-survey")
    return recipe.build(recipe.Settings(**settings))


def test_segmentation_has_the_network_of_any_name_and_scan():
    network = build(arch="ssm-unet", in_channels=1, out_channels=3, scan="hilbert", network=SMALL)
    assert network(torch.rand(1, 1, 9, 11)).shape == (1, 3, 9, 11)
    volumes = build(arch="umamba-enc", spatial_dims=3, in_channels=2, out_channels=2, network=SMALL)
    assert volumes(torch.rand(1, 2, 4, 6, 8)).shape == (1, 2, 4, 6, 8)


def test_restoration_keeps_the_shape():
    model = build(task="restoration", arch="vmambair", in_channels=2, network={"dims": (8, 8)})
    assert model(torch.rand(1, 2, 9, 8)).shape == (1, 2, 9, 8)


def test_networks_are_compared_on_data_of_ones_own(tmp_path):
    random = np.random.default_rng(0)
    masks = (random.random((6, 1, 16, 16)) > 0.7).astype(np.float32)
    arrays = {"train_images": masks[:4], "train_masks": masks[:4]}
    np.savez(tmp_path / "data.npz", **arrays, test_images=masks[4:], test_masks=masks[4:])
    recipe = load_recipe("ssm-medical-survey")
    settings = recipe.Settings(
        arch="ssm-unet", network=SMALL, compare=(), training={"steps": 2, "batch_size": 2}
    )
    recipe.train(settings, data=tmp_path / "data.npz", out=tmp_path / "out")
    assert "| ssm-unet |" in (tmp_path / "out" / "comparison.md").read_text()
    assert MaskModel.from_pretrained(tmp_path / "out" / "ssm-unet")
    with pytest.raises(ValueError, match="task 'bags'"):
        recipe.train(settings.replace(task="bags"), data=tmp_path / "data.npz", out=tmp_path)


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
