"""A small trained vision transformer and the images it knows, on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.models import Classifier, ClassifierConfig
from foveal.objectives.classification import ClassificationObjective

SIDE = 32


def bright_sides(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images with a bright square to the left (0) or to the right (1)."""
    draws = np.random.default_rng(seed)
    images = draws.integers(0, 90, (count, SIDE, SIDE), dtype=np.uint8)
    labels = draws.integers(0, 2, (count, 1))
    for image, (label,) in zip(images, labels, strict=True):
        row, column = draws.integers(0, 24), draws.integers(0, 8) + 16 * label
        image[row : row + 8, column : column + 8] = 220
    return images, labels


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as MedMNIST's, of all three splits."""
    arrays = {}
    for seed, (split, count) in enumerate((("train", 128), ("val", 32), ("test", 64))):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = bright_sides(count, seed)
    path = tmp_path_factory.mktemp("data") / "sides.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """A timm transformer of two blocks that tells the sides apart."""
    torch.manual_seed(0)
    settings = {
        "in_channels": 1, "image_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2,
    }  # fmt: skip
    config = ClassifierConfig(
        encoder="timm/vit_tiny_patch16_224", encoder_settings=settings, classes=("left", "right"),
        size=SIDE, mean=(0.25,), std=(0.25,),
    )  # fmt: skip
    model = Classifier(config)
    images, labels = bright_sides(256, 9)
    pixels, wanted = torch.from_numpy(images)[:, None] / 255, torch.from_numpy(labels[:, 0])
    objective, optimiser = ClassificationObjective(model), torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        chosen = torch.randint(len(wanted), (64,))
        optimiser.zero_grad()
        objective({"images": pixels[chosen], "labels": wanted[chosen]})["loss"].backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier, saved."""
    return classifier.save_pretrained(tmp_path_factory.mktemp("model"))
