import math

import pytest
import torch

from foveal.encoders import Encoder, create_encoder
from foveal.explanation import denoising
from foveal.explanation.decomposition import DecompositionSettings, dense_features
from foveal.explanation.denoising import (
    decompose_images,
    distil_denoised,
    paper_training,
    train_denoiser,
)

TINY = DecompositionSettings.laptop(
    views=4, levels=2, table_size=1024, max_resolution=32, steps=4, warmup_steps=1, batch_size=64
)
SHORT = {"steps": 30, "batch_size": 2, "learning_rate": 3e-3, "tensorboard": False, "log_every": 10}


def vit():
    torch.manual_seed(0)
    return create_encoder(
        "timm/vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2
    ).eval()


class Pictures:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def sample(self, index, generator):
        return {"images": self.images[index]}


def test_pairs_are_kept_by_image_encoder_and_settings_and_not_made_again(tmp_path, monkeypatch):
    encoder, images = vit(), torch.rand(3, 3, 32, 32)
    told = []
    first = decompose_images(encoder, images[:2], tmp_path, TINY, progress=told.append)
    pairs = decompose_images(encoder, images, tmp_path, TINY, progress=told.append)
    assert ["kept" in line for line in told] == [False, False, True, True, False]
    assert pairs.keys[:2] == first.keys
    assert len(list(tmp_path.glob("*.npy"))) == 3
    raw, clean = pairs.stacked()
    assert raw.shape == clean.shape == (3, 4, 4, 16)
    torch.testing.assert_close(raw, dense_features(encoder, images), atol=2e-3, rtol=2e-3)
    assert decompose_images(encoder, images[:1], tmp_path, TINY.replace(seed=1)).keys[0] not in pairs.keys
    monkeypatch.setattr(denoising, "decompose", None)  # nothing is left to decompose
    assert decompose_images(encoder, images, tmp_path, TINY).keys == pairs.keys


def test_the_trained_block_comes_nearer_to_its_targets_and_the_encoder_stays(tmp_path):
    encoder, images = vit(), torch.rand(4, 3, 32, 32)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    pairs = decompose_images(encoder, images, tmp_path / "pairs", TINY)
    denoised = train_denoiser(encoder, pairs, paper_training(**SHORT))
    untrained = train_denoiser(encoder, pairs, paper_training(**{**SHORT, "steps": 2, "learning_rate": 1e-9}))
    _, clean = pairs.stacked()
    error = [(dense_features(each, images) - clean).square().mean() for each in (denoised, untrained)]
    assert float(error[0]) < float(error[1])
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    again = Encoder.from_pretrained(denoised.save_pretrained(tmp_path / "model"))
    torch.testing.assert_close(dense_features(again, images), dense_features(denoised, images))


def test_a_distilled_encoder_comes_nearer_to_the_cleaned_features(tmp_path):
    encoder, images = vit(), torch.rand(4, 3, 32, 32)
    denoised = train_denoiser(
        encoder, decompose_images(encoder, images, tmp_path, TINY), paper_training(**SHORT)
    )
    student = distil_denoised(denoised, Pictures(images), paper_training(**SHORT))
    target = dense_features(denoised, images)
    error = [(dense_features(each, images) - target).square().mean() for each in (student, encoder)]
    assert float(error[0]) < float(error[1])
    assert type(student) is type(encoder)
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in encoder.parameters())


def test_the_papers_schedule_goes_with_the_batch():
    training = paper_training()
    assert training.learning_rate == pytest.approx(2e-4 * math.sqrt(128 / 256))
    assert training.learning_rate * training.minimum_factor == pytest.approx(1e-6)
    assert (training.steps, training.warmup, training.weight_decay) == (50_000, 7500, 1e-5)


def test_no_images_and_pairs_of_another_encoder_are_refused(tmp_path):
    encoder = vit()
    with pytest.raises(ValueError, match="no images"):
        decompose_images(encoder, [], tmp_path)
    pairs = decompose_images(encoder, torch.rand(1, 3, 32, 32), tmp_path, TINY)
    with pytest.raises(ValueError, match="pairs of 16 channels"):
        train_denoiser(create_encoder("conv-pyramid", widths=(4, 8)), pairs)
