"""Calibration against hand-worked cases, scikit-learn, torchmetrics, statsmodels and simulation."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import BinaryCalibrationError

from foveal.metrics.calibration import (
    CalibrationScores,
    ReliabilityCounts,
    calibration_scores,
    equal_mass_curve,
    equal_width_curve,
    fit_platt,
    fit_temperature,
)
from foveal.metrics.recalibration import scaled_probability


def _counts(p: np.ndarray, y: np.ndarray, groups: int = 1) -> ReliabilityCounts:
    counts = ReliabilityCounts()
    for group in range(groups):
        counts.add(p[group::groups], y[group::groups], group=group)
    return counts


def _scores(p: np.ndarray, y: np.ndarray, **options: int) -> CalibrationScores:
    return calibration_scores(_counts(p, y), **({"resamples": 2} | options))


def _forecast(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts that are too extreme: the event's log-odds are 0.6 of theirs, plus 0.3."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1, 2, n)
    return special.expit(logit), random.random(n) < special.expit(0.6 * logit + 0.3)


def test_four_forecasts_in_two_bins_have_the_figures_worked_by_hand() -> None:
    p, y = np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 1, 1, 1])
    curve = equal_width_curve(_counts(p, y), bins=2, resamples=2)
    assert curve.edges.tolist() == [0, 0.5, 1]
    assert curve.count.tolist() == [2, 2]
    assert curve.share.value.tolist() == [0.5, 0.5]
    assert curve.probability.value == pytest.approx([0.2, 0.7])
    assert curve.frequency.value.tolist() == [0.5, 1]
    scores = _scores(p, y, bins=2)
    assert scores.ece.value == pytest.approx(0.3)
    assert scores.mce.value == pytest.approx(0.3)
    assert scores.brier.value == pytest.approx((0.01 + 0.49 + 0.16 + 0.04) / 4)
    assert scores.reliability.value == pytest.approx(0.09)
    assert scores.resolution.value == pytest.approx(0.0625)
    assert scores.uncertainty.value == pytest.approx(0.1875)
    # Variance within bins 0.01, twice the covariance there 2 (0.02 + 0 + 0 + 0.08) / 4 / 2 = 0.05.
    assert scores.within_bins.value == pytest.approx(0.01 - 0.05)
    assert (scores.items, scores.groups) == (4, 1)


@pytest.mark.parametrize("bins", [2, 10, 15, 20])
def test_curve_of_equal_widths_is_that_of_scikit_learn(bins: int) -> None:
    p, y = _forecast(0)
    p[:4] = 0, 0.5, 0.1, 1  # on edges of bins
    curve = equal_width_curve(_counts(p, y), bins=bins, resamples=2)
    frequency, probability = calibration_curve(y, p, n_bins=bins)
    there = curve.count > 0
    assert curve.frequency.value[there] == pytest.approx(frequency, abs=1e-12)
    assert curve.probability.value[there] == pytest.approx(probability, abs=1e-12)


def test_curve_of_equal_masses_is_that_of_scikit_learn_where_fine_bins_part_all_values() -> None:
    p = np.random.default_rng(0).permutation((np.arange(360) + 0.25) / 360)
    y = np.random.default_rng(1).random(360) < p
    curve = equal_mass_curve(_counts(p, y), bins=12, resamples=2)
    frequency, probability = calibration_curve(y, p, n_bins=12, strategy="quantile")
    assert curve.count.tolist() == 12 * [30]
    assert curve.frequency.value == pytest.approx(frequency, abs=1e-12)
    assert curve.probability.value == pytest.approx(probability, abs=1e-12)


def test_equal_masses_part_the_crowd_near_0_and_never_equal_values() -> None:
    p = np.concatenate([np.full(500, 0.25), 10 ** np.random.default_rng(0).uniform(-6, -2, 500)])
    curve = equal_mass_curve(_counts(p, np.zeros(1000)), bins=10, resamples=2)
    assert curve.count[-1] == 500
    assert len(curve.count) == 6
    assert curve.count[:-1] == pytest.approx(100, abs=5)


@pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("max", "mce")])
def test_calibration_errors_are_those_of_torchmetrics(norm: str, name: str) -> None:
    p, y = _forecast(1)
    p = p.astype(np.float32)
    peer = BinaryCalibrationError(n_bins=15, norm=norm)
    expected = float(peer(torch.from_numpy(p).double(), torch.from_numpy(y.astype(int))))
    assert getattr(_scores(p, y), name).value == pytest.approx(expected, abs=1e-6)


def test_brier_score_and_log_loss_are_those_of_scikit_learn() -> None:
    p, y = _forecast(2)
    scores = _scores(p, y)
    assert scores.brier.value == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert scores.log_loss.value == pytest.approx(log_loss(y, p), abs=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([1, 5, 15, 48]))
def test_parts_of_the_brier_score_add_up_to_it(seed: int, bins: int) -> None:
    scores = _scores(*_forecast(seed, 200), bins=bins)
    parts = scores.reliability.value - scores.resolution.value + scores.uncertainty.value
    assert parts + scores.within_bins.value == pytest.approx(scores.brier.value, abs=1e-12)


def test_slope_intercept_and_offset_are_those_of_a_logistic_regression() -> None:
    p, y = _forecast(3)
    scores, logit = _scores(p, y), special.logit(p)
    line = sm.GLM(y, sm.add_constant(logit), family=sm.families.Binomial()).fit().params
    offset = sm.GLM(y, np.ones_like(p), family=sm.families.Binomial(), offset=logit).fit().params
    assert scores.slope.value == pytest.approx(line[1], abs=5e-4)
    assert scores.intercept.value == pytest.approx(line[0], abs=5e-4)
    assert scores.in_the_large.value == pytest.approx(offset[0], abs=5e-4)
    assert fit_platt(_counts(p, y)) == pytest.approx((scores.slope.value, scores.intercept.value))


def test_temperature_is_that_of_a_regression_without_intercept() -> None:
    p, y = _forecast(4)
    slope = sm.GLM(y, special.logit(p), family=sm.families.Binomial()).fit().params[0]
    assert 1 / fit_temperature(_counts(p, y)) == pytest.approx(slope, abs=5e-4)


def test_scaled_probabilities_need_no_more_scaling_and_lose_less() -> None:
    p, y = _forecast(5)
    before = _scores(p, y)
    after = _scores(scaled_probability(p, **fit_platt(_counts(p, y))._asdict()), y)
    assert (after.slope.value, after.intercept.value) == pytest.approx((1, 0), abs=2e-3)
    assert after.log_loss.value < before.log_loss.value
    cooled = scaled_probability(p, slope=1 / fit_temperature(_counts(p, y)))
    assert fit_temperature(_counts(cooled, y)) == pytest.approx(1, abs=2e-3)


def test_scaling_keeps_type_order_and_certainty() -> None:
    p = np.array([[0, 0.2], [0.7, 1]], np.float32)
    scaled = scaled_probability(p, slope=0.5, intercept=1.0)
    assert scaled.dtype == np.float32
    assert scaled[0, 0] == 0
    assert scaled[1, 1] == 1
    assert scaled[0, 1] == pytest.approx(special.expit(0.5 * special.logit(0.2) + 1))
    assert scaled_probability(p, slope=1.0) == pytest.approx(p, abs=1e-7)
    assert (np.diff(scaled.ravel()) > 0).all()


def test_streaming_in_parts_is_the_same_as_at_once() -> None:
    p, y = (array.reshape(50, 60) for array in _forecast(6))
    at_once, parts = ReliabilityCounts(), ReliabilityCounts()
    region = np.random.default_rng(0).random(p.shape) < 0.7
    for group, rows in (("a", slice(0, 20)), ("b", slice(20, 50))):
        at_once.add(p[rows][region[rows]], y[rows][region[rows]], group=group)
    for row in range(50):
        parts.add(p[row], y[row], group="a" if row < 20 else "b", region=region[row])
    assert len(parts) == 2
    for name, expected in vars(calibration_scores(at_once, resamples=50)).items():
        assert getattr(calibration_scores(parts, resamples=50), name) == pytest.approx(expected, nan_ok=True)


def test_resampled_sums_are_those_of_resampled_photographs() -> None:
    p, y = _forecast(7, 400)
    found = calibration_scores(_counts(p, y, groups=8), resamples=300, seed=5)
    drawn = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), size=300)
    by_hand = [
        np.mean((np.repeat(p, w[np.arange(400) % 8]) - np.repeat(y, w[np.arange(400) % 8])) ** 2)
        for w in drawn
    ]
    assert found.brier[1:] == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=1e-12)


def _covered(slope: float, truth: dict[str, float], trials: int = 40) -> dict[str, float]:
    """How often the intervals hold the truth, for 40 patients of 60 items with correlated probabilities."""
    random, hits = np.random.default_rng(0), {name: 0 for name in truth}
    for _ in range(trials):
        counts = ReliabilityCounts()
        for patient in range(40):
            logit = random.normal(random.normal(), 1.5, 60)
            counts.add(special.expit(logit), random.random(60) < special.expit(slope * logit), group=patient)
        scores = calibration_scores(counts, bins=10, resamples=200)
        for name, value in truth.items():
            hits[name] += getattr(scores, name).low <= value <= getattr(scores, name).high
    return {name: count / trials for name, count in hits.items()}


def test_intervals_of_a_calibrated_forecaster_cover_the_truth_as_often_as_they_say() -> None:
    truth = {
        "ece": 0,
        "adaptive_ece": 0,
        "mce": 0,
        "reliability": 0,
        "slope": 1,
        "intercept": 0,
        "in_the_large": 0,
    }
    share = _covered(1.0, truth)
    # 0.95 less four standard errors of 40 trials; a percentile interval of the ECE would never hold 0.
    assert min(share.values()) > 0.81, share


def test_intervals_of_a_wrong_forecaster_hold_its_error_and_not_0() -> None:
    # 0.0764 is the error of 2 million items of this forecaster.
    share = _covered(0.6, {"ece": 0.0764, "slope": 0.6})
    assert min(share.values()) > 0.81, share
    assert _covered(0.6, {"ece": 0, "slope": 1}, trials=10) == {"ece": 0, "slope": 0}


def test_frequency_band_holds_the_probability_of_a_calibrated_forecaster() -> None:
    random, hits = np.random.default_rng(0), []
    for _ in range(100):
        p = special.expit(random.normal(size=3000))
        curve = equal_width_curve(_counts(p, random.random(3000) < p, groups=50), bins=10, resamples=200)
        inside = (curve.frequency.low <= curve.probability.value) & (
            curve.probability.value <= curve.frequency.high
        )
        hits.append(inside[3:7])
    assert 0.9 < np.mean(hits) < 0.98


def test_one_group_gives_values_without_intervals() -> None:
    scores = _scores(*_forecast(8))
    assert np.isfinite(scores.ece.value)
    assert np.isnan([scores.ece.low, scores.brier.high, scores.slope.low]).all()


def test_parted_events_have_no_finite_slope_and_no_fit() -> None:
    p, y = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    scores = _scores(p, y)
    assert np.isnan(scores.slope.value)
    assert np.isfinite(scores.in_the_large.value)
    assert np.isnan(_scores(p, np.zeros(4)).in_the_large.value)
    with pytest.raises(ValueError, match="4 items with 2 events"):
        fit_platt(_counts(p, y))
    with pytest.raises(ValueError, match="no positive temperature"):
        fit_temperature(_counts(p, y))
    with pytest.raises(ValueError, match="no positive temperature"):
        fit_temperature(_counts(np.array([0.1, 0.2, 0.8, 0.9, 0.9]), np.array([1, 1, 0, 0, 1])))


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        (np.array([0.5, 1.5]), np.zeros(2), r"probability of 'x' holds 1.5; values in \[0, 1\]"),
        (np.array([np.nan]), np.zeros(1), "probability of 'x' holds nan"),
        (np.array([0.5]), np.array([2]), "target of 'x' holds 2.0; bool, or 0 and 1"),
        (np.array([0.5]), np.zeros(2), r"one shape, got \[\(1,\), \(2,\)\] of 'x'"),
    ],
)
def test_wrong_arrays_are_refused(p: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReliabilityCounts().add(p, y, group="x")


def test_wrong_options_are_refused() -> None:
    counts = _counts(*_forecast(9, 20))
    with pytest.raises(ValueError, match="bins is 7; a divisor of 720"):
        equal_width_curve(counts, bins=7)
    with pytest.raises(ValueError, match="bins is 0; at least 1"):
        equal_mass_curve(counts, bins=0)
    with pytest.raises(ValueError, match="resamples is 0; at least 1"):
        calibration_scores(counts, resamples=0)
    with pytest.raises(ValueError, match="hold nothing"):
        calibration_scores(ReliabilityCounts())
    with pytest.raises(ValueError, match="slope -1"):
        scaled_probability(np.array([0.5]), slope=-1)
