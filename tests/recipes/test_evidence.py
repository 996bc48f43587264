"""Every recipe's quick evidence holds."""

import time

import pytest

from foveal.recipes import load_recipe, recipe_names
from foveal.recipes.evidence import run_evidence


@pytest.mark.parametrize("name", recipe_names())
def test_quick_evidence_holds(name: str) -> None:
    start = time.process_time()
    report = run_evidence(load_recipe(name), "quick")
    broken = [finding for finding in report.findings if not finding.holds]
    assert report.findings
    assert not broken
    # Sixty seconds on two cores; processor time does not depend on what else runs on the machine.
    assert time.process_time() - start < 120
