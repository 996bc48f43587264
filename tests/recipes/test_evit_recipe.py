"""The recipe's settings reach its model, and a training from nothing lowers the keep rate."""

import numpy as np
import pytest
import torch

from foveal.blocks.reduced_tokens import reduced_blocks
from foveal.models import Classifier
from foveal.recipes.registry import load_recipe

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def test_the_settings_reach_the_classifier() -> None:
    recipe = load_recipe("evit")
    settings = recipe.Settings(
        image_size=32, at=(0, 1), keep_rate=(0.5, 0.25), fuse=False, encoder_settings=SMALL
    )
    model = recipe.build(settings).eval()
    assert [(block.index, block.selection.current) for block in reduced_blocks(model)] == [
        (0, 0.5),
        (1, 0.25),
    ]
    assert not reduced_blocks(model)[0].selection.fuse
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_the_defaults_are_the_paper_s() -> None:
    settings = load_recipe("evit").Settings()
    assert (settings.at, settings.keep_rate, settings.fuse) == ((3, 6, 9), 0.7, True)
    assert settings.training["learning_rate"] == pytest.approx(2e-3)


def test_a_training_from_nothing_keeps_all_tokens_first_and_saves_the_reduced_model(tmp_path) -> None:
    draws = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 16), ("val", 8)):
        arrays[f"{split}_images"] = draws.integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)[:, None] % 2
    np.savez(tmp_path / "data.npz", **arrays)
    recipe = load_recipe("evit")
    settings = recipe.Settings(
        image_size=32, at=(1, 2), keep_rate=0.5, encoder_settings=SMALL, shrink_start=0.25, shrink_share=0.5,
        augmentation={}, training={"steps": 4, "batch_size": 8, "tensorboard": False},
    )  # fmt: skip
    recipe.train(settings, data=tmp_path / "data.npz", out=tmp_path / "run")
    model = Classifier.from_pretrained(tmp_path / "run" / "model")
    assert [block.selection.current for block in reduced_blocks(model)] == [0.5, 0.5]


def test_a_fall_longer_than_the_training_is_refused(tmp_path) -> None:
    recipe = load_recipe("evit")
    settings = recipe.Settings(
        image_size=32, encoder_settings=SMALL, at=(1,), shrink_start=0.6, shrink_share=0.5
    )
    with pytest.raises(ValueError, match="more than the whole training"):
        recipe.objective(settings, torch.nn.Module())


def test_the_keep_rate_falls_while_the_model_of_the_objective_is_trained() -> None:
    from foveal.objectives.classification import ClassificationObjective

    recipe = load_recipe("evit")
    settings = recipe.Settings(
        image_size=32, at=(1,), keep_rate=0.5, encoder_settings=SMALL, shrink_start=0.25, shrink_share=0.5,
        training={"steps": 4},
    )  # fmt: skip
    model = Classifier(recipe.classifier_config(settings)).train()
    objective = recipe.objective(settings, ClassificationObjective(model))
    rates = []
    for _ in range(4):
        objective({"images": torch.rand(2, 3, 32, 32), "labels": torch.tensor([0, 1])})
        rates.append(reduced_blocks(model)[0].selection.current)
    assert rates == pytest.approx([1.0, 1.0, 0.75, 0.5])
