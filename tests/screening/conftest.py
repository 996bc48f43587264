"""A small vessel model and small photographs, enough to screen a folder in seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.models import Classifier, ClassifierConfig, Segmenter, SegmenterConfig
from foveal.scans.synthetic import synthesize_eye
from foveal.screening import ScreenSettings


@pytest.fixture(scope="session")
def vessel_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained network at a small working diameter: all plumbing, no skill."""
    torch.manual_seed(0)
    config = SegmenterConfig(preprocess={"working_diameter": 96})
    return Segmenter(config).save_pretrained(tmp_path_factory.mktemp("vessels"))


@pytest.fixture(scope="session")
def grader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ClassifierConfig(encoder="conv-pyramid", classes=("healthy", "<b>ill</b>"), size=64)
    return Classifier(config).save_pretrained(tmp_path_factory.mktemp("grader"))


@pytest.fixture
def settings(vessel_model: Path) -> ScreenSettings:
    return ScreenSettings(vessel_model=vessel_model, workers=1, views=1, title="Tests & <trials>")


@pytest.fixture(scope="session")
def eyes() -> list[np.ndarray]:
    """Four synthetic photographs of 256 pixels."""
    return [synthesize_eye(seed, size=256).image for seed in range(4)]


@pytest.fixture
def source(tmp_path: Path, eyes: list[np.ndarray]) -> Path:
    """Folder of three photographs."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, eye in zip(("a", "b", "c"), eyes, strict=False):
        Image.fromarray(eye).save(folder / f"{name}.png")
    return folder
