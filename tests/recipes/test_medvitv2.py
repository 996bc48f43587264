import torch

from foveal.recipes.evidence import run_evidence
from foveal.recipes.medvitv2 import MedViTV2Settings, recipe


def test_quick_evidence_holds_but_for_the_sine_that_eight_narrow_switches_cannot_follow() -> None:
    report = run_evidence(recipe, "quick")
    failed = [finding.claim for finding in report.findings if not finding.holds]
    assert failed == [
        "least mean squared error on sin(pi u) of one KAN layer: eight switches, the defaults"
    ], report.findings
    assert len(report.findings) > 20


def test_the_recipe_builds_a_classifier_with_its_settings() -> None:
    settings = MedViTV2Settings(
        image_size=64,
        classes=("a", "b", "c"),
        kan={"basis": "rbf"},
        encoder_settings={
            "dims": (16, 32, 32, 48),
            "depths": (1, 2, 3, 1),
            "head_dim": 8,
            "stem": (8, 8, 16),
        },
    )
    model = recipe.build(settings).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    kans = [module for module in model.modules() if type(module).__name__ == "KANLayer"]
    assert {kan.basis for kan in kans} == {"rbf"}
