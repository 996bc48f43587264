"""The recipe of PACE: its quick evidence holds, its settings are the method's, its pictures are known."""

import pytest
import torch

from foveal.explanation.pace import Pace, PaceSettings
from foveal.recipes._pace_colours import colour_pictures
from foveal.recipes.evidence import run_evidence
from foveal.recipes.pace import PaceRecipeSettings, recipe


def test_quick_evidence_holds():
    report = run_evidence(recipe, "quick")
    assert len(report.findings) >= 19
    assert [finding for finding in report.findings if not finding.holds] == []


def test_settings_are_those_of_the_method():
    own = {name: field.default for name, field in PaceRecipeSettings.model_fields.items() if name != "model"}
    assert own == {name: field.default for name, field in PaceSettings.model_fields.items()}


def test_build_fits_concepts_to_a_model():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.Flatten(), torch.nn.Linear(128, 2)
    )
    settings = PaceRecipeSettings(concepts=3, dimensions=4, layer="0", batch_size=4)
    assert isinstance(recipe.build(settings)(model.eval(), torch.rand(8, 3, 32, 32)), Pace)


def test_training_needs_a_model_and_images(tmp_path):
    with pytest.raises(ValueError, match="--set model="):
        recipe.train(PaceRecipeSettings(), data=tmp_path, out=tmp_path / "out")


def test_pictures_of_colours_have_the_colours_of_their_class():
    pictures = colour_pictures()
    labels, colours = pictures.data.test_labels, pictures.patches.flatten(1)
    assert set(colours[labels == 0].unique().tolist()) == {0, 1, 4}
    assert set(colours[labels == 1].unique().tolist()) == {2, 3, 4}
    black = (colours == 4).float().mean(1)
    assert set(black.unique().tolist()) == {0, 0.25, 0.5}
    red = pictures.data.test_images[:, :, ::4, ::4].flatten(2).movedim(1, 2)[colours == 0].mean(0)
    assert red[0] > 0.8
    assert red[1:].max() < 0.2
