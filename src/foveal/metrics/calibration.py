"""How far probabilities of an event can be taken at their word.

Sources: A. H. Murphy, "A new vector partition of the probability score", J. Appl. Meteorol. 12, 1973, with
the terms within bins of D. B. Stephenson et al., Weather Forecast. 23, 2008; M. P. Naeini et al., "Obtaining
well calibrated probabilities using Bayesian binning", AAAI 2015 (expected and maximum calibration error).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from foveal.metrics.comparison import Estimate
from foveal.metrics.group_sums import (
    Band,
    GroupSums,
    as_estimate,
    chunks,
    percentile_interval,
    resampled_weights,
    size_interval,
)
from foveal.metrics.recalibration import LogisticScaling, fit_line, fit_offset, fit_slope

FINEST = 720
"""Bins of equal width are whole multiples of 1/720 wide: every number of bins that divides 720 is exact."""
LEAST = 1e-7
"""Probabilities are held this far from 0 and 1 before their logarithm is taken."""
_EDGES = np.unique(
    np.concatenate([np.arange(1, FINEST) / FINEST, special.expit(np.arange(-320, 321) / 20.0)])
)
"""(E,) inner edges, fine in probability and, where most pixels are, near 0 and 1, in log-odds."""

_SIZES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ece": lambda parts: np.abs(parts).sum(axis=-1),
    "adaptive_ece": lambda parts: np.abs(parts).sum(axis=-1),
    "mce": lambda parts: np.abs(parts).max(axis=-1),
    "reliability": lambda parts: (parts**2).sum(axis=-1),
}
"""What is the size of differences in bins, which noise can only raise."""
_AS_GIVEN = (1.0, 0.0)  # slope and intercept that change nothing


class _Sums(NamedTuple):
    """What is summed in a bin: items, events, p, p², p · y, log-odds of p, log-likelihood lost."""

    n: np.ndarray
    y: np.ndarray
    p: np.ndarray
    pp: np.ndarray
    py: np.ndarray
    logit: np.ndarray
    loss: np.ndarray


class ReliabilityCounts:
    """What calibration needs of any number of pixels: sums by fine bin of probability and by group.

    Bins are open below and closed above; the lowest holds 0.

    Example:
        >>> counts = ReliabilityCounts()
        >>> counts.add(np.array([0.1, 0.9, 0.8]), np.array([0, 1, 1]), group="first photograph")
        >>> round(calibration_scores(counts, bins=10).brier.value, 3)
        0.02
    """

    def __init__(self) -> None:
        self._sums = GroupSums(len(_Sums._fields))

    def __len__(self) -> int:
        """Groups so far."""
        return len(self._sums)

    def add(
        self,
        probability: np.ndarray,
        target: np.ndarray,
        *,
        group: Hashable,
        region: np.ndarray | None = None,
    ) -> None:
        """Add one photograph, or any other part.

        Args:
            probability: (...) in [0, 1].
            target: (...) bool, or 0 and 1: whether the event is there.
            group: patient (or photograph) that this is of, the unit of the bootstrap; may come again.
            region: (...) bool, where to look; everywhere by default.

        Raises:
            ValueError: shapes differ, a probability is outside [0, 1] or a target is neither 0 nor 1.
        """
        shapes = [array.shape for array in (probability, target, region) if array is not None]
        if len(set(shapes)) != 1:
            raise ValueError(f"probability, target and region must have one shape, got {shapes} of {group!r}")
        if region is not None:
            probability, target = probability[region], target[region]
        forecast, event = probability.ravel(), target.ravel()
        for part in chunks(len(forecast)):
            p, y = forecast[part].astype(float), event[part].astype(float)
            _check(p, y, group)
            held = np.clip(p, LEAST, 1 - LEAST)
            happens, fails = np.log(held), np.log1p(-held)
            sums = _Sums(
                np.ones_like(p), y, p, p * p, p * y, happens - fails, -np.where(y > 0, happens, fails)
            )
            self._sums.add(np.searchsorted(_EDGES, p, side="left"), sums, group=group)

    def _by_bin(self, edges: np.ndarray | None = None) -> list:
        """(G, K) sums between the given inner edges, or in the fine bins in use."""
        if not len(self):
            raise ValueError("counts hold nothing; add at least one photograph before asking for a figure")
        levels, tables = self._sums.tables()
        if edges is None:
            return tables
        place = np.searchsorted(edges, np.append(_EDGES, 1.0)[levels], side="left")
        into = np.zeros((len(levels), len(edges) + 1))
        into[np.arange(len(levels)), place] = 1
        return [table @ into for table in tables]

    def _equal_masses(self, bins: int) -> np.ndarray:
        """Inner edges that leave as equal numbers of items between them as fine bins allow."""
        _at_least_one(bins)
        levels, tables = self._sums.tables()
        reached = np.cumsum(tables[0].sum(axis=0))
        wanted = reached[-1] * np.arange(1, bins) / bins
        last = np.searchsorted(reached, wanted, side="left")
        return np.unique(_EDGES[levels[last[last < len(levels) - 1]]])


@dataclass(frozen=True)
class ReliabilityCurve:
    """Observed frequency beside mean probability in K bins, with 95% intervals from a bootstrap of groups.

    Attributes:
        edges: (K + 1,) of the bins, 0 to 1; a bin holds its upper edge.
        count: (K,) items.
        share: (K,) of all items that lie in the bin.
        probability: (K,) mean of the probabilities; NaN in an empty bin.
        frequency: (K,) share of events; NaN in an empty bin.
        groups: how many were resampled.
    """

    edges: np.ndarray
    count: np.ndarray
    share: Band
    probability: Band
    frequency: Band
    groups: int


@dataclass(frozen=True)
class CalibrationScores:
    """Calibration of an event's probabilities, each with its 95% interval from a bootstrap of groups.

    brier = reliability - resolution + uncertainty + within_bins, exactly.

    Attributes:
        ece: expected calibration error, the mean over items of |frequency - mean probability| of their bin of
            equal width.
        adaptive_ece: the same in bins of equal mass, whose edges stay where all items put them.
        mce: the largest |frequency - mean probability| of a bin of equal width that is not empty.
        brier: mean squared difference of probability and event.
        reliability: part of it that recalibrating the bins would take away.
        resolution: how far the bins' frequencies lie from the mean frequency.
        uncertainty: variance of the event.
        within_bins: variance of the probability within bins less twice its covariance with the event there.
        log_loss: mean negative log-likelihood, in nats.
        slope: of the event's log-odds on those of its probability; below 1 where these are too extreme. NaN
            where events and the others do not overlap.
        intercept: of the same fit.
        in_the_large: the intercept alone, with the slope held at 1; above 0 where probabilities are too low.
        items: how many went in.
        groups: how many were resampled.
    """

    ece: Estimate
    adaptive_ece: Estimate
    mce: Estimate
    brier: Estimate
    reliability: Estimate
    resolution: Estimate
    uncertainty: Estimate
    within_bins: Estimate
    log_loss: Estimate
    slope: Estimate
    intercept: Estimate
    in_the_large: Estimate
    items: int
    groups: int


def equal_width_curve(
    counts: ReliabilityCounts, *, bins: int = 15, resamples: int = 2000, seed: int = 0
) -> ReliabilityCurve:
    """Reliability curve in bins of equal width.

    Args:
        counts: of the items.
        bins: how many; divides 720.
        resamples: bootstrap resamples of groups.
        seed: of the resampling.

    Raises:
        ValueError: `counts` are empty, `bins` does not divide 720, or `resamples` is below 1.
    """
    return _curve(counts, _equal_widths(bins), resamples=resamples, seed=seed)


def equal_mass_curve(
    counts: ReliabilityCounts, *, bins: int = 15, resamples: int = 2000, seed: int = 0
) -> ReliabilityCurve:
    """Reliability curve in bins of about as many items each.

    An edge is the lowest one of the fine bins that has its share of items below it; equal probabilities are
    never parted, so there may be fewer bins.

    Args:
        counts: of the items.
        bins: how many at most.
        resamples: bootstrap resamples of groups.
        seed: of the resampling.

    Raises:
        ValueError: `counts` are empty, or `bins` or `resamples` is below 1.
    """
    counts._by_bin()
    return _curve(counts, counts._equal_masses(bins), resamples=resamples, seed=seed)


def calibration_scores(
    counts: ReliabilityCounts, *, bins: int = 15, resamples: int = 2000, seed: int = 0
) -> CalibrationScores:
    """Calibration errors, Brier score with its parts, log-loss and logistic recalibration.

    Percentile intervals, except those of `ece`, `adaptive_ece`, `mce` and `reliability`: noise can only raise
    these, so that their lower end is 0 where noise explains them (`size_interval`); that of `mce` knows no
    noise in a bin of one group. Slope and intercept are fitted to the mean log-odds of fine bins.

    Args:
        counts: of the items.
        bins: of the errors and the decomposition; divides 720.
        resamples: bootstrap resamples of groups.
        seed: of the resampling.

    Raises:
        ValueError: `counts` are empty, `bins` does not divide 720, or `resamples` is below 1.
    """
    tables = (
        counts._by_bin(),
        counts._by_bin(_equal_widths(bins)),
        counts._by_bin(counts._equal_masses(bins)),
    )
    fine, groups = tables[0], len(counts)
    drawn = resampled_weights(groups, fine[0].shape[1], resamples=resamples, seed=seed)
    value = _scores(np.ones((1, groups)), *tables)
    line, offset = (value["slope"][0], value["intercept"][0]), value["in_the_large"][0]
    near = (line if np.isfinite(line[0]) else _AS_GIVEN), (offset if np.isfinite(offset) else 0.0)
    draws = [_scores(weights, *tables, line=near[0], offset=near[1]) for weights in drawn]
    estimates = {}
    for name, observed in value.items():
        every = np.concatenate([batch[name] for batch in draws])
        if name in _SIZES:
            band = size_interval(_SIZES[name], observed[0], every, groups)
        else:
            band = percentile_interval(observed[0], every, groups)
        estimates[name] = as_estimate(band)
    return CalibrationScores(**estimates, items=int(fine[0].sum()), groups=groups)


def fit_temperature(counts: ReliabilityCounts) -> float:
    """Temperature T for which sigmoid(logit(p) / T) loses the least log-likelihood; above 1 softens.

    Apply it with `scaled_probability(probability, slope=1 / T)`.

    Raises:
        ValueError: `counts` are empty, or no positive finite temperature is best.
    """
    n, y, logit = _fine_totals(counts)
    slope = fit_slope(n, y, logit)[0]
    if not (np.isfinite(slope) and slope > 0):
        raise ValueError(
            f"no positive temperature fits these {int(n.sum())} items with {int(y.sum())} events: their "
            "probabilities must rise with the event, and events and the others overlap"
        )
    return float(1 / slope)


def fit_platt(counts: ReliabilityCounts) -> LogisticScaling:
    """Slope and intercept of the log-odds that lose the least log-likelihood (Platt scaling, no prior).

    Apply them with `scaled_probability(probability, slope=..., intercept=...)`.

    Raises:
        ValueError: `counts` are empty, or events and the others do not overlap: no finite fit is best.
    """
    n, y, logit = _fine_totals(counts)
    slope, intercept = fit_line(n, y, logit)[0].tolist()
    if not np.isfinite(slope):
        raise ValueError(
            f"no finite slope fits these {int(n.sum())} items with {int(y.sum())} events: these and "
            "the others must both occur and overlap in probability"
        )
    return LogisticScaling(slope, intercept)


def _check(p: np.ndarray, y: np.ndarray, group: Hashable) -> None:
    if not ((p >= 0) & (p <= 1)).all():
        found = p[~((p >= 0) & (p <= 1))][0]
        raise ValueError(f"probability of {group!r} holds {found}; values in [0, 1] are wanted")
    if not ((y == 0) | (y == 1)).all():
        found = y[(y != 0) & (y != 1)][0]
        raise ValueError(f"target of {group!r} holds {found}; bool, or 0 and 1, is wanted")


def _at_least_one(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins is {bins}; at least 1 is wanted")


def _equal_widths(bins: int) -> np.ndarray:
    _at_least_one(bins)
    if FINEST % bins:
        allowed = [number for number in range(1, 61) if FINEST % number == 0]
        raise ValueError(f"bins is {bins}; a divisor of {FINEST} is wanted: {allowed}, ...")
    return np.arange(FINEST // bins, FINEST, FINEST // bins) / FINEST


def _curve(counts: ReliabilityCounts, edges: np.ndarray, *, resamples: int, seed: int) -> ReliabilityCurve:
    sums, groups = _Sums(*counts._by_bin(edges)), len(counts)

    def curve(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = weights @ sums.n
        return n / n.sum(axis=1, keepdims=True), _ratio(weights @ sums.p, n), _ratio(weights @ sums.y, n)

    values = curve(np.ones((1, groups)))
    drawn = resampled_weights(groups, len(edges) + 1, resamples=resamples, seed=seed)
    draws = [np.concatenate(parts) for parts in zip(*map(curve, drawn), strict=True)]
    share, probability, frequency = (
        percentile_interval(value[0], draw, groups) for value, draw in zip(values, draws, strict=True)
    )
    count = sums.n.sum(axis=0).astype(int)
    ends = np.concatenate([[0.0], edges, [1.0]])
    return ReliabilityCurve(ends, count, share, probability, frequency, groups)


def _scores(
    weights: np.ndarray,
    fine: list,
    wide: list,
    massed: list,
    *,
    line: tuple[float, float] = _AS_GIVEN,
    offset: float = 0.0,
) -> dict[str, np.ndarray]:
    """Every score (R,), or its differences in bins (R, K), for R rows of weights of the groups.

    The fits start at `line` and `offset`.
    """
    w = _Sums(*(weights @ table for table in wide))
    events, summed = weights @ massed[1], weights @ massed[2]
    total = w.n.sum(axis=1)
    all_items = total[:, None]
    rate = w.y.sum(axis=1) / total
    spread = w.pp - _zero_ratio(w.p**2, w.n) - 2 * (w.py - _zero_ratio(w.p * w.y, w.n))
    n, y, logit = (weights @ table for table in (fine[0], fine[1], fine[5]))
    logit = _zero_ratio(logit, n)
    fitted = fit_line(n, y, logit, start=line)
    return {
        "ece": (w.y - w.p) / all_items,
        "adaptive_ece": (events - summed) / all_items,
        "mce": _ratio(w.y - w.p, w.n),
        "brier": (w.pp - 2 * w.py + w.y).sum(axis=1) / total,
        "reliability": _zero_ratio(w.y - w.p, np.sqrt(w.n * all_items)),
        "resolution": (_zero_ratio(w.y**2, w.n)).sum(axis=1) / total - rate**2,
        "uncertainty": rate * (1 - rate),
        "within_bins": spread.sum(axis=1) / total,
        "log_loss": w.loss.sum(axis=1) / total,
        "slope": fitted[:, 0],
        "intercept": fitted[:, 1],
        "in_the_large": fit_offset(n, y, logit, start=offset),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _zero_ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


def _fine_totals(counts: ReliabilityCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sums = _Sums(*(table.sum(axis=0)[None] for table in counts._by_bin()))
    return sums.n, sums.y, sums.logit / sums.n
