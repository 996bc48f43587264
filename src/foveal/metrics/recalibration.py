"""Logistic maps of probabilities: temperature, Platt's line and the offset, fitted to binned log-odds.

Sources: J. Platt, "Probabilistic outputs for support vector machines", 1999; C. Guo et al., "On calibration
of modern neural networks", ICML 2017 (temperature); D. R. Cox, "Two further applications of a model for
binary regression", Biometrika 45, 1958 (slope and intercept as measures).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

_NEWTON_STEPS, _HALVINGS, _SETTLED, _ROUNDING = 50, 20, 1e-7, 1e-12


class LogisticScaling(NamedTuple):
    """Platt's map of log-odds: logit(q) = slope · logit(p) + intercept."""

    slope: float
    intercept: float


def scaled_probability(probability: np.ndarray, *, slope: float, intercept: float = 0.0) -> np.ndarray:
    """sigmoid(slope · logit(p) + intercept), of the shape and type of `probability`; 0 and 1 stay put.

    Args:
        probability: (...) floats in [0, 1].
        slope: of the log-odds; 1 / T for a temperature T.
        intercept: added to the log-odds.

    Raises:
        ValueError: `slope` is not positive and finite, or `intercept` is not finite.
    """
    if not (np.isfinite(slope) and slope > 0 and np.isfinite(intercept)):
        raise ValueError(
            f"slope {slope} and intercept {intercept}: a positive and a finite number are wanted"
        )
    scaled: np.ndarray = special.expit(slope * special.logit(probability) + intercept)
    return scaled.astype(probability.dtype, copy=False)


def fit_line(
    n: np.ndarray, y: np.ndarray, logit: np.ndarray, *, start: tuple[float, ...] = (1.0, 0.0)
) -> np.ndarray:
    """Slope and intercept (R, 2) of R logistic regressions of events on log-odds, from L bins each.

    Args:
        n: (R, L) items of the bins.
        y: (R, L) events among them.
        logit: (R, L) mean log-odds of their probabilities.
        start: slope and intercept near the solution.

    Returns:
        NaN in a row without a finite solution: events and the others do not overlap in their log-odds.
    """
    events, others = _reach(logit, y > 0), _reach(logit, n > y)
    finite = (events[0] < others[1]) & (others[0] < events[1])
    return _logistic(n, y, np.stack([logit, np.ones_like(logit)]), finite, start=start)


def fit_slope(n: np.ndarray, y: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Slope (R,) alone, with the intercept held at 0, of bins as for `fit_line`; NaN where none is finite."""
    agree, oppose = y * (logit > 0) + (n - y) * (logit < 0), y * (logit < 0) + (n - y) * (logit > 0)
    finite = (agree.sum(axis=1) > 0) & (oppose.sum(axis=1) > 0)
    return _logistic(n, y, logit[None], finite, start=(1.0,))[:, 0]


def fit_offset(n: np.ndarray, y: np.ndarray, logit: np.ndarray, *, start: float = 0.0) -> np.ndarray:
    """Intercept (R,) alone, with the slope held at 1, of bins as for `fit_line`; NaN where none is finite."""
    events, total = y.sum(axis=1), n.sum(axis=1)
    finite = (events > 0) & (events < total)
    return _logistic(n, y, np.ones((1, *logit.shape)), finite, start=(start,), offset=logit)[:, 0]


def _reach(logit: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest log-odds (R,) of the bins that are there."""
    return np.where(there, logit, np.inf).min(axis=1), np.where(there, logit, -np.inf).max(axis=1)


def _logistic(
    n: np.ndarray,
    y: np.ndarray,
    columns: np.ndarray,
    finite: np.ndarray,
    *,
    start: tuple[float, ...],
    offset: np.ndarray | None = None,
) -> np.ndarray:
    """(R, k) coefficients of the (k, R, L) columns in the rows that have finite ones, NaN in the others."""
    fits = np.full((len(n), len(columns)), np.nan)
    if finite.any():
        added = np.zeros(()) if offset is None else offset[finite]
        fits[finite] = _newton(n[finite], y[finite], columns[:, finite], start, added)
    return fits


def _newton(
    n: np.ndarray, y: np.ndarray, columns: np.ndarray, start: tuple[float, ...], offset: np.ndarray
) -> np.ndarray:
    """Newton's method, with steps halved while they lose likelihood; NaN where it does not settle."""
    fit = np.tile(np.asarray(start), (len(n), 1))

    def odds(fit: np.ndarray) -> np.ndarray:
        return offset + np.einsum("rk,krl->rl", fit, columns)

    def lost(odds: np.ndarray) -> np.ndarray:
        return (n * np.logaddexp(0.0, odds) - y * odds).sum(axis=1)

    eta = odds(fit)
    loss, settled = lost(eta), np.zeros(len(n), bool)
    for _ in range(_NEWTON_STEPS):
        q = special.expit(eta)
        gradient = np.einsum("krl,rl->rk", columns, y - n * q)
        curvature = np.einsum("krl,rl,mrl->rkm", columns, n * q * (1 - q), columns, optimize=True)
        step = (np.linalg.pinv(curvature, hermitian=True) @ gradient[..., None])[..., 0]
        scale = np.ones(len(n))
        for _ in range(_HALVINGS):
            tried = fit + scale[:, None] * step
            eta = odds(tried)
            after = lost(eta)
            worse = after > loss * (1 + _ROUNDING) + _ROUNDING
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        fit, loss = tried, after
        settled = (np.abs(step) <= _SETTLED * (1 + np.abs(fit))).all(axis=1)
        if settled.all():
            break
    return np.where(settled[:, None], fit, np.nan)
