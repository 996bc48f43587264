"""Sums over many pixels by level and by group, grown array after array, and the bootstrap over their groups.

What a metric of tens of millions of pixels needs of them is kept: how many there are at each level of a
score, and what some quantities sum to there, apart for every patient. Resampling the patients then only adds
these sums with other weights, which is the exact bootstrap over patients at the price of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from foveal.metrics.comparison import Estimate

_CHUNK = 1 << 20  # pixels that are in memory as float64 at once
_BATCH = 4_000_000  # resampled sums that are in memory at once
_BISECTIONS = 24


class Band(NamedTuple):
    """Values with their 95% intervals, three arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class GroupSums:
    """Sums of Q quantities at the levels of a score, apart for every group (patient or photograph).

    Memory grows with groups times levels in use, not with pixels.
    """

    def __init__(self, quantities: int) -> None:
        self._quantities = quantities
        self._groups: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, level: np.ndarray, quantities: Sequence[np.ndarray], *, group: Hashable) -> None:
        """Add items to a group; what the group has already stays.

        Args:
            level: (n,) integers from 0.
            quantities: Q arrays (n,).
            group: whose items these are.
        """
        if not len(level):
            return
        size = int(level.max()) + 1
        sums = np.stack([np.bincount(level, weights=values, minlength=size) for values in quantities])
        used = np.flatnonzero(np.bincount(level, minlength=size))
        sums = sums[:, used]
        if group in self._groups:
            earlier, held = self._groups[group]
            used, place = np.unique(np.concatenate([earlier, used]), return_inverse=True)
            sums = np.stack([np.bincount(place, row) for row in np.concatenate([held, sums], axis=1)])
        self._groups[group] = used, sums

    def tables(self) -> tuple[np.ndarray, list[sparse.csr_array]]:
        """The levels in use, ascending (L,), and for every quantity its (G, L) sums."""
        levels = np.unique(np.concatenate([used for used, _ in self._groups.values()]))
        columns = [np.searchsorted(levels, used) for used, _ in self._groups.values()]
        starts = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
        sums = np.concatenate([held for _, held in self._groups.values()], axis=1)
        shape = len(self._groups), len(levels)
        return levels, [sparse.csr_array((row, np.concatenate(columns), starts), shape=shape) for row in sums]


def chunks(size: int) -> Iterator[slice]:
    """Slices that cover `size` items, each small enough to hold in float64."""
    for first in range(0, size, _CHUNK):
        yield slice(first, first + _CHUNK)


def resampled_weights(groups: int, levels: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group was drawn in a bootstrap resample: (r, G) batches, `resamples` rows in all.

    Args:
        groups: G, drawn with replacement G times a resample.
        levels: numbers that the caller holds for every resample; sets the batches' size.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: `resamples` is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is wanted")
    random, batch = np.random.default_rng(seed), max(1, _BATCH // max(levels, groups))
    for first in range(0, resamples, batch):
        rows = min(batch, resamples - first)
        yield random.multinomial(groups, np.full(groups, 1 / groups), size=rows).astype(float)


def percentile_interval(value: np.ndarray, draws: np.ndarray, groups: int) -> Band:
    """95% percentile interval of `value` (...) from resamples (R, ...).

    Resamples in which the value does not exist are left out. NaN where it exists in fewer than half of them,
    and everywhere when there is one group only, as nothing is then known about others.
    """
    low, high = _percentiles(draws)
    unknown = (np.isfinite(draws).mean(axis=0) < 0.5) | (groups < 2) | ~np.isfinite(value)
    return Band(value, np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))


def size_interval(
    size: Callable[[np.ndarray], np.ndarray], parts: np.ndarray, draws: np.ndarray, groups: int
) -> Band:
    """95% interval of the size of a vector of differences, which noise can only raise.

    Percentiles of the resampled sizes never reach 0: noise adds to the size once, and resampling once more.
    Instead the true differences are taken to be t times the observed ones, and every t is kept under which
    what was observed is neither in the lowest nor in the highest 2.5% of the sizes of t times the differences
    plus resampled noise. The lower end is 0 exactly where noise alone explains the size.

    Args:
        size: from (..., K) differences to (...), rising with their scale.
        parts: (K,) observed differences; NaN where there is none.
        draws: (R, K) the same of the resamples.
        groups: how many were resampled.

    Returns:
        A band of one value, which its ends are held around; NaN ends where there is one group only.
    """
    there = np.isfinite(parts)
    observed = parts[there]
    noise = np.nan_to_num(draws[:, there] - observed)
    value = size(observed)
    if groups < 2:
        return Band(value, np.full_like(value, np.nan), np.full_like(value, np.nan))

    def reached(scale: float) -> np.ndarray:
        return np.percentile(size(scale * observed + noise), [2.5, 97.5])

    low = _last(lambda scale: reached(scale)[1] < value)
    high = _last(lambda scale: reached(scale)[0] <= value) if value > 0 else 0.0
    return Band(value, np.minimum(size(low * observed), value), np.maximum(size(high * observed), value))


def _last(holds: Callable[[float], bool]) -> float:
    """The largest number from 0 to 8 up to which something holds, 0 if it never does."""
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high) and high < 8:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def as_estimate(band: Band) -> Estimate:
    """A band of one value as an estimate."""
    return Estimate(float(band.value), float(band.low), float(band.high))


def _percentiles(draws: np.ndarray) -> np.ndarray:
    gaps = ~np.isfinite(draws)
    if not gaps.any():
        return np.percentile(draws, [2.5, 97.5], axis=0)
    known = np.where(gaps, np.nan, draws)
    empty = gaps.all(axis=0)
    return np.nanpercentile(np.where(empty, 0.0, known), [2.5, 97.5], axis=0)
