"""The report of costs: its table, fits, crossover, kept bytes and refusals."""

import json
import math

import pytest
import torch

from foveal.evaluation.sequence_costs import (
    Cost,
    SequenceReport,
    kept_bytes,
    measure_sequence_operators,
    pinned_threads,
)


def _curve(name: str, scale: float, power: float) -> list[Cost]:
    sizes = (512, 1024, 2048, 4096)
    times = {n: tuple(scale * n**power * (1 + 0.01 * k) for k in range(5)) for n in sizes}
    return [Cost(name, 8, n, 1, 1, 10, n, times[n], times[n], (), 4 * n) for n in sizes]


REPORT = SequenceReport(
    (*_curve("attention", 1e-8, 2), *_curve("mamba", 1.2e-5, 1)), {"machine": "one", "threads": "1"}
)


def test_exponents_are_those_of_the_curves() -> None:
    assert REPORT.exponents() == pytest.approx({"attention": 2, "mamba": 1})
    assert REPORT.exponents(of="kept_bytes") == pytest.approx({"attention": 1, "mamba": 1})


def test_times_below_five_milliseconds_do_not_tell_the_growth() -> None:
    assert math.isnan(SequenceReport(tuple(_curve("conv", 1e-9, 1)), {}).exponents()["conv"])


def test_crossover_lies_where_the_curves_meet() -> None:
    middle, low, high = REPORT.crossover("attention", "mamba")
    assert middle == pytest.approx(1200, rel=1e-6)
    assert low <= middle <= high
    assert math.isnan(REPORT.crossover("mamba", "attention")[0])
    with pytest.raises(ValueError, match="not measured"):
        REPORT.crossover("mamba", "s5")


def test_kept_bytes_count_a_storage_once_and_no_weights() -> None:
    x, w = torch.randn(8, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    assert kept_bytes(lambda: x @ w, but=[w]) == 8 * 4 * 4
    assert kept_bytes(lambda: x * x) == 8 * 4 * 4


def test_a_measured_report_tells_everything() -> None:
    report = measure_sequence_operators(
        ["attention", "s4d", "window_attention"], [16, 32], [64], warm_ups=1, repeats=2
    )
    assert len(report.costs) == 6
    assert report.costs[0].flops == 8 * 16 * 64**2 + 4 * 16**2 * 64
    assert report.costs[0].step
    assert not report.costs[-1].step
    assert "This machine only" in report.table()
    assert len(json.loads(report.to_json())["costs"]) == 6


def test_growth_tells_exponents_and_where_the_reference_is_overtaken() -> None:
    attention, mamba = REPORT.growth().splitlines()[2:]
    assert attention.startswith("| attention | 2.00 | 2.00 |")
    assert "| mamba | 1.00 | 1.00 |" in mamba
    assert "| 1200 (11" in mamba
    other_way = REPORT.growth(reference="mamba").splitlines()[2]
    assert other_way.endswith("| not within these | not within these |")


def test_each_number_of_threads_is_a_curve_of_its_own() -> None:
    report = measure_sequence_operators(["conv"], [8, 16], [4], threads=(1, 2), warm_ups=1, repeats=2)
    assert [(c.threads, c.tokens) for c in report.costs] == [(1, 8), (1, 16), (2, 8), (2, 16)]
    assert report.environment["torch threads"] == "1, 2"


def test_a_pass_that_takes_too_long_is_taken_once_and_ends_its_sizes() -> None:
    report = measure_sequence_operators(["conv"], [8, 16, 32], [4], most_seconds=1e-9)
    (cost,) = report.costs
    assert len(cost.forward) == len(cost.both) == 1


def test_a_fresh_process_tells_what_kernels_keep_to_themselves() -> None:
    (cost,) = measure_sequence_operators(
        ["attention"], [1024], [64], settings={"attention": {"fused": False}}, warm_ups=1, repeats=1,
        memory_repeats=1, passes=("both",),
    ).costs  # fmt: skip
    assert 1024**2 * 4 < cost.kept_bytes < cost.both_bytes[0]
    assert not cost.forward_bytes


def test_memory_is_taken_at_the_sizes_that_are_named() -> None:
    costs = measure_sequence_operators(
        ["conv"],
        [8, 16],
        [4],
        warm_ups=1,
        repeats=1,
        memory_repeats=1,
        memory_sizes=[16],
        passes=("forward",),
    ).costs
    assert [len(cost.forward_bytes) for cost in costs] == [0, 1]


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pinned_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="not known"):
        measure_sequence_operators(["hyena"], [16])
    with pytest.raises(ValueError, match="sizes"):
        measure_sequence_operators(["conv"], [0])
    with pytest.raises(ValueError, match=r"threads=\[0\]"):
        measure_sequence_operators(["conv"], [4], threads=[0])
