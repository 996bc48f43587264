"""Retention over a grid: against its mask, inclusion and exclusion, and shifts."""

import pytest
import torch
from torch import Tensor

from foveal.kernels.grid_recurrence import corner_recurrence, grid_recurrence

GRID = (5, 7)


def parts(grid: tuple[int, int] = GRID, heads: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, grid[0] * grid[1], heads, 3, generator=draw, dtype=torch.float64)
    v = torch.randn(2, grid[0] * grid[1], heads, 4, generator=draw, dtype=torch.float64)
    return q, k, v, torch.tensor([0.9, 0.6], dtype=torch.float64).log()


def by_mask(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, grid: tuple[int, int] = GRID) -> Tensor:
    x, y = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    down = x.reshape(-1, 1) - x.reshape(1, -1)
    right = y.reshape(-1, 1) - y.reshape(1, -1)
    seen = (down >= 0) & (right >= 0)
    mask = torch.where(seen, torch.exp((down + right).clamp(min=0) * log_decay[:, None, None]), 0.0)
    return torch.einsum("bnhk,bmhk,hnm,bmhv->bnhv", q, k, mask, v)


@pytest.mark.parametrize("rows", [None, 1, 2, 5, 9])
def test_any_number_of_rows_at_once_is_the_explicit_mask(rows: int | None) -> None:
    tensors = parts()
    out, _ = grid_recurrence(*tensors, grid=GRID, rows=rows)
    torch.testing.assert_close(out, by_mask(*tensors), rtol=1e-10, atol=1e-10)


def test_it_is_the_recursion_by_inclusion_and_exclusion() -> None:
    q, k, v, log_decay = parts()
    g = log_decay.exp()[:, None, None]
    states: dict[tuple[int, int], Tensor] = {}
    nothing = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    out, last = grid_recurrence(q, k, v, log_decay, grid=GRID, rows=1)
    for x in range(GRID[0]):
        for y in range(GRID[1]):
            n = x * GRID[1] + y
            up, left = states.get((x - 1, y), nothing), states.get((x, y - 1), nothing)
            corner = states.get((x - 1, y - 1), nothing)
            states[x, y] = g * up + g * left - g**2 * corner + k[:, n, :, :, None] * v[:, n, :, None]
            wanted = torch.einsum("bhk,bhkv->bhv", q[:, n], states[x, y])
            torch.testing.assert_close(out[:, n], wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last[:, :, -1], states[4, 6], rtol=1e-10, atol=1e-10)


def test_gradients_are_equal_for_any_number_of_rows() -> None:
    grads = []
    for rows in (None, 2):
        leaves = [x.clone().requires_grad_() for x in parts()]
        out, state = grid_recurrence(*leaves, grid=GRID, rows=rows)
        (out.sin().sum() + state.cos().sum()).backward()
        grads.append([leaf.grad for leaf in leaves])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_moving_the_picture_by_one_cell_moves_the_output() -> None:
    q, k, v, log_decay = parts()

    def moved(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x.unflatten(1, GRID), (0, 0, 0, 0, 1, 0, 1, 0)).flatten(1, 2)

    still, _ = grid_recurrence(q, k, v, log_decay, grid=GRID)
    shifted, _ = grid_recurrence(moved(q), moved(k), moved(v), log_decay, grid=(6, 8))
    torch.testing.assert_close(shifted.unflatten(1, (6, 8))[:, 1:, 1:], still.unflatten(1, GRID))


def test_bands_of_rows_with_the_state_carried_are_one_pass() -> None:
    q, k, v, log_decay = parts()
    whole, last = grid_recurrence(q, k, v, log_decay, grid=GRID)
    first, state = grid_recurrence(q[:, :14], k[:, :14], v[:, :14], log_decay, grid=(2, 7))
    rest, state = grid_recurrence(
        q[:, 14:], k[:, 14:], v[:, 14:], log_decay, grid=(3, 7), initial_state=state
    )
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)
    torch.testing.assert_close(state, last)


def test_the_mean_of_four_corners_turns_with_the_picture() -> None:
    q, k, v, log_decay = parts()

    def flip(x: Tensor) -> Tensor:
        return x.unflatten(1, GRID).flip(2).flatten(1, 2)

    out, corners = corner_recurrence(q, k, v, log_decay, grid=GRID)
    turned, _ = corner_recurrence(flip(q), flip(k), flip(v), log_decay, grid=GRID)
    torch.testing.assert_close(flip(turned), out)
    assert corners.shape == (4, 2, 2, 3, 4)


def test_what_does_not_fit_is_refused() -> None:
    q, k, v, log_decay = parts()
    with pytest.raises(ValueError, match="does not fill a grid of 5 x 6"):
        grid_recurrence(q, k, v, log_decay, grid=(5, 6))
    with pytest.raises(ValueError, match="rows=0"):
        grid_recurrence(q, k, v, log_decay, grid=GRID, rows=0)
    with pytest.raises(ValueError, match="initial_state has shape"):
        grid_recurrence(q, k, v, log_decay, grid=GRID, initial_state=torch.zeros(1, 2, 7, 3, 4))
    with pytest.raises(ValueError, match="must be <= 0"):
        grid_recurrence(q, k, v, -log_decay, grid=GRID)
