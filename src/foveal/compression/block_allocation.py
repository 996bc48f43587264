"""How many tiles each layer keeps for its share of the operations: exact, on hulls, or by equal slopes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foveal.compression.allocation import Option, allocate
from foveal.compression.distortion import slopes


@dataclass(frozen=True)
class Choices:
    """What can be done to a layer.

    Attributes:
        kept: tiles that each choice keeps, falling.
        operations: of each choice, for an image.
        objective: of each choice; small is good.
    """

    kept: np.ndarray
    operations: np.ndarray
    objective: np.ndarray

    def at_least(self, tiles: int) -> Choices:
        """Those that keep so many tiles or more; the first always stays."""
        held = self.kept >= min(tiles, self.kept[0])
        return Choices(self.kept[held], self.operations[held], self.objective[held])


Allocation = dict[str, int]
"""Index of the choice of each layer."""


def exact_allocation(
    choices: Mapping[str, Choices], budget: float, *, least: float = 0.0, seconds: float = 5.0
) -> Allocation:
    """The choices of the least sum of objectives with operations from `least` to `budget`.

    An integer programme; where the hulls' solution is better than what it found in time, that one.

    Raises:
        ValueError: nothing fits the budget.
    """
    distinct = {name: _distinct(each) for name, each in choices.items()}
    options = {
        name: [
            Option(-float(each.objective[i]), (float(each.operations[i]), -float(each.operations[i])))
            for i in distinct[name]
        ]
        for name, each in choices.items()
    }
    try:
        found = allocate(options, (budget, -least), seconds=seconds)
    except (ValueError, RuntimeError):  # small models have no choice so near to the budget
        loose = {name: [Option(o.value, o.costs[:1]) for o in each] for name, each in options.items()}
        found = allocate(loose, (budget,), seconds=seconds)
    found = {name: distinct[name][index] for name, index in found.items()}
    hull = hull_allocation(choices, budget, least=least)
    fits = least <= total(choices, hull)[0] <= budget
    return hull if fits and total(choices, hull)[1] < total(choices, found)[1] else found


def hull_allocation(choices: Mapping[str, Choices], budget: float, *, least: float = 0.0) -> Allocation:
    """Steps down the lower convex hulls of objective over operations, the flattest of all layers first.

    Smaller budgets take the same steps and more of them; only the last one may stop between, where its layer
    has a choice that just fits.

    Raises:
        ValueError: nothing fits the budget.
    """
    now = dict.fromkeys(choices, 0)
    for name, each in choices.items():
        cheap = each.objective.argmin()  # where pruning is taken for a gain it costs nothing
        now[name] = int(cheap)
    spent = total(choices, now)[0]
    steps = []
    for name, each in choices.items():
        corners = _hull(each, now[name])
        for a, b in pairwise(corners):
            saved = each.operations[a] - each.operations[b]
            steps.append(((each.objective[b] - each.objective[a]) / saved, name, b))
    for _, name, index in sorted(steps, key=lambda step: step[0]):
        if spent <= budget:
            break
        each, before = choices[name], choices[name].operations[now[name]]
        if spent - before + each.operations[index] < budget:
            room = budget - (spent - before)
            between = np.flatnonzero((each.operations <= room) & (np.arange(len(each.kept)) > now[name]))
            inside = between[each.operations[between] >= room - (budget - least)] if least else between
            pool = inside if len(inside) else between
            index = int(pool[each.objective[pool].argmin()])
        now[name] = int(index)
        spent += each.operations[index] - before
    if spent > budget * (1 + 1e-9):
        raise ValueError(
            f"the target is too small: {spent:.4g} operations are left where all layers keep their least, "
            f"{budget:.4g} are wanted; lower least_kept or take smaller blocks"
        )
    return now


def slope_allocation(
    choices: Mapping[str, Choices],
    curves: Mapping[str, np.ndarray],
    target: float,
    *,
    tolerance: float,
    half_width: int = 4,
    rounds: int = 40,
) -> tuple[Allocation, bool]:
    """The paper's: every layer where its curve's slope is nearest to one 2^s, which a bisection looks for.

    Operations do not fall evenly with s where curves are noisy, so it may not end within the tolerance.

    Args:
        choices: a prefix of the points of the curves.
        curves: (D + 1,) of each layer.
        target: operations.
        tolerance: in operations.
        half_width: of `slopes`.
        rounds: of bisection, over s in [-100, 100].

    Returns:
        The allocation nearest to the target, and whether it is within the tolerance.
    """
    steep = {name: slopes(curve, half_width=half_width) for name, curve in curves.items()}
    low, high = -100.0, 100.0
    best: tuple[float, Allocation] | None = None
    for _ in range(rounds):
        s = (low + high) / 2
        found = {
            name: min(int(np.abs(each - 2.0**s).argmin()), len(choices[name].kept) - 1)
            for name, each in steep.items()
        }
        apart = total(choices, found)[0] - target
        if best is None or abs(apart) < best[0]:
            best = (abs(apart), found)
        if best[0] <= tolerance:
            break
        if apart > 0:  # too much is left: steeper
            low = s
        else:
            high = s
    assert best is not None
    return best[1], best[0] <= tolerance


def total(choices: Mapping[str, Choices], allocation: Allocation) -> tuple[float, float]:
    """Operations and objective of an allocation."""
    chosen = [(choices[name], index) for name, index in allocation.items()]
    return (
        float(sum(each.operations[index] for each, index in chosen)),
        float(sum(each.objective[index] for each, index in chosen)),
    )


def _distinct(of: Choices) -> list[int]:
    """The best index for each number of kept tiles."""
    best: dict[int, int] = {}
    for index, kept in enumerate(of.kept.tolist()):
        if kept not in best or of.objective[index] < of.objective[best[kept]]:
            best[kept] = index
    return list(best.values())


def _hull(of: Choices, first: int) -> list[int]:
    """Indices on the lower convex hull of objective over falling operations, from one on."""
    corners: list[int] = []
    for index in range(first, len(of.kept)):
        if corners and of.operations[index] >= of.operations[corners[-1]]:
            continue
        while len(corners) > 1 and _slope(of, corners[-2], corners[-1]) >= _slope(of, corners[-2], index):
            corners.pop()
        if len(corners) == 1 and of.objective[index] <= of.objective[corners[0]]:
            corners.pop()
        corners.append(index)
    return corners


def _slope(of: Choices, a: int, b: int) -> float:
    return float((of.objective[b] - of.objective[a]) / (of.operations[a] - of.operations[b]))
