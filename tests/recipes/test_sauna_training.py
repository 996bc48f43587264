import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from foveal.models import Segmenter, shipped_model
from foveal.recipes.registry import load_recipe
from foveal.recipes.sauna import SaunaSettings
from foveal.scans.synthetic import synthesize_eye
from foveal.scans.vessel_datasets import read_vessel_cases
from foveal.segmentation.evaluation import evaluate_vessels

SMALL = {
    "encoder": "conv-pyramid",
    "encoder_settings": {"widths": [4, 8]},
    "working_diameter": 192,
    "contrast_sigma": 12.0,
    "patch_size": 64,
    "training": {"steps": 3, "batch_size": 2, "tensorboard": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two synthetic eyes in the layout of CHASE_DB1 and one in that of LES-AV."""
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("Image_01L", "Image_01R")):
        eye = synthesize_eye(number, size=256)
        for folder in ("images", "manual1", "mask"):
            (root / "CHASE_DB1" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(eye.image).save(root / "CHASE_DB1" / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(eye.vessels).save(root / "CHASE_DB1" / "manual1" / f"{name}_1stHO.png")
        Image.fromarray(eye.field.mask).save(root / "CHASE_DB1" / "mask" / f"{name}_mask.png")
    eye = synthesize_eye(7, size=256)
    for folder in ("images", "av", "mask"):
        (root / "LES-AV" / folder).mkdir(parents=True)
    Image.fromarray(eye.image).save(root / "LES-AV" / "images" / "12.png")
    palette = Image.fromarray(eye.artery_vein, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 255, 0])
    palette.save(root / "LES-AV" / "av" / "12.png")
    Image.fromarray(eye.field.mask).save(root / "LES-AV" / "mask" / "12_mask.png")
    return root


def test_data_sets_are_read_with_their_patients_and_codings(data):
    cases = read_vessel_cases(data)
    assert [c.patient for c in cases] == ["CHASE_DB1/01", "CHASE_DB1/01", "LES-AV/12"]
    assert np.array_equal(cases[2].vessels, synthesize_eye(7, size=256).vessels)
    with pytest.raises(FileNotFoundError, match="CHASE_DB1, LES-AV"):
        read_vessel_cases(data / "CHASE_DB1")


def test_ones_own_photographs_are_read_from_images_and_masks(tmp_path):
    eye = synthesize_eye(3, size=256)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(eye.image).save(tmp_path / "images" / "a.png")
    Image.fromarray(eye.vessels).save(tmp_path / "masks" / "a.png")
    (case,) = read_vessel_cases(tmp_path)
    assert np.array_equal(case.vessels, eye.vessels)
    assert (case.field == eye.field.mask).mean() > 0.99
    Image.fromarray(eye.vessels[:-1]).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"mask a\.png is \(255, 256\) px"):
        read_vessel_cases(tmp_path)


@pytest.mark.parametrize("loss", ["sauna", "bce-dice"])
def test_training_saves_a_model_that_scores_photographs(data, tmp_path, loss):
    recipe = load_recipe("sauna")
    recipe.train(SaunaSettings(**SMALL, loss=loss), data=data, out=tmp_path)
    model = Segmenter.from_pretrained(tmp_path / "model")
    assert model.config.activation == ("tanh" if loss == "sauna" else "sigmoid")
    scores = evaluate_vessels(model, read_vessel_cases(data)[:1], views=1, scales=(1.0,))
    assert scores.loc[0, ["tp", "fp", "fn", "tn"]].sum() == read_vessel_cases(data)[0].field.sum()
    assert (tmp_path / "log.csv").exists()


def test_training_goes_on_from_a_saved_model_and_from_synthetic_eyes(tmp_path):
    recipe = load_recipe("sauna")
    recipe.train(SaunaSettings(**SMALL, synthetic_eyes=1), data=None, out=tmp_path / "first")
    frozen = SMALL | {"training": SMALL["training"] | {"learning_rate": 1e-12, "steps": 1}}
    settings = SaunaSettings(**frozen, synthetic_eyes=1, start_from=str(tmp_path / "first" / "model"))
    recipe.train(settings, data=None, out=tmp_path / "second")
    first, second = (Segmenter.from_pretrained(tmp_path / run / "model") for run in ("first", "second"))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-6)
    with pytest.raises(ValueError, match="nothing to train on"):
        recipe.train(SaunaSettings(**SMALL), data=None, out=tmp_path / "third")


def test_settings_of_the_shipped_model_are_complete_and_its_network_is_theirs():
    folder = shipped_model("vessels")
    settings = SaunaSettings(**json.loads((folder / "training.json").read_text()))
    SaunaSettings(**json.loads((folder / "pretraining.json").read_text()))
    built = load_recipe("sauna").build(settings)
    assert built.config == Segmenter.from_pretrained(folder).config
    assert (folder / "model.safetensors").stat().st_size < 5e6


def test_paper_defaults_stand_and_unknown_settings_are_named():
    settings = SaunaSettings()
    assert (settings.alpha, settings.beta, settings.jaccard_weight, settings.label_mode) == (2, 1, 1, "h")
    with pytest.raises(ValidationError, match="did you mean 'label_mode'"):
        SaunaSettings(label_mod="h")
