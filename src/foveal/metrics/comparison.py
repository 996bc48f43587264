"""Comparison of groups of patients: effect sizes with intervals, tests, correction, adjustment.

Everything here takes one value a patient: several eyes or visits of a patient are to be averaged first, as
they are no independent observations.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special, stats

Correction = Literal["fdr_bh", "holm", "bonferroni", "none"]
FEWEST = 3
"""Fewest patients in a group of which anything is tested."""
BCA_UP_TO = 1000
"""Most patients for which bootstrap intervals are bias-corrected and accelerated; the acceleration costs the
square of their number, and its correction vanishes as they become many."""
_BATCH = 4_000_000  # resampled values that are in memory at once


class Estimate(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class Description(NamedTuple):
    """How one group is distributed; `sd` is the sample's (n - 1), the quartiles interpolate linearly."""

    n: int
    mean: float
    sd: float
    median: float
    lower_quartile: float
    upper_quartile: float


class Effects(NamedTuple):
    """How far the first of two groups lies above the second.

    Attributes:
        difference: of the means, in the unit of the values.
        cohens_d: difference over the pooled standard deviation.
        hedges_g: `cohens_d` without its small-sample bias.
        cliffs_delta: P(first > second) - P(first < second), -1 to 1; only ranks matter.
        auc: P(first > second) with ties counted half, 0 to 1: (cliffs_delta + 1) / 2.
    """

    difference: Estimate
    cohens_d: Estimate
    hedges_g: Estimate
    cliffs_delta: Estimate
    auc: Estimate


class TwoGroupTests(NamedTuple):
    """Two-sided tests of two groups: Welch's t, and Mann-Whitney's U of the first group."""

    welch_t: float
    welch_df: float
    welch_p: float
    mann_whitney_u: float
    mann_whitney_p: float


class OmnibusTests(NamedTuple):
    """Tests that several groups are alike, each with the share of variance that the groups explain.

    Attributes:
        kruskal_h: Kruskal-Wallis H, corrected for ties.
        kruskal_p: its p-value.
        epsilon_squared: H / (n - 1), 0 to 1, of the ranks (Tomczak and Tomczak 2014).
        anova_f: F of the one-way analysis of variance.
        anova_p: its p-value.
        eta_squared: sum of squares between groups over the total one, 0 to 1.
    """

    kruskal_h: float
    kruskal_p: float
    epsilon_squared: float
    anova_f: float
    anova_p: float
    eta_squared: float


class Adjusted(NamedTuple):
    """Difference of two groups at equal covariates, with the p-value of its being zero."""

    difference: Estimate
    p: float


def describe(values: np.ndarray) -> Description:
    """Size, mean, spread and quartiles of one group, (n,) finite values; NaN where there are too few."""
    if not len(values):
        return Description(0, *[float("nan")] * 5)
    lower, middle, upper = np.percentile(values, [25, 50, 75])
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Description(len(values), float(np.mean(values)), spread, float(middle), float(lower), float(upper))


def cohens_d(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Difference of means over the pooled standard deviation (Cohen 1988), along the last axis.

    Args:
        first: (..., n) values, n at least 2.
        second: (..., m) values, m at least 2.

    Returns:
        (...) effects; infinite where neither group varies and the means differ, 0 where they do not.
    """
    n, m = first.shape[-1], second.shape[-1]
    difference = first.mean(-1) - second.mean(-1)
    variance = ((n - 1) * first.var(-1, ddof=1) + (m - 1) * second.var(-1, ddof=1)) / (n + m - 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / np.sqrt(variance))


def small_sample_factor(freedom: int) -> float:
    """Hedges' exact factor J that takes the bias from Cohen's d, for n + m - 2 degrees of freedom (1981)."""
    half = freedom / 2
    return float(np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half))


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """P(first > second) - P(first < second) over all pairs (Cliff 1993), along the last axis.

    Args:
        first: (..., n) values.
        second: (..., m) values.

    Returns:
        (...) effects, -1 to 1.
    """
    n, m = first.shape[-1], second.shape[-1]
    ranks = stats.rankdata(np.concatenate([first, second], axis=-1), axis=-1)
    dominance = ranks[..., :n].sum(-1) - n * (n + 1) / 2  # Mann-Whitney's U
    return 2 * dominance / (n * m) - 1


def effect_sizes(first: np.ndarray, second: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Effects:
    """Effect sizes of two groups with 95% bootstrap intervals.

    Patients are resampled within their group. Up to `BCA_UP_TO` patients the intervals are bias-corrected and
    accelerated (Efron 1987), above them they are percentiles. The same draws serve all effects. Where every
    patient of one group is above every one of the other, no resample shows anything else: the interval of
    Cliff's delta, and of the AUC, is then NaN.

    Args:
        first: (n,) finite values, one a patient, at least `FEWEST`.
        second: (m,) likewise.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Effects of the first group relative to the second; swapping the two flips the sign of every value.

    Raises:
        ValueError: a group is too small or not finite, or neither group varies.
    """
    first, second = _group(first, "first"), _group(second, "second")
    if not (np.ptp(first) or np.ptp(second)):
        raise ValueError("neither group varies; allowed: at least one with two different values")

    def effects(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.stack([one.mean(-1) - other.mean(-1), cohens_d(one, other), cliffs_delta(one, other)])

    size = len(first) + len(second)
    ends = _bootstrap_interval((first, second), effects, resamples=resamples, seed=seed, size=size)
    difference, d, delta = (
        Estimate(float(value), float(low), float(high))
        for value, low, high in zip(effects(first, second), *ends, strict=True)
    )
    factor = small_sample_factor(size - 2)
    g = Estimate(*(factor * end for end in d))
    if abs(delta.value) == 1:
        delta = Estimate(delta.value, float("nan"), float("nan"))
    auc = Estimate(*((end + 1) / 2 for end in delta))
    return Effects(difference, d, g, delta, auc)


def _bootstrap_interval(
    groups: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray],
    *,
    resamples: int,
    seed: int,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    with warnings.catch_warnings():  # degenerate draws give NaN, which is told; the warnings say no more
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = stats.bootstrap(
            groups,
            statistic,
            n_resamples=resamples,
            vectorized=True,
            method="BCa" if size <= BCA_UP_TO else "percentile",
            batch=max(1, _BATCH // size),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return interval.low, interval.high


def compare_two(first: np.ndarray, second: np.ndarray) -> TwoGroupTests:
    """Welch's t-test and the Mann-Whitney test of two groups, two-sided.

    The Mann-Whitney test is exact for up to 8 patients in a group without ties, else asymptotic with
    corrections for ties and continuity.

    Raises:
        ValueError: a group is too small or not finite, or neither group varies.
    """
    first, second = _group(first, "first"), _group(second, "second")
    if not (np.ptp(first) or np.ptp(second)):
        raise ValueError("neither group varies; allowed: at least one with two different values")
    welch = stats.ttest_ind(first, second, equal_var=False)
    rank = stats.mannwhitneyu(first, second, alternative="two-sided")
    return TwoGroupTests(
        float(welch.statistic),
        float(welch.df),
        float(welch.pvalue),
        float(rank.statistic),
        float(rank.pvalue),
    )


def compare_many(groups: Sequence[np.ndarray]) -> OmnibusTests:
    """Kruskal-Wallis test and one-way analysis of variance of several groups.

    Raises:
        ValueError: fewer than two groups, one too small or not finite, or no group varies.
    """
    if len(groups) < 2:
        raise ValueError(f"{len(groups)} groups; allowed: two or more")
    groups = [_group(values, f"group {number}") for number, values in enumerate(groups, start=1)]
    if not any(np.ptp(values) for values in groups):
        raise ValueError("no group varies; allowed: at least one with two different values")
    joined = np.concatenate(groups)
    rank, variance = stats.kruskal(*groups), stats.f_oneway(*groups)
    within = sum(float(((values - values.mean()) ** 2).sum()) for values in groups)
    total = float(((joined - joined.mean()) ** 2).sum())
    return OmnibusTests(
        float(rank.statistic),
        float(rank.pvalue),
        float(rank.statistic) / (len(joined) - 1),
        float(variance.statistic),
        float(variance.pvalue),
        1 - within / total,
    )


def correct_p_values(p_values: np.ndarray, correction: Correction) -> np.ndarray:
    """P-values corrected for their number; NaN stay NaN and do not count.

    Args:
        p_values: (n,) each 0 to 1 or NaN.
        correction: "fdr_bh" bounds the false discovery rate (Benjamini and Hochberg 1995), "holm" (1979) and
            "bonferroni" the chance of any false discovery; "none" changes nothing.

    Raises:
        ValueError: another correction.
    """
    allowed = ("fdr_bh", "holm", "bonferroni", "none")
    if correction not in allowed:
        raise ValueError(f"correction is {correction!r}; allowed: {', '.join(allowed)}")
    corrected = np.array(p_values, dtype=float)
    known = np.isfinite(corrected)
    if correction != "none" and known.any():
        from statsmodels.stats.multitest import multipletests  # a second to import

        corrected[known] = multipletests(corrected[known], method=correction)[1]
    return corrected


def adjusted_differences(
    values: np.ndarray, groups: np.ndarray, covariates: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> list[Adjusted]:
    """Differences of groups at equal covariates: the linear model values ~ group + covariates.

    Standard errors are robust to unequal variances (HC3, MacKinnon and White 1985), and the intervals use
    Student's t with as many degrees of freedom as the model leaves.

    Args:
        values: (n,) finite values, one a patient.
        groups: (n,) number of each patient's group, from 0 on without gaps.
        covariates: (n, c) finite values, one row a patient; categories as 0/1 columns but for one of them.
        pairs: (first, second) numbers of groups; each difference is first minus second.

    Returns:
        One difference a pair.

    Raises:
        ValueError: too few patients, covariates that tell a group or one another, or a single patient who
            decides a coefficient alone.
    """
    import statsmodels.api as sm  # a second to import

    indicators = (groups[:, None] == np.arange(groups.max() + 1)).astype(float)
    scale = covariates.std(axis=0)
    # Centred and scaled, which changes no difference of groups, so that the rank is found whatever the units.
    centred = (covariates - covariates.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    design = np.hstack([indicators, centred])
    left = len(values) - design.shape[1]
    if left < 2:
        raise ValueError(
            f"{len(values)} patients are too few for {design.shape[1]} coefficients; "
            f"at least {design.shape[1] + 2} are needed"
        )
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError("a covariate is constant, or follows from the group or from other covariates")
    leverage = (np.linalg.qr(design)[0] ** 2).sum(axis=1)
    if leverage.max() > 1 - 1e-9:
        raise ValueError("a category of a covariate has a single patient, who decides its coefficient alone")
    model = sm.OLS(values, design).fit(cov_type="HC3", use_t=True)
    differences = []
    for first, second in pairs:
        contrast = np.zeros(design.shape[1])
        contrast[[first, second]] = 1.0, -1.0
        test = model.t_test(contrast)
        low, high = np.ravel(test.conf_int(alpha=0.05))
        difference = Estimate(float(np.ravel(test.effect)[0]), float(low), float(high))
        differences.append(Adjusted(difference, float(np.ravel(test.pvalue)[0])))
    return differences


def _group(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) < FEWEST:
        raise ValueError(f"{name} has shape {values.shape}; allowed: (n,) with n at least {FEWEST}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values; leave these patients out first")
    return values
