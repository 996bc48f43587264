"""Risk and coverage against hand-worked cases, brute force over orders, and scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from foveal.metrics.selective import RiskCounts, risk_at, risk_coverage, risk_table


def _area(losses: np.ndarray) -> float:
    return float(np.mean(np.cumsum(losses) / np.arange(1, len(losses) + 1)))


def _items(seed: int, n: int = 300, levels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    uncertainty = random.integers(0, levels, n) / levels
    return uncertainty, random.random(n) < uncertainty


def test_four_items_have_the_figures_worked_by_hand() -> None:
    table = risk_table(np.array([0.4, 0.1, 0.3, 0.2]), np.array([True, False, False, True]))
    found = risk_coverage(table, coverages=[0.25, 0.5, 0.75, 1], resamples=2)
    assert found.risk.value == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert found.ideal == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert found.aurc.value == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found.ideal_aurc.value == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert found.excess_aurc.value == pytest.approx(1 / 8)
    assert found.base_risk.value == 0.5
    assert found.auroc.value == 0.75
    assert (found.items, found.groups) == (4, 4)


def test_ties_give_the_mean_over_all_their_orders() -> None:
    uncertainty, loss = np.array([0, 1, 1, 1, 2, 2]), np.array([0.2, 1, 0, 0.5, 0.3, 0.9])
    areas, halves = [], []
    for middle in permutations([1, 2, 3]):
        for last in permutations([4, 5]):
            order = loss[[0, *middle, *last]]
            areas.append(_area(order))
            halves.append(order[:3].mean())
    table = risk_table(uncertainty, loss)
    found = risk_coverage(table, coverages=[0.5], resamples=2)
    assert found.aurc.value == pytest.approx(np.mean(areas))
    assert found.risk.value[0] == pytest.approx(np.mean(halves))
    assert risk_at(table, 0.5, resamples=2).value == pytest.approx(np.mean(halves))


@given(st.integers(0, 10_000), st.booleans())
def test_order_by_the_loss_is_ideal_and_none_is_better(seed: int, binary: bool) -> None:
    random = np.random.default_rng(seed)
    loss = (random.random(50) < 0.3) if binary else random.random(50)
    perfect = risk_coverage(risk_table(loss.astype(float), loss), resamples=2)
    assert perfect.excess_aurc.value == pytest.approx(0, abs=1e-12)
    assert perfect.aurc.value == pytest.approx(_area(np.sort(loss)))
    assert perfect.risk.value == pytest.approx(perfect.ideal)
    other = risk_coverage(risk_table(random.random(50), loss), resamples=2)
    assert other.ideal_aurc == pytest.approx(perfect.ideal_aurc, nan_ok=True)
    assert other.aurc.value >= other.ideal_aurc.value


def test_uncertainty_that_knows_nothing_has_the_base_risk() -> None:
    loss = np.random.default_rng(0).random(20_000) < 0.2
    equal = risk_coverage(risk_table(np.ones(len(loss)), loss), resamples=2)
    assert equal.aurc.value == pytest.approx(loss.mean(), abs=1e-12)
    assert equal.risk.value == pytest.approx(loss.mean(), abs=1e-12)
    assert equal.auroc.value == 0.5
    drawn = risk_coverage(risk_table(np.random.default_rng(1).random(len(loss)), loss), resamples=2)
    assert drawn.aurc.value == pytest.approx(loss.mean(), abs=0.01)
    assert drawn.auroc.value == pytest.approx(0.5, abs=0.02)


def test_auroc_is_that_of_scikit_learn() -> None:
    uncertainty, loss = _items(0)
    found = risk_coverage(risk_table(uncertainty, loss), resamples=2)
    assert found.auroc.value == pytest.approx(roc_auc_score(loss, uncertainty), abs=1e-12)


def test_auroc_is_unknown_for_graded_losses_and_without_errors() -> None:
    uncertainty, loss = _items(1)
    assert np.isnan(risk_coverage(risk_table(uncertainty, loss / 2), resamples=2).auroc.value)
    assert np.isnan(risk_coverage(risk_table(uncertainty, 0 * loss), resamples=2).auroc.value)


@given(st.integers(0, 10_000))
def test_only_the_order_of_uncertainty_matters(seed: int) -> None:
    uncertainty, loss = _items(seed, 60)
    found = risk_coverage(risk_table(uncertainty, loss), resamples=5)
    changed = risk_coverage(risk_table(np.exp(3 * uncertainty) - 7, loss), resamples=5)
    assert changed.aurc == found.aurc
    assert np.array_equal(changed.risk.high, found.risk.high)


def test_streaming_in_parts_is_the_same_as_at_once() -> None:
    uncertainty, loss = _items(2, 600)
    groups = np.arange(600) % 6
    counts, region = RiskCounts(), np.random.default_rng(0).random(600) < 0.8
    for part in range(30):
        rows = np.arange(600) % 30 == part
        counts.add(uncertainty[rows], loss[rows], group=part % 6, region=region[rows])
    assert len(counts) == 6
    # The groups come in the same order, so that the resamples are the same.
    order = np.flatnonzero(region)[np.argsort(groups[region], kind="stable")]
    expected = risk_coverage(
        risk_table(uncertainty[order], loss[order], groups[order].tolist()), resamples=50
    )
    found = risk_coverage(counts.table(), resamples=50)
    assert found.risk.low == pytest.approx(expected.risk.low)
    for name in ("base_risk", "aurc", "ideal_aurc", "excess_aurc", "auroc", "items", "groups"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_levels_of_streamed_uncertainty_cost_little_over_many_magnitudes() -> None:
    random = np.random.default_rng(0)
    uncertainty = 10 ** random.uniform(-9, 0, 20_000)
    loss = random.random(20_000) < uncertainty**0.25 / 2
    counts = RiskCounts()
    counts.add(uncertainty.astype(np.float32), loss, group="all")
    streamed = risk_coverage(counts.table(), resamples=2)
    exact = risk_coverage(risk_table(uncertainty, loss), resamples=2)
    assert streamed.aurc.value == pytest.approx(exact.aurc.value, rel=2e-3)
    assert streamed.ideal_aurc.value == pytest.approx(exact.ideal_aurc.value, abs=1e-12)
    assert counts.table().by_uncertainty.count.shape[1] < 5000


def test_resamples_are_those_of_the_patients_items() -> None:
    uncertainty, loss = _items(3, 120)
    groups = np.arange(120) % 5
    found = risk_coverage(risk_table(uncertainty, loss, groups.tolist()), resamples=200, seed=3)
    areas = []
    for weights in np.random.default_rng(3).multinomial(5, np.full(5, 1 / 5), size=200):
        u, e = np.repeat(uncertainty, weights[groups]), np.repeat(loss, weights[groups])
        areas.append(risk_coverage(risk_table(u, e), resamples=1).aurc.value)
    assert found.aurc[1:] == pytest.approx(np.percentile(areas, [2.5, 97.5]))


def test_interval_over_patients_covers_the_truth_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(0), []
    # Errors are as likely as the uncertainty says, which is even in [0, 1]: the risk at coverage c is c / 2.
    for _ in range(200):
        uncertainty = random.random(40 * 25)
        table = risk_table(
            uncertainty, random.random(1000) < uncertainty, np.repeat(np.arange(40), 25).tolist()
        )
        low, high = risk_at(table, 0.6, resamples=200)[1:]
        hits.append(low <= 0.3 <= high)
    assert 0.88 < np.mean(hits) < 1


def test_one_patient_gives_values_without_intervals() -> None:
    found = risk_at(risk_table(*_items(4), groups=300 * ["a"]), 0.5)
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.high]).all()


def test_wrong_items_are_refused() -> None:
    fine = np.array([0.5, 0.2])
    with pytest.raises(ValueError, match=r"loss of 'x' holds 1.5; bool, or values in \[0, 1\]"):
        RiskCounts().add(fine, np.array([0, 1.5]), group="x")
    with pytest.raises(ValueError, match=r"uncertainty of 'x' holds -1.0; finite values from 0"):
        RiskCounts().add(np.array([-1.0, 0]), fine, group="x")
    with pytest.raises(ValueError, match=r"one shape, got \[\(2,\), \(1,\)\] of 'x'"):
        RiskCounts().add(fine, fine[:1], group="x")
    with pytest.raises(ValueError, match="hold nothing"):
        RiskCounts().table()
    with pytest.raises(ValueError, match="uncertainty holds inf"):
        risk_table(np.array([np.inf, 0]), fine)
    with pytest.raises(ValueError, match="loss of the items holds nan"):
        risk_table(fine, np.array([np.nan, 0]))
    with pytest.raises(ValueError, match="1 groups"):
        risk_table(fine, fine, ["a"])


@pytest.mark.parametrize("coverage", [0, 1.1, float("nan")])
def test_wrong_coverages_are_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match=r"at least one, each in \(0, 1\]"):
        risk_at(risk_table(*_items(5)), coverage)
