"""Choices under budgets: exact, and told why where there is none."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.compression.allocation import Option, allocate


def drawn(seed: int, layers: int, choices: int) -> dict[str, list[Option]]:
    draws = np.random.default_rng(seed)
    return {
        f"layer {number}": [
            Option(float(draws.normal()), tuple(draws.uniform(0.1, 3, 2))) for _ in range(choices)
        ]
        for number in range(layers)
    }


@given(st.integers(0, 10_000), st.floats(1.0, 3.0))
def test_the_choice_is_that_of_trying_all(seed: int, room: float) -> None:
    options = drawn(seed, 4, 3)
    least = [sum(min(o.costs[b] for o in each) for each in options.values()) for b in range(2)]
    budgets = [2.5 * room * value for value in least]
    best = -math.inf
    for choice in itertools.product(range(3), repeat=4):
        picked = [options[name][at] for name, at in zip(options, choice, strict=True)]
        if all(sum(o.costs[b] for o in picked) <= budgets[b] for b in range(2)):
            best = max(best, sum(o.value for o in picked))
    if best == -math.inf:
        return
    found = allocate(options, budgets)
    picked = [options[name][at] for name, at in found.items()]
    assert list(found) == list(options)
    assert sum(o.value for o in picked) == pytest.approx(best, abs=1e-6)
    assert all(sum(o.costs[b] for o in picked) <= budgets[b] * (1 + 1e-6) for b in range(2))


def test_more_to_spend_is_never_worth_less() -> None:
    options = drawn(3, 12, 7)
    values = []
    for budget in np.linspace(14, 30, 9):
        found = allocate(options, [budget, budget])
        values.append(sum(options[name][at].value for name, at in found.items()))
    assert values == sorted(values)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="at least 3 for 2 is needed"):
        allocate({"a": [Option(1, (1.0,))], "b": [Option(1, (2.0,)), Option(0, (4.0,))]}, [2])
    with pytest.raises(ValueError, match="no options for b"):
        allocate({"a": [Option(1, (1.0,))], "b": []}, [2])
    with pytest.raises(ValueError, match="needs 2 costs"):
        allocate({"a": [Option(1, (1.0,))]}, [2, 2])
    with pytest.raises(ValueError, match="finite"):
        allocate({"a": [Option(math.nan, (1.0,))]}, [2])
    assert allocate({}, [1]) == {}
