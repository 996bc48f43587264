"""Alignment on a folder of images: what it writes, resumes and starts from."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.encoders import create_encoder
from foveal.encoders.base import Encoder
from foveal.models import Classifier, ClassifierConfig
from foveal.models.masked_embedding import MaskedEmbedding
from foveal.objectives.locality_alignment_settings import AlignmentSettings
from foveal.scans.unlabelled_images import read_unlabelled_images
from foveal.training.alignment import align_encoder, pretrained_encoder

TINY = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
LOOP = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "tensorboard": False, "evaluate_every": 4}


def settings(**changes):
    return AlignmentSettings(
        **{
            "encoder": "timm/vit_tiny_patch16_224", "encoder_settings": TINY, "image_size": 32,
            "validation_fraction": 0.25, "training": LOOP, **changes,
        }
    )  # fmt: skip


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    return folder


def test_a_folder_of_images_gives_the_encoder_the_decoder_and_scores(photographs, tmp_path):
    done = align_encoder(read_unlabelled_images(photographs), settings(), tmp_path / "run", progress=False)
    assert done.images == {"train": 6, "val": 2} or sum(done.images.values()) == 8
    assert [image.path for image in done.skipped] == ["broken.png"]
    told = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(told["scores"]) == {"mse", "whole", "parts"}
    images = torch.rand(2, 3, 32, 32)
    drop_in = Encoder.from_pretrained(tmp_path / "run" / "model")
    torch.testing.assert_close(drop_in(images).patches, done.model.encoder(images).patches)
    assert "mean" in (tmp_path / "run" / "model" / "README.md").read_text()
    MaskedEmbedding.from_pretrained(tmp_path / "run" / "decoder")
    plain = create_encoder("timm/vit_tiny_patch16_224", image_size=32, **TINY)
    plain.load_state_dict(drop_in.state_dict())


def test_a_stopped_alignment_ends_in_the_same_weights(photographs, tmp_path):
    data = read_unlabelled_images(photographs)
    whole = align_encoder(data, settings(), None, progress=False).model.state_dict()
    short = settings(training={**LOOP, "checkpoint_every": 2})
    align_encoder(data, short, tmp_path / "run", progress=False)
    shutil.rmtree(sorted((tmp_path / "run" / "checkpoints").iterdir())[-1])
    again = align_encoder(data, short, tmp_path / "run", progress=False).model.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_saved_classifier_is_a_start_with_its_own_encoder_and_colours(photographs, tmp_path):
    config = ClassifierConfig(
        encoder="timm/vit_tiny_patch16_224", encoder_settings={**TINY, "image_size": 32}, classes=("a", "b"),
        size=32, mean=(0.4, 0.3, 0.2), std=(0.1, 0.1, 0.1),
    )  # fmt: skip
    classifier = Classifier(config)
    classifier.save_pretrained(tmp_path / "classifier")
    start = AlignmentSettings(start_from=str(tmp_path / "classifier"))
    teacher, preprocess = pretrained_encoder(start)
    torch.testing.assert_close(teacher.state_dict(), classifier.encoder.state_dict())
    assert preprocess.size == 32
    assert preprocess.mean == (0.4, 0.3, 0.2)


def test_a_precursor_comes_before_and_grey_images_are_taken(photographs, tmp_path):
    changed = settings(precursor_steps=2, in_channels=1, masks={"antithetic": False})
    done = align_encoder(read_unlabelled_images(photographs), changed, tmp_path / "run", progress=False)
    assert done.model.encoder.in_channels == 1
    assert (tmp_path / "run" / "precursor" / "log.csv").is_file()
