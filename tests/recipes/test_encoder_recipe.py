from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from foveal import cli, recipes
from foveal.models import Classifier
from foveal.recipes.base import Card, Paper
from foveal.recipes.encoder_recipe import EncoderRecipe, EncoderSettings

LOOP = ("training.steps=4", "training.batch_size=4", "training.tensorboard=false")


class SmallSettings(EncoderSettings):
    """Of a small encoder."""

    image_size: int = 32
    widths: tuple[int, ...] = (4, 8)


class Small(EncoderRecipe[SmallSettings]):
    """A small convolutional encoder as a recipe."""

    card = Card(
        slug="small",
        title="Small: a small encoder",
        paper=Paper(citation="None", year=2024, link="https://example.org"),
        task="None.",
        published=(),
        original="none released",
        licence="none",
        faithfulness="Complete.",
        built_from=(),
    )
    Settings = SmallSettings

    def encoder_config(self, settings: SmallSettings) -> tuple[str, dict[str, Any]]:
        return "conv-pyramid", {"widths": list(settings.widths)}

    def evidence(self, scale):
        return ()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Small:
    recipe = Small()
    monkeypatch.setattr(recipes, "load_recipe", lambda name: recipe)
    return recipe


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Twelve round fields of view, of two brightnesses."""
    for seed in range(12):
        folder = tmp_path / "eyes" / ("ill", "well")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(seed)).save(folder / f"{seed}.png")
    return tmp_path / "eyes"


def photograph(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    inside = np.hypot(*(np.indices((96, 96)) - 47.5)) < 44
    bright = random.normal((90, 150)[seed % 2], 10, (96, 96, 3)).clip(0, 255)
    return np.where(inside[..., None], bright, 0).astype(np.uint8)


def call(*words: str | Path):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def train(data: Path, out: Path, *assignments: str):
    words = [word for assignment in (*LOOP, *assignments) for word in ("--set", assignment)]
    return call("train", "small", "--data", data, "--out", out, *words)


def test_an_encoder_becomes_a_classifier_of_its_settings():
    settings = SmallSettings(in_channels=1, classes=("a", "b", "c"), encoder_settings={"fold": 1})
    model = Small().build(settings)
    assert model.config.classes == ("a", "b", "c")
    assert (model.encoder.in_channels, model.encoder.fold) == (1, 1)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="did you mean 'in_channels'"):
        SmallSettings(in_chanels=1)


def test_a_folder_of_classes_is_trained_on_and_the_model_grades_in_screening(small, eyes, tmp_path):
    from foveal.scans.field_of_view import find_field_of_view
    from foveal.screening.grading import Grader

    result = train(eyes, tmp_path / "run", "view=field")
    assert result.exit_code == 0, result.output
    assert "images: auc" in result.output
    grader = Grader(tmp_path / "run" / "model", "cpu")
    image = photograph(30)
    values, explained = grader(image, find_field_of_view(image))
    assert values["grade"] in ("ill", "well")
    assert values["probability_ill"] + values["probability_well"] == pytest.approx(1, abs=1e-5)
    assert [reason.levels.shape for reason in explained.reasons] == [(96, 96)]
    assert explained.reasons[0].told.probability == pytest.approx(
        max(values["probability_ill"], values["probability_well"])
    )
    assert explained.remarks == explained.failures == []


def test_a_medmnist_file_is_trained_on(small, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(40)[:, None] % 2)
    names = 'classes=["no", "yes"]'
    result = train(tmp_path / "a.npz", tmp_path / "run", "in_channels=1", "image_size=28", names)
    assert result.exit_code == 0, result.output
    assert Classifier.from_pretrained(tmp_path / "run" / "model").config.classes == ("no", "yes")


def test_models_that_screening_cannot_use_are_refused_at_once(small, tmp_path):
    from foveal.screening.grading import Grader

    grey = small.build(SmallSettings(in_channels=1)).save_pretrained(tmp_path / "grey")
    with pytest.raises(ValueError, match="1 channels; photographs have 3"):
        Grader(grey, "cpu")
    config = small.build(SmallSettings()).config.replace(activation="sigmoid")
    with pytest.raises(ValueError, match="several findings"):
        Grader(Classifier(config).save_pretrained(tmp_path / "several"), "cpu")


def test_training_without_data_says_what_is_wanted(small, tmp_path):
    result = call("train", "small", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "needs labelled images; name a .npz file or a folder with --data" in result.stderr
