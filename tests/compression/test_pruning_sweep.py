"""The sweep: a row for each way, paired differences with intervals, and what is written."""

import csv
import io

import numpy as np
import pytest
import torch
from torch import nn

from foveal.compression.pruning_sweep import (
    SweepRow,
    paired_difference,
    pruning_sweep,
    sweep_csv,
    sweep_picture,
    sweep_table,
)


def row(training: str, amount: float, seed: int, score: float) -> SweepRow:
    return SweepRow(training, "magnitude", amount, seed, score, 10, {"w": amount}, {"a": 1.0}, "0")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


class Few:
    def __len__(self) -> int:
        return 10

    def sample(self, index: int, _generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"images": torch.full((3, 2, 2), index / 10), "labels": torch.tensor(index % 3)}


def test_a_sweep_prunes_copies_in_every_way_and_repeats() -> None:
    images = torch.rand(4, 3, 2, 2)

    def sweep() -> list[SweepRow]:
        return pruning_sweep(
            {"plain": network}, lambda model: float(model(images).sum()), images, amounts=(0.0, 0.5, 1.0),
            seeds=(0, 1), criteria=("magnitude", "random", "gradient"), samples=Few(),
        )  # fmt: skip

    rows = sweep()
    assert len(rows) == 18
    assert rows == sweep()
    whole = network(0)
    assert rows[0].score == pytest.approx(float(whole(images).sum()))
    assert rows[0].nonzero == 12 * 8 + 8 + 8 * 3 + 3
    assert rows[2].nonzero == 8 + 3
    half = [each for each in rows if each.amount == 0.5]
    assert all(each.nonzero == 11 + 60 for each in half)
    assert set(half[0].sparsity) == {"1.weight", "3.weight"}


def test_differences_are_paired_and_averaged_over_amounts() -> None:
    rows = [row("a", amount, seed, 0.5 + 0.01 * seed + amount) for amount in (0, 0.3, 0.5) for seed in (0, 1)]
    rows += [row("b", amount, seed, 0.4 + amount) for amount in (0, 0.3, 0.5) for seed in (0, 1)]
    found = paired_difference(rows, "a", "b")
    assert found.difference.value == pytest.approx(0.105)
    assert found.difference.low == pytest.approx(0.10)
    assert found.difference.high == pytest.approx(0.11)
    assert set(found.by_amount) == {0.3, 0.5}
    assert found.by_seed == pytest.approx({0: 0.1, 1: 0.11})
    alone = paired_difference([each for each in rows if each.seed == 0], "a", "b", amounts=(0.0,))
    assert np.isnan(alone.difference.low)
    with pytest.raises(ValueError, match="no pairs of a by magnitude and c by magnitude"):
        paired_difference(rows, "a", "c")
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference(rows[:-1], "a", "b")


def test_table_csv_and_picture_hold_the_rows() -> None:
    rows = [row(name, amount, seed, 0.9 - amount) for name in "ab" for amount in (0, 0.5) for seed in (0, 1)]
    lines = list(csv.DictReader(io.StringIO(sweep_csv(rows))))
    assert len(lines) == 8
    assert lines[2]["sparsity w"] == "0.5"
    assert lines[0]["entropy a"] == "1"
    assert "| a | magnitude | 0.900 | 0.400 | 1.000 |" in sweep_table(rows)
    assert sweep_picture(rows).startswith(b"\x89PNG")


def test_a_sweep_of_nothing_and_gradients_without_samples_are_refused() -> None:
    images = torch.rand(1, 3, 2, 2)
    with pytest.raises(ValueError, match="a sweep needs one"):
        pruning_sweep({}, lambda _: 0.0, images)
    with pytest.raises(ValueError, match="needs samples"):
        pruning_sweep({"a": network}, lambda _: 0.0, images, criteria=("gradient",))
