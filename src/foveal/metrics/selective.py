"""What an uncertainty is worth: the risk of what is kept when the most uncertain is left out.

Sources: Y. Geifman and R. El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017
(risk-coverage); Y. Geifman, G. Uziel and R. El-Yaniv, "Bias-reduced uncertainty estimation for deep neural
classifiers", ICLR 2019 (area under the curve and its excess over the best ordering).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse, special

from foveal.metrics.comparison import Estimate
from foveal.metrics.group_sums import (
    Band,
    GroupSums,
    as_estimate,
    chunks,
    percentile_interval,
    resampled_weights,
)

COVERAGES = tuple(percent / 100 for percent in range(1, 101))
_COARSENESS = 16  # low bits of a float32 that are dropped: levels lie 0.4 to 0.8 % apart


class Ordering(NamedTuple):
    """Items and their losses at the L levels of what orders them, best kept first, for G groups.

    Attributes:
        count: (G, L) items.
        loss: (G, L) their summed losses.
    """

    count: sparse.csr_array
    loss: sparse.csr_array


@dataclass(frozen=True)
class RiskTable:
    """Losses of items in the order of their uncertainty, and in the best order there is: that of the losses.

    Attributes:
        by_uncertainty: the order to judge.
        by_loss: the ideal one.
        binary: every loss is 0 or 1.
    """

    by_uncertainty: Ordering
    by_loss: Ordering
    binary: bool


class RiskCounts:
    """Uncertainties and losses of any number of pixels, kept as sums by level of uncertainty and by group.

    A level is the float32 of the uncertainty without its lowest bits, so that uncertainties less than 0.8 %
    apart may count as equal, at any magnitude; use `risk_table` where all items fit into memory.
    """

    def __init__(self) -> None:
        self._uncertainty, self._loss = GroupSums(2), GroupSums(2)
        self._binary = True

    def __len__(self) -> int:
        """Groups so far."""
        return len(self._loss)

    def add(
        self, uncertainty: np.ndarray, loss: np.ndarray, *, group: Hashable, region: np.ndarray | None = None
    ) -> None:
        """Add one photograph, or any other part.

        Args:
            uncertainty: (...) finite, at least 0; what is highest is left out first.
            loss: (...) bool (an error), or in [0, 1].
            group: patient (or photograph) that this is of, the unit of the bootstrap; may come again.
            region: (...) bool, where to look; everywhere by default.

        Raises:
            ValueError: shapes differ, an uncertainty is negative or not finite, a loss is outside [0, 1].
        """
        shapes = [array.shape for array in (uncertainty, loss, region) if array is not None]
        if len(set(shapes)) != 1:
            raise ValueError(f"uncertainty, loss and region must have one shape, got {shapes} of {group!r}")
        if region is not None:
            uncertainty, loss = uncertainty[region], loss[region]
        doubt, lost = uncertainty.ravel(), loss.ravel()
        for part in chunks(len(doubt)):
            u, each = doubt[part].astype(np.float32), lost[part].astype(float)
            if not (np.isfinite(u) & (u >= 0)).all():
                found = u[~(np.isfinite(u) & (u >= 0))][0]
                raise ValueError(f"uncertainty of {group!r} holds {found}; finite values from 0 are wanted")
            self._binary &= _checked_losses(each, repr(group))
            quantities = np.ones_like(each), each
            self._uncertainty.add(_level(u), quantities, group=group)
            self._loss.add(_level(each.astype(np.float32)), quantities, group=group)

    def table(self) -> RiskTable:
        """What `risk_coverage` and `risk_at` take.

        Raises:
            ValueError: nothing was added.
        """
        if not len(self):
            raise ValueError(
                "risk counts hold nothing; add at least one photograph before asking for a table"
            )
        return RiskTable(_ordering(self._uncertainty), _ordering(self._loss), self._binary)


def risk_table(
    uncertainty: np.ndarray, loss: np.ndarray, groups: Sequence[Hashable] | None = None
) -> RiskTable:
    """Items of any kind (segments, whole photographs), exact to the last bit of their uncertainty.

    Args:
        uncertainty: (n,) finite; what is highest is left out first.
        loss: (n,) bool (an error), or in [0, 1], as 1 - Dice of a photograph.
        groups: one patient an item; every item is its own by default.

    Raises:
        ValueError: no items, lengths that differ, an uncertainty not finite, or a loss outside [0, 1].
    """
    names = list(range(len(uncertainty))) if groups is None else list(groups)
    if (
        uncertainty.ndim != 1
        or loss.shape != uncertainty.shape
        or len(names) != len(uncertainty)
        or not names
    ):
        raise ValueError(
            f"uncertainty {uncertainty.shape}, loss {loss.shape} and {len(names)} groups: arrays (n,) of one "
            "length, at least 1, with one group an item are wanted"
        )
    if not np.isfinite(uncertainty).all():
        found = uncertainty[~np.isfinite(uncertainty)][0]
        raise ValueError(f"uncertainty holds {found}; finite values are wanted: leave out items without one")
    each = loss.astype(float)
    binary = _checked_losses(each, "the items")
    group_of = {name: place for place, name in enumerate(dict.fromkeys(names))}
    rows = np.array([group_of[name] for name in names])

    def ordering(key: np.ndarray) -> Ordering:
        _, level = np.unique(key, return_inverse=True)
        shape = len(group_of), int(level.max()) + 1
        return Ordering(
            *(sparse.coo_array((x, (rows, level)), shape=shape).tocsr() for x in (np.ones_like(each), each))
        )

    return RiskTable(ordering(uncertainty), ordering(each), binary)


@dataclass(frozen=True)
class RiskCoverage:
    """Risk of the items that are kept, with 95% intervals from a bootstrap of groups.

    Items of equal uncertainty come in random order: every figure is the mean over these orders.

    Attributes:
        coverage: (C,) share of items that is kept, the least uncertain ones.
        risk: (C,) their mean loss.
        ideal: (C,) the same when those of the least loss are kept.
        base_risk: mean loss of all; the risk at every coverage of an uncertainty that knows nothing.
        aurc: area under the curve: mean over k of the risk of the k least uncertain items.
        ideal_aurc: of the ideal order.
        excess_aurc: `aurc` less `ideal_aurc`, at least 0.
        auroc: P(an error is more uncertain than a correct item), ties counted half; NaN unless all losses are
            0 or 1 and both are there.
        items: how many went in.
        groups: how many were resampled.
    """

    coverage: np.ndarray
    risk: Band
    ideal: np.ndarray
    base_risk: Estimate
    aurc: Estimate
    ideal_aurc: Estimate
    excess_aurc: Estimate
    auroc: Estimate
    items: int
    groups: int


def risk_coverage(
    table: RiskTable, *, coverages: Sequence[float] = COVERAGES, resamples: int = 2000, seed: int = 0
) -> RiskCoverage:
    """Risk-coverage curve, its area beside the ideal one, and how well uncertainty finds errors.

    Args:
        table: of the items.
        coverages: where the curve is read, in (0, 1].
        resamples: bootstrap resamples of groups.
        seed: of the resampling.

    Raises:
        ValueError: a coverage is outside (0, 1], or `resamples` is below 1.
    """
    kept = _checked_coverages(coverages)
    groups, levels = table.by_uncertainty.count.shape
    every = np.ones((1, groups))
    value = _figures(every, table, kept)
    drawn = resampled_weights(groups, levels, resamples=resamples, seed=seed)
    draws = [_figures(weights, table, kept) for weights in drawn]
    bands = {
        name: percentile_interval(observed[0], np.concatenate([batch[name] for batch in draws]), groups)
        for name, observed in value.items()
    }
    risk = bands.pop("risk")
    return RiskCoverage(
        coverage=kept,
        risk=risk,
        ideal=_risks(*_cumulated(every, table.by_loss), kept)[0],
        **{name: as_estimate(band) for name, band in bands.items()},
        items=int(table.by_uncertainty.count.sum()),
        groups=groups,
    )


def risk_at(table: RiskTable, coverage: float, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean loss of the least uncertain share of the items, with its 95% interval.

    Args:
        table: of the items.
        coverage: the share, in (0, 1].
        resamples: bootstrap resamples of groups.
        seed: of the resampling.

    Raises:
        ValueError: `coverage` is outside (0, 1], or `resamples` is below 1.
    """
    kept = _checked_coverages([coverage])
    groups, levels = table.by_uncertainty.count.shape

    def risks(weights: np.ndarray) -> np.ndarray:
        return _risks(*_cumulated(weights, table.by_uncertainty), kept)[:, 0]

    drawn = resampled_weights(groups, levels, resamples=resamples, seed=seed)
    draws = np.concatenate([risks(weights) for weights in drawn])
    return as_estimate(percentile_interval(risks(np.ones((1, groups)))[0], draws, groups))


def _level(values: np.ndarray) -> np.ndarray:
    """The leading bits of float32 values from 0, which order them as the values are."""
    return (values + np.float32(0)).view(np.int32) >> _COARSENESS  # -0.0 + 0 is 0


def _checked_losses(loss: np.ndarray, where: str) -> bool:
    """Whether all are 0 or 1."""
    inside = (loss >= 0) & (loss <= 1)
    if not inside.all():
        raise ValueError(f"loss of {where} holds {loss[~inside][0]}; bool, or values in [0, 1], are wanted")
    return bool(((loss == 0) | (loss == 1)).all())


def _checked_coverages(coverages: Sequence[float]) -> np.ndarray:
    kept = np.asarray(coverages, dtype=float)
    if not len(kept) or not ((kept > 0) & (kept <= 1)).all():
        raise ValueError(f"coverages are {list(coverages)[:8]}; at least one, each in (0, 1], is wanted")
    return kept


def _ordering(sums: GroupSums) -> Ordering:
    _, (count, loss) = sums.tables()
    return Ordering(count, loss)


def _figures(weights: np.ndarray, table: RiskTable, coverages: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure (R,), the risk (R, C), for R rows of weights of the groups."""
    items, losses = _cumulated(weights, table.by_uncertainty)
    aurc, ideal = _area(items, losses), _area(*_cumulated(weights, table.by_loss))
    return {
        "risk": _risks(items, losses, coverages),
        "base_risk": losses[:, -1] / items[:, -1],
        "aurc": aurc,
        "ideal_aurc": ideal,
        "excess_aurc": np.maximum(aurc - ideal, 0),
        "auroc": _auroc(items, losses) if table.binary else np.full(len(weights), np.nan),
    }


def _cumulated(weights: np.ndarray, ordering: Ordering) -> tuple[np.ndarray, np.ndarray]:
    """Items and losses (R, 1 + L) up to and with each level, from 0 on."""
    return tuple(np.pad(np.cumsum(weights @ part, axis=1), ((0, 0), (1, 0))) for part in ordering)  # type: ignore[return-value]


def _area(items: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Mean over k of the risk of the first k items, (R,), equal levels in random order.

    Within a level the expected loss of the first k rises evenly, E(k) = E + s (k - N), so that the sum of
    E(k) / k over its n items is s n + (E - s N) (H(N + n) - H(N)) with harmonic numbers H.
    """
    n, e = np.diff(items), np.diff(losses)
    slope = np.divide(e, n, out=np.zeros_like(e), where=n > 0)
    before = losses[:, :-1] - slope * items[:, :-1]
    harmonic = special.digamma(items + 1)
    return (e + before * np.diff(harmonic)).sum(axis=1) / items[:, -1]


def _risks(items: np.ndarray, losses: np.ndarray, coverages: np.ndarray) -> np.ndarray:
    """Mean loss (R, C) of the first share of the items, linear within a level."""
    kept = coverages * items[:, -1:]
    reached = [np.interp(*row) for row in zip(kept, items, losses, strict=True)]
    return np.stack(reached) / kept


def _auroc(items: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """P(error above correct) + P(equal) / 2, (R,); NaN where one of them is missing."""
    errors, right = np.diff(losses), items - losses
    wins = (errors * (right[:, 1:] + right[:, :-1]) / 2).sum(axis=1)
    pairs = losses[:, -1] * right[:, -1]
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)
