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


def fit_line(n: np.ndarray, y: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """(R, 2) slope and intercept of logistic regressions on (R, L) bins; NaN where none is finite."""
    low, high = _reach(logit, y > 0), _reach(logit, n > y)
    overlap = (low[0] < high[1]) & (high[0] < low[1])
    fit = _logistic(n, y, np.stack([logit, np.ones_like(logit)]), start=(1.0, 0.0))
    return np.where(overlap[:, None], fit, np.nan)


def fit_slope(n: np.ndarray, y: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """(R,) slope alone, with the intercept held at 0."""
    agree, oppose = y * (logit > 0) + (n - y) * (logit < 0), y * (logit < 0) + (n - y) * (logit > 0)
    finite = (agree.sum(axis=1) > 0) & (oppose.sum(axis=1) > 0)
    return np.where(finite, _logistic(n, y, logit[None], start=(1.0,))[:, 0], np.nan)


def fit_offset(n: np.ndarray, y: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """(R,) intercept alone, with the slope held at 1."""
    events, total = y.sum(axis=1), n.sum(axis=1)
    fit = _logistic(n, y, np.ones((1, *logit.shape)), start=(0.0,), offset=logit)[:, 0]
    return np.where((events > 0) & (events < total), fit, np.nan)


def _reach(logit: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest log-odds (R,) of the bins that are there."""
    return np.where(there, logit, np.inf).min(axis=1), np.where(there, logit, -np.inf).max(axis=1)


def _logistic(
    n: np.ndarray,
    y: np.ndarray,
    columns: np.ndarray,
    *,
    start: tuple[float, ...],
    offset: np.ndarray | float = 0.0,
) -> np.ndarray:
    """(R, k) coefficients of the (k, R, L) columns, by Newton's method with halved steps; NaN if it fails."""
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
            worse = lost(eta) > loss * (1 + _ROUNDING) + _ROUNDING
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        fit, loss = tried, lost(eta)
        settled = (np.abs(step) <= _SETTLED * (1 + np.abs(fit))).all(axis=1)
        if settled.all():
            break
    return np.where(settled[:, None], fit, np.nan)
