"""A classifier that `foveal train` would leave behind grades photographs in a screening run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.models import ClassifierConfig
from foveal.objectives.classification_settings import ClassificationSettings
from foveal.scans.labelled_images import read_labelled_images
from foveal.screening import ScreenSettings, screen
from foveal.training.classification import train_classifier

ENCODERS = {
    "conv-pyramid": {"widths": [4, 8]},
    "vim": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2},
}


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_a_trained_model_grades_photographs(
    encoder: str, source: Path, tmp_path: Path, eyes: list[np.ndarray], settings: ScreenSettings
) -> None:
    for index, eye in enumerate(eyes):
        folder = tmp_path / "grades" / ("ill", "well")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eye).save(folder / f"{index}.png")
    config = ClassifierConfig(
        encoder=encoder, encoder_settings=ENCODERS[encoder], classes=("ill", "well"), size=32
    )
    training = {"steps": 2, "batch_size": 2, "tensorboard": False}
    learnt = ClassificationSettings(training=training, view="field", validation_fraction=0.5)
    data = read_labelled_images(tmp_path / "grades")
    train_classifier(config, data, learnt, tmp_path / "run", progress=False)
    summary = screen(source, tmp_path / "report", settings, model=tmp_path / "run" / "model", progress=False)
    assert summary.failures == ()
    assert summary.screened == 3
    record = json.loads((tmp_path / "report" / "scans" / "a.json").read_text())
    assert any(grade in json.dumps(record) for grade in ('"grade": "ill"', '"grade": "well"'))
    assert "probability_well" in (tmp_path / "report" / "results.csv").read_text().splitlines()[0]
