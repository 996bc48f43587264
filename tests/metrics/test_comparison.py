"""Effect sizes and tests of groups: closed forms, invariances, and what the intervals cover."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from foveal.metrics.comparison import (
    BCA_UP_TO,
    adjusted_differences,
    cliffs_delta,
    cohens_d,
    compare_many,
    compare_two,
    correct_p_values,
    describe,
    effect_sizes,
    small_sample_factor,
)

samples = arrays(float, st.integers(3, 12), elements=st.integers(-20, 20).map(float))


@pytest.fixture
def two_groups() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    return random.gamma(3, size=31) + 0.7, random.gamma(3, size=24)


def test_description_is_that_of_numpy(two_groups):
    first, _ = two_groups
    found = describe(first)
    assert found.n == 31
    assert found.mean == pytest.approx(first.mean())
    assert found.sd == pytest.approx(first.std(ddof=1))
    assert found[3:] == pytest.approx(np.quantile(first, [0.5, 0.25, 0.75]))
    assert describe(first[:0]).n == 0
    assert math.isnan(describe(first[:1]).sd)


def test_cohens_d_is_the_t_statistic_in_other_units(two_groups):
    first, second = two_groups
    t = stats.ttest_ind(first, second).statistic
    assert cohens_d(first, second) == pytest.approx(t * math.sqrt(1 / len(first) + 1 / len(second)))


def test_hedges_factor_takes_the_bias_away():
    random = np.random.default_rng(0)
    first, second = random.normal(1, 1, (40_000, 4)), random.normal(0, 1, (40_000, 4))
    d = cohens_d(first, second)
    assert d.mean() > 1.1
    assert small_sample_factor(6) * d.mean() == pytest.approx(1, abs=0.02)
    assert small_sample_factor(6) == pytest.approx(1 - 3 / (4 * 6 - 1), rel=2e-3)


def test_cliffs_delta_counts_the_pairs(two_groups):
    first, second = (np.round(values) for values in two_groups)  # with ties
    assert cliffs_delta(first, second) == pytest.approx(np.sign(first[:, None] - second[None]).mean())


def test_auc_is_that_of_the_roc_curve(two_groups):
    first, second = two_groups
    labels = np.repeat([1, 0], [len(first), len(second)])
    auc = roc_auc_score(labels, np.concatenate(two_groups))
    assert effect_sizes(first, second).auc.value == pytest.approx(auc)


@given(samples, samples)
def test_swapping_the_groups_flips_every_sign(first, second):
    assert cliffs_delta(first, second) == pytest.approx(-cliffs_delta(second, first), abs=1e-12)
    if np.ptp(first) or np.ptp(second):
        assert cohens_d(first, second) == pytest.approx(-cohens_d(second, first), abs=1e-9)


@given(samples, samples)
def test_monotone_transforms_keep_cliffs_delta(first, second):
    assert cliffs_delta(np.exp(first), np.exp(second)) == cliffs_delta(first, second)


def test_units_change_the_difference_alone(two_groups):
    first, second = two_groups
    plain, scaled = effect_sizes(first, second), effect_sizes(1000 * first + 5, 1000 * second + 5)
    assert scaled.difference == pytest.approx([1000 * end for end in plain.difference])
    for name in ("cohens_d", "hedges_g", "cliffs_delta", "auc"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name))


def test_same_seed_same_interval(two_groups):
    assert effect_sizes(*two_groups, seed=1) == effect_sizes(*two_groups, seed=1)
    assert effect_sizes(*two_groups, seed=1) != effect_sizes(*two_groups, seed=2)


def test_interval_of_the_difference_is_near_that_of_welch(two_groups):
    first, second = two_groups
    low, high = CompareMeans(DescrStatsW(first), DescrStatsW(second)).tconfint_diff(usevar="unequal")
    found = effect_sizes(first, second).difference
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))
    assert found.high == pytest.approx(high, abs=0.15 * (high - low))


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_intervals_cover_the_truth_as_often_as_they_say(shift):
    """Of normal groups with `shift` between them; at 0 this is the type-I error."""
    random = np.random.default_rng(7)
    truth = {
        "difference": shift,
        "hedges_g": shift,
        "cliffs_delta": 2 * stats.norm.cdf(shift / math.sqrt(2)) - 1,
    }
    runs = 250
    covered = dict.fromkeys(truth, 0)
    for seed in range(runs):
        first, second = random.normal(shift, 1, 25), random.normal(0, 1, 25)
        effects = effect_sizes(first, second, resamples=400, seed=seed)
        for name, value in truth.items():
            _, low, high = getattr(effects, name)
            covered[name] += low <= value <= high
    for name, count in covered.items():  # four standard errors of a binomial below and above 95 %, about
        assert 0.89 <= count / runs <= 0.99, name


def test_percentiles_take_over_where_groups_are_large():
    random = np.random.default_rng(0)
    first, second = random.normal(0.5, 1, BCA_UP_TO), random.normal(0, 1, BCA_UP_TO)
    found = effect_sizes(first, second, resamples=400).difference
    error = math.sqrt(2 / BCA_UP_TO)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_separated_groups_have_no_interval_of_delta():
    effects = effect_sizes(np.array([5.0, 6, 7, 8]), np.array([1.0, 2, 3, 4]))
    assert effects.cliffs_delta.value == effects.auc.value == 1
    assert math.isnan(effects.cliffs_delta.low)
    assert math.isnan(effects.auc.high)
    assert effects.difference.low > 0


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ([1.0, 2], [1.0, 2, 3], "at least 3"),
        ([1.0, 2, math.nan], [1.0, 2, 3], "NaN"),
        ([1.0, 1, 1], [2.0, 2, 2], "neither group varies"),
    ],
)
def test_groups_that_tell_nothing_are_refused(first, second, reason):
    for function in (effect_sizes, compare_two):
        with pytest.raises(ValueError, match=reason):
            function(np.array(first), np.array(second))


def test_tests_of_two_groups_are_those_of_scipy(two_groups):
    found = compare_two(*two_groups)
    welch = CompareMeans(*map(DescrStatsW, two_groups)).ttest_ind(usevar="unequal")
    assert (found.welch_t, found.welch_p, found.welch_df) == pytest.approx(welch)
    assert found.mann_whitney_p == pytest.approx(stats.ranksums(*two_groups).pvalue, rel=0.05)
    assert found.mann_whitney_u == np.sum(two_groups[0][:, None] > two_groups[1])


def test_two_groups_are_a_case_of_many(two_groups):
    found = compare_many(two_groups)
    assert found.anova_p == pytest.approx(stats.ttest_ind(*two_groups).pvalue)
    uncorrected = stats.mannwhitneyu(*two_groups, use_continuity=False, method="asymptotic")
    assert found.kruskal_p == pytest.approx(uncorrected.pvalue)


def test_explained_shares_of_variance(two_groups):
    groups = [*two_groups, two_groups[0] + 1]
    found = compare_many(groups)
    joined, sizes = np.concatenate(groups), [len(values) for values in groups]
    f = stats.f_oneway(*groups).statistic
    assert found.eta_squared == pytest.approx(2 * f / (2 * f + len(joined) - 3))
    ranks = np.split(stats.rankdata(joined), np.cumsum(sizes)[:-1])
    between = sum(len(r) * (r.mean() - (len(joined) + 1) / 2) ** 2 for r in ranks)
    total = ((np.concatenate(ranks) - (len(joined) + 1) / 2) ** 2).sum()
    assert found.epsilon_squared == pytest.approx(between / total)


def test_correction_leaves_missing_p_values_out():
    p = np.array([0.01, np.nan, 0.02, 0.5])
    assert correct_p_values(p, "bonferroni") == pytest.approx([0.03, np.nan, 0.06, 1], nan_ok=True)
    assert correct_p_values(p, "holm") == pytest.approx([0.03, np.nan, 0.04, 0.5], nan_ok=True)
    assert correct_p_values(p, "none") == pytest.approx(p, nan_ok=True)
    known = stats.false_discovery_control(p[~np.isnan(p)])
    assert correct_p_values(p, "fdr_bh")[[0, 2, 3]] == pytest.approx(known)
    assert np.isnan(correct_p_values(np.array([np.nan]), "holm")).all()
    with pytest.raises(ValueError, match="allowed: fdr_bh"):
        correct_p_values(p, "sidak")  # type: ignore[arg-type]


def test_adjusted_difference_is_that_of_the_formula():
    random = np.random.default_rng(0)
    groups, age, sex = random.integers(0, 3, 80), random.normal(60, 9, 80), random.integers(0, 2, 80)
    values = 0.4 * (groups == 2) + 0.05 * age + sex + random.normal(0, 1 + groups, 80)
    first, second = adjusted_differences(
        values, groups, np.column_stack([age, sex]).astype(float), [(2, 0), (1, 2)]
    )
    data = pd.DataFrame({"y": values, "one": groups == 1, "two": groups == 2, "age": age, "sex": sex})
    model = smf.ols("y ~ one + two + age + sex", data.astype(float)).fit(cov_type="HC3", use_t=True)
    low, high = model.conf_int().loc["two"]
    assert first.difference == pytest.approx((model.params["two"], low, high))
    assert first.p == pytest.approx(model.pvalues["two"])
    assert second.difference.value == pytest.approx(model.params["one"] - model.params["two"])


def test_adjustment_takes_away_what_age_explains():
    random = np.random.default_rng(1)
    groups = np.repeat([0, 1], 60)
    age = random.normal(55, 5, 120) + 12 * groups
    values = 0.1 * age + random.normal(0, 0.3, 120)
    (found,) = adjusted_differences(values, groups, age[:, None], [(1, 0)])
    assert values[60:].mean() - values[:60].mean() > 1
    assert found.difference.low < 0 < found.difference.high


@pytest.mark.parametrize(
    ("covariates", "reason"),
    [
        (np.repeat([0.0, 1.0], 8)[:, None], "follows from the group"),
        (np.eye(16)[:, :1], "single patient"),
        (np.random.default_rng(0).normal(size=(16, 13)), "too few for 15 coefficients"),
    ],
)
def test_covariates_that_decide_alone_are_refused(covariates, reason):
    with pytest.raises(ValueError, match=reason):
        adjusted_differences(np.arange(16.0), np.repeat([0, 1], 8), covariates, [(1, 0)])
