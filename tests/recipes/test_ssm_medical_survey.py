"""The recipe of the survey's toolkit: it builds a model of each task, and refuses what does not fit."""

import numpy as np
import pytest
import torch

from foveal.blocks.warping import warp
from foveal.models.mask_model import MaskModel
from foveal.recipes import load_recipe
from foveal.recipes._mask_learning import cued_blobs
from foveal.recipes._ssm_medical_survey_bags import FarPairs, collate
from foveal.recipes._ssm_medical_survey_learning import CONVOLVED, SCANNED, size
from foveal.recipes._ssm_medical_survey_warps import KnownWarp
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


def test_marked_instances_of_the_bags_lie_far_apart_and_their_kinds_tell_the_label():
    data, generator = FarPairs(strength=30.0), torch.Generator().manual_seed(0)
    labels = []
    for index in range(100):
        sample = data.sample(index, generator)
        places, kinds = (sample["bags"] > 15).nonzero(as_tuple=True)
        assert sample["labels"] == (len(set(kinds.tolist())) == 2)
        assert 220 <= len(sample["bags"]) <= 300
        assert len(places) < 2 or abs(int(places[0] - places[1])) > 200
        labels.append(int(sample["labels"]))
    assert 35 <= sum(labels) <= 65
    assert collate([data.sample(i, generator) for i in range(3)])["present"].sum(dim=1).min() >= 220


def test_cued_blobs_lie_far_from_their_cue_and_it_says_which_counts():
    data = cued_blobs(40, train=20)
    for image, mask in zip(data.images, data.masks, strict=True):
        columns = mask[0].any(dim=0).nonzero()
        assert int(columns.min()) - 6 >= 20
        around = image[0] - image[0].median()
        line = torch.nn.functional.avg_pool2d(around[None, None, :, :6], 6, stride=1)[0, 0, :, 0]
        steps = line[8:-8] * 2 - line[:-16] - line[16:]  # against the ground beside it, which varies slowly
        cue = steps[steps.abs().argmax()]
        assert (around[mask[0] > 0].mean() > 0) == (cue > 0)


def test_the_two_nets_of_one_frame_have_as_many_parameters():
    assert size(SCANNED) / size(CONVOLVED) == pytest.approx(1, abs=0.1)


def test_a_known_warp_gives_the_fixed_picture():
    pair = KnownWarp.drawn(0, side=16)
    torch.testing.assert_close(warp(pair.moving[None], pair.flow[None])[0], pair.fixed)
    assert torch.equal(pair.sample(1, torch.Generator())["fixed"], pair.moving)
