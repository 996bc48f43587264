"""LPViT's recipe: settings, the pruning they build, and its quick evidence."""

import pytest
import torch
from pydantic import ValidationError

from foveal.compression.block_pruning import make_fast
from foveal.recipes._lpvit_evidence import learning, small_model
from foveal.recipes.base import Finding
from foveal.recipes.evidence import run_evidence
from foveal.recipes.lpvit import recipe


def test_quick_evidence_holds():
    report = run_evidence(recipe, "quick")
    assert report.holds, [f for f in report.findings if not f.holds]
    assert len(report.findings) >= 15


def test_what_is_built_prunes_a_model():
    model, images = small_model(), torch.rand(4, 3, 32, 32)
    found = recipe.build(recipe.Settings(target=0.4, block="8x16"))(model, images)
    assert 0.38 <= found.operations <= 0.4
    assert found.block == (8, 16)
    found.masks(model).apply(model)
    make_fast(model, found)
    assert model(images).shape == (4, 5)


@pytest.mark.slow
def test_learning_in_short_runs_to_its_end():
    items = list(learning([0], steps=20, tune=3))
    kept_zero = next(i for i in items if isinstance(i, Finding) and "AdamW" in i.claim)
    assert kept_zero.holds


def test_targets_out_of_range_are_refused():
    for target in (0, 1, 1.2):
        with pytest.raises(ValidationError):
            recipe.Settings(target=target)
