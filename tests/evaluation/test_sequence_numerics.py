"""Errors of 32 bits beside loops in 64 bits: they are small, and each backend has its row."""

import pytest
import torch

from foveal.blocks.sequence_operators import OPERATORS
from foveal.evaluation.sequence_numerics import deviation_table, measure_deviations, relative_error


def test_operators_and_backends_in_32_bits_are_near_the_loop_in_64_bits() -> None:
    found = measure_deviations(list(OPERATORS), [33, 64])
    rows = {(d.name, d.backend) for d in found}
    assert {name for name, _ in rows} == {*OPERATORS, "selective scan", "gated recurrence"}
    assert {("selective scan", "reference"), ("selective scan", "compiled")} <= rows
    assert all(set(d.errors) == {33, 64} for d in found)
    assert max(max(d.errors.values()) for d in found) < 1e-4
    assert "| selective scan | compiled |" in deviation_table(found)


def test_error_is_relative_to_the_largest_value() -> None:
    truth = torch.tensor([10.0, -20.0], dtype=torch.float64)
    assert relative_error(torch.tensor([10.0, -19.0]), truth) == pytest.approx(0.05)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="sizes"):
        measure_deviations(["conv"], [])
    with pytest.raises(ValueError, match="not known"):
        measure_deviations(["hyena"], [4])
