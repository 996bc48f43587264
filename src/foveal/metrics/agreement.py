"""Agreement of repeated measurements: intraclass correlations with their intervals.

Sources: P. E. Shrout and J. L. Fleiss, "Intraclass correlations: uses in assessing rater reliability",
Psychol. Bull. 86, 1979; K. O. McGraw and S. P. Wong, "Forming inferences about some intraclass correlation
coefficients", Psychol. Methods 1, 1996.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from foveal.metrics.comparison import Estimate

_TAIL = 0.975


class _MeanSquares(NamedTuple):
    """Of a two-way layout without replication: between subjects, between raters, and what is left."""

    subjects: float
    raters: float
    error: float


def icc_agreement(ratings: np.ndarray) -> Estimate:
    """ICC(2,1): how far single measurements of a subject agree, in value, whoever measured.

    Variance between subjects over the total variance, with subjects and raters drawn at random:
    (MSS - MSE) / (MSS + (k - 1) MSE + k (MSR - MSE) / n). A rater who always finds more lowers it.

    Args:
        ratings: (n, k) finite values of n subjects (rows) by k raters, both at least 2.

    Returns:
        The coefficient, at most 1, and its 95% interval, drawn out to the coefficient where the approximation
        of degrees of freedom leaves it outside (very few subjects and raters); NaN where nothing varies.

    Raises:
        ValueError: `ratings` has fewer than two rows or columns, or a value that is not finite.
    """
    n, k = _checked(ratings).shape
    square = _mean_squares(ratings)
    denominator = square.subjects + (k - 1) * square.error + k * (square.raters - square.error) / n
    if not denominator > 0:
        return _UNKNOWN
    value = (square.subjects - square.error) / denominator
    if not (square.error > 0 or square.raters > 0):
        return Estimate(value, value, value)
    # Satterthwaite's degrees of freedom of the denominator, written without 1 - ICC below a bar.
    raters, error = k * value * square.raters, (n * (1 - value) + k * value * (n - 1)) * square.error
    freedom = (raters + error) ** 2 / (raters**2 / (k - 1) + error**2 / ((n - 1) * (k - 1)))
    rest = k * square.raters + (k * n - k - n) * square.error
    below, above = stats.f.ppf(_TAIL, n - 1, freedom), stats.f.ppf(_TAIL, freedom, n - 1)
    low = (
        n * (square.subjects / below - square.error) / (rest + n * square.subjects / below)
    )  # inf below is fine
    high = n * (above * square.subjects - square.error) / (rest + n * above * square.subjects)
    return Estimate(value, min(float(low), value), max(float(high), value))


def icc_consistency(ratings: np.ndarray) -> Estimate:
    """ICC(3,1): how far single measurements put subjects in the same relation, constant offsets aside.

    (MSS - MSE) / (MSS + (k - 1) MSE), with the raters fixed.

    Args:
        ratings: (n, k) finite values of n subjects (rows) by k raters, both at least 2.

    Returns:
        The coefficient, at most 1, and its 95% interval; NaN where nothing varies.

    Raises:
        ValueError: `ratings` has fewer than two rows or columns, or a value that is not finite.
    """
    n, k = _checked(ratings).shape
    square = _mean_squares(ratings)
    denominator = square.subjects + (k - 1) * square.error
    if not denominator > 0:
        return _UNKNOWN
    value = (square.subjects - square.error) / denominator
    if not square.error > 0:
        return Estimate(value, value, value)
    ratio, freedom = square.subjects / square.error, (n - 1, (n - 1) * (k - 1))
    low, high = ratio / stats.f.ppf(_TAIL, *freedom), ratio * stats.f.ppf(_TAIL, *freedom[::-1])
    return Estimate(value, float((low - 1) / (low + k - 1)), float((high - 1) / (high + k - 1)))


_UNKNOWN = Estimate(*[float("nan")] * 3)


def _checked(ratings: np.ndarray) -> np.ndarray:
    if ratings.ndim != 2 or min(ratings.shape) < 2:
        raise ValueError(f"ratings must be (n, k) with n and k of at least 2, got shape {ratings.shape}")
    if not np.isfinite(ratings).all():
        raise ValueError("ratings must be finite; leave out subjects that a rater could not measure")
    return ratings


def _mean_squares(ratings: np.ndarray) -> _MeanSquares:
    n, k = ratings.shape
    offsets = ratings - ratings.mean()
    subjects, raters = offsets.mean(axis=1, keepdims=True), offsets.mean(axis=0, keepdims=True)
    rest = offsets - subjects - raters
    return _MeanSquares(
        subjects=float(k * (subjects**2).sum() / (n - 1)),
        raters=float(n * (raters**2).sum() / (k - 1)),
        error=float((rest**2).sum() / ((n - 1) * (k - 1))),
    )
