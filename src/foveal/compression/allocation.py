"""One choice for each layer under a budget, solved exactly: bits, sparsity, or tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp


@dataclass(frozen=True)
class Option:
    """One way to treat a layer.

    Attributes:
        value: what is gained by it; sums over layers are made large.
        costs: what it takes of each budget.
    """

    value: float
    costs: tuple[float, ...]


def allocate(
    options: Mapping[str, Sequence[Option]], budgets: Sequence[float], *, seconds: float = 30.0
) -> dict[str, int]:
    """The choices of the greatest value whose costs stay within all budgets (an integer programme).

    Args:
        options: of each layer, by its name.
        budgets: the most that may be spent, one for each of `Option.costs`.
        seconds: after which the best that is known is taken.

    Returns:
        Index of the chosen option of each layer. Of equal values any may be chosen.

    Raises:
        ValueError: a layer without options, costs that are not those of the budgets, numbers that are not
            finite, or budgets that nothing fits; tells the least that is needed.
        RuntimeError: no choice was found in time.
    """
    flat = [(name, index, option) for name, each in options.items() for index, option in enumerate(each)]
    if empty := [name for name, each in options.items() if not each]:
        raise ValueError(f"no options for {', '.join(empty)}; each layer needs one or more")
    if not flat:
        return {}
    limits = np.asarray(budgets, dtype=float)
    if any(len(option.costs) != len(limits) for _, _, option in flat):
        raise ValueError(f"every option needs {len(limits)} costs, one for each budget")
    values = np.array([option.value for _, _, option in flat])
    costs = np.array([option.costs for _, _, option in flat]).T
    if not (np.isfinite(values).all() and np.isfinite(costs).all() and np.isfinite(limits).all()):
        raise ValueError("values, costs and budgets must be finite")
    number_of = {name: number for number, name in enumerate(options)}
    owner = np.array([number_of[name] for name, _, _ in flat])
    least = np.zeros((len(limits), len(options)))
    for number in range(len(options)):
        least[:, number] = costs[:, owner == number].min(axis=1)
    if (least.sum(axis=1) > limits * (1 + 1e-9)).any():
        told = ", ".join(
            f"{needed:.6g} for {limit:.6g}" for needed, limit in zip(least.sum(axis=1), limits, strict=True)
        )
        raise ValueError(f"the budget is too small: at least {told} is needed")
    one_each = sparse.csr_matrix((np.ones(len(flat)), (owner, np.arange(len(flat)))))
    scale = np.maximum(np.abs(costs).max(axis=1), 1e-300)
    found = milp(
        -values / max(np.abs(values).max(), 1e-300),
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(costs / scale[:, None], -np.inf, limits / scale),
        ],
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise RuntimeError(f"no choice within the budget was found in {seconds} s: {found.message}")
    return {flat[at][0]: flat[at][1] for at in np.flatnonzero(found.x > 0.5)}
