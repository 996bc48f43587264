"""`foveal explain`: a bad photograph is told and the others are explained."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from foveal.cli import app
from foveal.models import Classifier, ClassifierConfig


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    config = ClassifierConfig(encoder="timm/resnet10t", classes=("no", "yes"), size=48)
    return Classifier(config).save_pretrained(tmp_path / "model")


def test_a_bad_photograph_is_told_and_the_others_are_explained(tmp_path, model):
    y, x = np.mgrid[:200, :260]
    inside = (np.hypot(y - 100, x - 130) < 90)[..., None]
    image = np.where(inside, 150 + np.random.default_rng(0).integers(0, 60, (200, 260, 3)), 0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.fromarray(image.astype(np.uint8)).save(folder / "eye.png")
    (folder / "torn.png").write_bytes((folder / "eye.png").read_bytes()[:300])
    config = {
        "methods": ["saliency", {"name": "occlusion", "options": {"window": 24}}],
        "targets": ["predicted"],
    }
    (tmp_path / "how.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    words = ["explain", str(model), str(folder), "--config", str(tmp_path / "how.json"), "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    made = sorted(path.name for path in (out / "maps" / "eye").iterdir())
    assert "predicted__comparison.png" in made
    assert {"saliency__predicted.png", "occlusion__predicted.npz"} <= set(made)
    failures = (out / "failures.csv").read_text().splitlines()
    assert len(failures) == 3
    assert all(line.startswith("torn,") for line in failures[1:])


def test_what_cannot_start_has_status_two(tmp_path, model):
    for words, message in (
        ([str(model), str(tmp_path), "-m", "salience"], "did you mean 'saliency'"),
        ([str(model), str(tmp_path), "-t", "perhaps"], "holds no scan"),
        (["vessel", str(tmp_path)], "neither the folder of a saved model"),
    ):
        result = CliRunner().invoke(app, ["explain", *words, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2, result.output
        assert message in result.output
