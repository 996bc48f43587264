"""Sparse then Prune as a user meets it: tuned by one command, pruned by the next."""

import csv
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foveal.blocks.attention_taps import attention_of
from foveal.cli import app
from foveal.models import Classifier
from foveal.objectives.attention_sparsity import AttentionSparsityObjective
from foveal.objectives.classification import ClassificationObjective
from foveal.recipes.sparse_then_prune import SparseThenPruneSettings, recipe

TINY = (
    "image_size=32", "in_channels=1", "training.steps=4", "training.batch_size=8",
    "training.warmup_steps=1", "training.tensorboard=false", "training.log_every=1",
    "encoder_settings.patch_size=8", "encoder_settings.embed_dim=16", "encoder_settings.depth=2",
    "encoder_settings.num_heads=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory):
    draws = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("digits") / "two.npz"
    arrays = {}
    for split, count in (("train", 24), ("val", 12), ("test", 12)):
        labels = np.arange(count)[:, None] % 2
        arrays[f"{split}_images"] = (draws.integers(0, 120, (count, 28, 28)) + 100 * labels[:, None]).astype(
            np.uint8
        )
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)
    return path


def test_the_defaults_are_the_papers() -> None:
    settings = SparseThenPruneSettings()
    assert (settings.penalty, settings.penalty_layers, settings.penalty_target) == (0.01, "last", "probs")
    assert settings.penalty_sign == 1
    dropout = {"pos_drop_rate": 0.1, "proj_drop_rate": 0.1}
    wanted = {"image_size": 384, **dropout}
    assert recipe.encoder_config(settings) == ("timm/vit_base_patch16_384", wanted)
    assert (settings.mean, SparseThenPruneSettings(in_channels=1).std) == ((0.5, 0.5, 0.5), (0.5,))
    assert SparseThenPruneSettings(mean=None).mean is None
    training = settings.training
    assert (training["optimizer"], training["momentum"], training["learning_rate"]) == ("sgd", 0.9, 1e-3)
    assert (training["weight_decay"], training["batch_size"], training["warmup_steps"]) == (1e-4, 16, 500)


def test_first_positions_are_small() -> None:
    """The released code draws them with a deviation of 1, which from scratch learns nothing."""
    small = {"patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2}
    model = recipe.build(SparseThenPruneSettings(image_size=64, encoder_settings=small))
    assert float(model.encoder.backbone.pos_embed.std()) == pytest.approx(0.02, rel=0.1)


def test_what_is_minimised_is_the_classification_loss_with_the_penalty() -> None:
    small = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    settings = SparseThenPruneSettings(
        image_size=32, encoder_settings=small, penalty=2.0, penalty_layers="sum", penalty_sign=-1
    )
    model = recipe.build(settings).eval()
    batch = {"images": torch.rand(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    objective = recipe.objective(settings, ClassificationObjective(model))
    assert isinstance(objective, AttentionSparsityObjective)
    losses = objective(batch)
    wanted = sum(torch.log1p(layer.weights**2).mean() for layer in attention_of(model, batch["images"]))
    assert float(losses["loss"]) == pytest.approx(float(losses["own"] - 2 * wanted), rel=1e-5)


def test_tuned_by_one_command_and_pruned_by_the_next(images, tmp_path) -> None:
    call, run, small = CliRunner().invoke, tmp_path / "run", tmp_path / "small"
    sets = [word for each in TINY for word in ("--set", each)]
    tuned = call(app, ["train", "sparse-then-prune", "--data", str(images), "--out", str(run), *sets])
    assert tuned.exit_code == 0, tuned.output
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 17 tokens: the penalty is told, and lies between that of even and of one-hot rows
    assert np.log1p(1 / 17**2) < float(rows[0]["attention"]) < np.log(2) / 17
    assert '"penalty": 0.01' in (run / "model" / "README.md").read_text()
    pruned = call(
        app,
        ["compress", str(run / "model"), "--method", "sparse-then-prune", "--target", "60%", "--data",
         str(images), "--out", str(small), "--set", "memory=false", "--set", "rounds=1"],
    )  # fmt: skip
    assert pruned.exit_code == 0, pruned.output
    assert "40.0% of the weights are 0" in (small / "README.md").read_text()
    told = json.loads((small / "compression.json").read_text())
    assert len(told["masks_sha256"]) == 64
    model = Classifier.from_pretrained(small)
    zeros = sum(int((value == 0).sum()) for name, value in model.named_parameters() if value.ndim > 1)
    assert zeros > 0.38 * sum(value.numel() for value in model.parameters() if value.ndim > 1)


def test_an_encoder_without_attention_is_refused(images, tmp_path) -> None:
    settings = SparseThenPruneSettings(
        encoder="conv-pyramid", encoder_settings={"widths": (4, 8)}, image_size=32, in_channels=1,
        mean=(0.5,), std=(0.5,), training={"steps": 2, "batch_size": 4, "tensorboard": False},
    )  # fmt: skip
    with pytest.raises(ValueError, match="Classifier has no attention that torch computes"):
        recipe.train(settings, data=images, out=tmp_path / "none")
