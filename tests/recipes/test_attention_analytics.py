"""Attention analytics as a recipe: settings, composition, and evidence that holds."""

import pytest
import torch
from pydantic import ValidationError

from foveal.recipes import load_recipe
from foveal.recipes._attention_analytics_evidence import pictures, small_vit
from foveal.recipes._attention_families import FAMILIES, families
from foveal.recipes.attention_analytics import AttentionAnalyticsSettings
from foveal.recipes.base import Finding


def findings(*names):
    """What proofs of these names give."""
    for proof in load_recipe("attention-analytics").evidence("quick"):
        if getattr(proof, "__name__", "") in names:
            found = proof()
            yield from [found] if isinstance(found, Finding) else found


@pytest.mark.parametrize(
    "name",
    [
        "gates",
        "gradient_of_a_gate",
        "planted_head",
        "rings",
        "profiles_by_loops",
        "what_is_refused",
        "passes_of_both_measures",
    ],
)
def test_exact_evidence_holds(name):
    found = list(findings(name))
    assert found
    assert all(each.holds for each in found), [each for each in found if not each.holds]


def test_the_recipe_analyses_a_model():
    recipe = load_recipe("attention-analytics")
    analyse = recipe.build(AttentionAnalyticsSettings(epochs=1, clusters=2))
    found = analyse(small_vit(), pictures(), None)
    assert found.rank.shape == (3, 3)
    assert len(found.atlas.names) == 2


def test_settings_are_those_of_the_card():
    settings = AttentionAnalyticsSettings()
    assert (settings.ablation, settings.representation) == ("zero", "offset")
    assert (settings.latent, settings.epochs, settings.clusters) == (32, 50, None)
    with pytest.raises(ValidationError, match="did you mean 'clusters'"):
        AttentionAnalyticsSettings(cluster=4)


def test_families_are_attention_and_differ_with_the_seed():
    weights, names = families(2, side=4)
    assert tuple(names) == FAMILIES
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 2, 16, dtype=torch.float64))
    assert not torch.equal(weights, families(2, side=4, seed=1)[0])
    assert torch.equal(weights, families(2, side=4)[0])
