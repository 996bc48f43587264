"""A small vessel model and small photographs, enough to screen a folder in seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.models import Classifier, ClassifierConfig, Segmenter, SegmenterConfig
from foveal.scans.structure_datasets import ARTERY_OR_VEIN, LANDMARKS
from foveal.scans.synthetic import LESION_KINDS, synthesize_eye
from foveal.screening import ScreenSettings


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of untrained networks at a small working diameter, by the settings that take them: all
    plumbing, no skill."""
    classes = {
        "vessel_model": ("vessel",),
        "artery_vein_model": ARTERY_OR_VEIN,
        "landmark_model": LANDMARKS,
        "lesion_model": tuple(LESION_KINDS),
    }
    torch.manual_seed(0)
    folders = {}
    for name, structures in classes.items():
        config = SegmenterConfig(
            classes=structures,
            encoder_settings={"widths": [24, 48, 80, 112] if name == "vessel_model" else [8, 12, 16]},
            activation="tanh" if name == "vessel_model" else "sigmoid",
            preprocess={"working_diameter": 96},
        )
        folders[name] = Segmenter(config).save_pretrained(tmp_path_factory.mktemp(name))
    return folders


@pytest.fixture(scope="session")
def grader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ClassifierConfig(encoder="conv-pyramid", classes=("healthy", "<b>ill</b>"), size=64)
    return Classifier(config).save_pretrained(tmp_path_factory.mktemp("grader"))


@pytest.fixture
def settings(small_models: dict[str, Path]) -> ScreenSettings:
    return ScreenSettings(**small_models, workers=1, views=1, title="Tests & <trials>")


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
