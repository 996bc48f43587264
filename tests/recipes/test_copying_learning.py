"""Copying tasks: where symbols lie, what is asked for, and that training on them is repeatable."""

import pytest
import torch

from foveal.recipes._copying_learning import (
    CopyingModel,
    CopyingTask,
    copying_accuracy,
    symbols_right,
    width_of_equal_parameters,
)


def _drawn(task: CopyingTask, count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    return task.draw(count, torch.Generator().manual_seed(0))


def test_symbols_lie_in_order_among_noise_and_a_marker_asks_for_each() -> None:
    task = CopyingTask(64)
    tokens, wanted = _drawn(task)
    assert tokens.shape == (50, 72)
    found = tokens[:, :64][tokens[:, :64] < 8].reshape(50, 8)
    assert torch.equal(found, wanted)
    assert (tokens[:, 64:] == 9).all()
    places = (tokens[:, :64] < 8).nonzero()[:, 1].reshape(50, 8)
    assert len(places.unique(dim=0)) == 50  # other places in each sequence


def test_at_a_fixed_lag_a_symbol_lies_that_far_before_its_marker() -> None:
    task = CopyingTask(40, lag=30)
    tokens, wanted = _drawn(task)
    assert torch.equal(tokens[:, 10:18], wanted)
    assert torch.equal(tokens[:, 40 - 30 : 48 - 30], wanted)
    assert ((tokens[:, :40] < 8).sum(dim=1) == 8).all()


def test_the_same_generator_draws_the_same() -> None:
    for first, second in zip(_drawn(CopyingTask(16)), _drawn(CopyingTask(16)), strict=True):
        assert torch.equal(first, second)


def test_a_model_that_reads_what_is_asked_is_right_and_others_are_at_chance() -> None:
    task = CopyingTask(8, symbols=8, lag=8)
    tokens, wanted = _drawn(task, 400)

    class Reads(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(tokens[:, :8], 8).float()

    assert symbols_right(Reads(), tokens, wanted) == 1
    torch.manual_seed(0)
    model = CopyingModel("conv", task, dim=8, depth=1, kernel_size=3)
    assert symbols_right(model, tokens, wanted) == pytest.approx(1 / 8, abs=0.05)


def test_a_convolution_learns_a_lag_within_its_reach() -> None:
    task = CopyingTask(2, symbols=2, kinds=2, lag=2)
    right = copying_accuracy(
        "conv", task, steps=120, batch_size=16, learning_rate=1e-2, dim=16, depth=1, tested=64
    )
    assert right > 0.95


def test_training_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    task, options = CopyingTask(6, symbols=2), {"steps": 3, "dim": 8, "depth": 1, "tested": 16}
    before = torch.get_rng_state()
    assert copying_accuracy("lstm", task, **options) == copying_accuracy("lstm", task, **options)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_width_of_equal_parameters_is_found() -> None:
    task = CopyingTask(16)
    wanted = sum(weight.numel() for weight in CopyingModel("lstm", task, dim=31).parameters())
    assert width_of_equal_parameters("lstm", task, wanted) == 31


def test_tasks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at most as many as tokens"):
        CopyingTask(4)
    with pytest.raises(ValueError, match="lag=4; allowed: 8"):
        CopyingTask(64, lag=4)
