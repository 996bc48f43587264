"""The recipe of locality alignment: its settings, its pictures, and the command line."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from foveal.cli import app
from foveal.encoders.base import Encoder
from foveal.recipes import _locality_alignment_learning as small
from foveal.recipes._object_pictures import scattered_pictures
from foveal.recipes.locality_alignment import recipe
from foveal.training import TrainingSettings

TINY = ["encoder=timm/vit_tiny_patch16_224", "image_size=32", "validation_fraction=0.25"]
SIZES = ["patch_size=8", "embed_dim=24", "depth=3", "num_heads=3"]


def test_the_defaults_are_the_papers():
    settings = recipe.Settings()
    training = TrainingSettings.model_validate(settings.training)
    assert (training.betas, training.gradient_clip, training.weight_decay) == ((0.9, 0.95), 1.0, 0.01)
    assert training.learning_rate * training.minimum_factor == pytest.approx(3e-5)
    assert training.warmup == 0
    assert (settings.soft_cap, settings.skip_blocks, settings.depth, settings.loss) == (30.0, 1, 2, "mse")


def test_a_folder_is_aligned_by_one_command(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    sets = [
        *TINY,
        *(f"encoder_settings.{size}" for size in SIZES),
        "training.steps=2",
        "training.batch_size=4",
    ]
    command = ["train", "locality-alignment", "--data", str(folder), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*command, *(word for each in sets for word in ("--set", each))])
    assert result.exit_code == 0, result.output
    assert "a constant gets 1" in result.output
    encoder = Encoder.from_pretrained(tmp_path / "run" / "model")
    assert encoder(torch.rand(1, 3, 32, 32)).patches.shape == (1, 16, 24)


def test_images_are_wanted():
    with pytest.raises(ValueError, match="needs images"):
        recipe.train(recipe.Settings(), data=None, out=None)


def test_scattered_pictures_have_three_objects_of_their_label_and_one_of_two_others():
    pictures = scattered_pictures(20)
    for label, annotation in zip(pictures.labels, pictures.annotation, strict=True):
        cells = annotation.view(4, 8, 4, 8).amax((1, 3)).flatten()
        counts = torch.bincount(cells, minlength=5)[1:]
        assert counts[label] == 3
        assert sorted(counts.tolist()) == [0, 1, 1, 3]
    changed = (pictures.images != pictures.grounds).any(dim=1)
    assert not (changed & (pictures.annotation == 0)).float().mean() > 0.2


def test_tokens_that_do_not_mix_are_changed_by_their_own_patch_alone():
    torch.manual_seed(0)
    encoder, pictures = small.tiny_vit(depth=2).eval(), scattered_pictures(16)
    mixed = small.locality_index(encoder, pictures, small.EncoderPreprocess(size=32))
    for block in encoder.backbone.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
    alone = small.locality_index(encoder, pictures, small.EncoderPreprocess(size=32))
    assert 1 < mixed < 1e4 < alone
