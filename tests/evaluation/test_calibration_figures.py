"""The figures of uncertainty: what they say and that they are drawn the same every time."""

import matplotlib as mpl
import numpy as np
import pytest
from scipy import special

from foveal.evaluation.calibration_figures import reliability_figure, risk_coverage_figure
from foveal.metrics.calibration import ReliabilityCounts, calibration_scores, equal_width_curve
from foveal.metrics.selective import RiskCounts, risk_coverage


@pytest.fixture(scope="module")
def structure():
    random, counts, risks = np.random.default_rng(0), ReliabilityCounts(), RiskCounts()
    for photograph in range(6):
        p = special.expit(random.normal(-3, 2, 2000))
        y = random.random(2000) < p
        counts.add(p, y, group=photograph)
        risks.add(np.minimum(p, 1 - p), (p > 0.5) != y, group=photograph)
    scores = calibration_scores(counts, resamples=50)
    return equal_width_curve(counts, resamples=50), scores, risk_coverage(risks.table(), resamples=50)


def test_figures_name_every_structure_and_its_numbers(structure) -> None:
    curve, scores, result = structure
    names = ["disc", "$a$ & <b>", "lesions", "fovea"]
    drawn = reliability_figure(dict.fromkeys(names, curve), dict.fromkeys(names, scores)).decode()
    assert all(f"<!-- {name} -->" in drawn for name in ("disc", "lesions", "fovea"))
    assert drawn.count(f"slope {scores.slope.value:.2f} -->") == 4
    drawn = risk_coverage_figure(dict.fromkeys(names, result), risk="1 - Dice").decode()
    assert "1 - Dice of what is kept" in drawn
    assert drawn.count(f"<!-- random {result.base_risk.value:.3g} -->") == 4


def test_figures_are_the_same_every_time_and_leave_the_settings_alone(structure) -> None:
    curve, scores, result = structure
    before = dict(mpl.rcParams)
    assert reliability_figure({"disc": curve}) == reliability_figure({"disc": curve})
    assert risk_coverage_figure({"disc": result}) == risk_coverage_figure({"disc": result})
    assert reliability_figure({"disc": curve}) != reliability_figure({"disc": curve}, {"disc": scores})
    assert dict(mpl.rcParams) == before


def test_one_photograph_without_errors_can_be_drawn() -> None:
    counts, risks = ReliabilityCounts(), RiskCounts()
    counts.add(np.full(9, 0.01), np.zeros(9), group="only")
    risks.add(np.full(9, 0.01), np.zeros(9), group="only")
    curve, scores = equal_width_curve(counts), calibration_scores(counts)
    assert b"<svg" in reliability_figure({"disc": curve}, {"disc": scores})
    assert b"<svg" in risk_coverage_figure({"disc": risk_coverage(risks.table())})


def test_nothing_to_draw_and_other_structures_are_refused(structure) -> None:
    curve, scores, _ = structure
    with pytest.raises(ValueError, match="curves are empty"):
        reliability_figure({})
    with pytest.raises(ValueError, match="results are empty"):
        risk_coverage_figure({})
    with pytest.raises(ValueError, match=r"scores are of \['fovea'\] and curves of \['disc'\]"):
        reliability_figure({"disc": curve}, {"fovea": scores})
