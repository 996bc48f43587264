"""Declarations and plots of sequence operators."""

import pytest

from foveal.blocks.sequence_operators import OPERATORS
from foveal.evaluation.sequence_costs import measure_sequence_operators
from foveal.evaluation.sequence_pages import cost_figure, declaration_table


def test_declarations_have_a_row_for_every_operator() -> None:
    rows = declaration_table(list(OPERATORS)).splitlines()[2:]
    assert len(rows) == len(OPERATORS)
    assert rows[0].startswith("| attention | yes | no | yes | float32, float64 | torch | 8 L D^2 + 4 L^2 D |")


def test_a_plot_is_the_same_for_the_same_costs_and_names_all_operators() -> None:
    report = measure_sequence_operators(["conv", "lstm"], [8, 16], [4], warm_ups=1, repeats=1)
    assert cost_figure(report) == cost_figure(report)
    assert cost_figure(report, measures=["kept_bytes"]).startswith(b"<?xml")
    with pytest.raises(ValueError, match="no measures"):
        cost_figure(report, measures=[])
