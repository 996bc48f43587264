import itertools
import logging

import pytest
import torch
from torch import Tensor

from foveal.blocks import neighbourhood_attention as module
from foveal.blocks.neighbourhood_attention import NeighbourhoodAttention2d, neighbourhood_attention_2d
from foveal.blocks.neighbourhood_tiles import fit_neighbourhood, neighbours


def window(length: int, position: int, kernel: int, dilation: int) -> list[tuple[int, int]]:
    """Keys and entries of the bias, as the definition says them for one position."""
    group, rank = position % dilation, position // dilation
    size = len(range(group, length, dilation))
    start = min(max(rank - kernel // 2, 0), size - kernel)
    return [(group + dilation * (start + t), start + t - rank + kernel - 1) for t in range(kernel)]


def by_loops(q: Tensor, k: Tensor, v: Tensor, kernel: int, dilation: int, bias: Tensor) -> Tensor:
    out = torch.zeros_like(q)
    height, width, dim = q.shape[2:]
    for i, j in itertools.product(range(height), range(width)):
        seen = list(
            itertools.product(window(height, i, kernel, dilation), window(width, j, kernel, dilation))
        )
        assert len({(down, across) for (down, _), (across, _) in seen}) == kernel**2
        keys, values = (torch.stack([x[:, :, a, b] for (a, _), (b, _) in seen], 2) for x in (k, v))
        added = torch.stack([bias[:, a, b] for (_, a), (_, b) in seen], 1)
        scores = (q[:, :, i, j, None] * keys).sum(-1) * dim**-0.5 + added
        out[:, :, i, j] = (scores.softmax(-1)[..., None] * values).sum(2)
    return out


def some(height: int, width: int, kernel: int, heads: int = 2, dim: int = 4) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    q, k, v = torch.randn(3, 1, heads, height, width, dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, generator=generator, dtype=torch.float64)
    return q, k, v, bias


GRIDS = [(7, 7), (8, 8), (14, 14), (15, 15), (8, 15), (14, 7)]
CASES = [
    (grid, kernel, dilation)
    for grid, kernel, dilation in itertools.product(GRIDS, (3, 5, 7), (1, 2, 3))
    if min(grid) >= kernel * dilation
]


@pytest.mark.parametrize(("grid", "kernel", "dilation"), CASES)
def test_attention_is_that_of_a_loop_over_the_definition(
    grid: tuple[int, int], kernel: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, bias = some(*grid, kernel)
    wanted = by_loops(q, k, v, kernel, dilation, bias)
    for dense, memory in ((0, 1), (0, 2**26), (10**6, 2**26)):
        monkeypatch.setattr(module, "DENSE_UP_TO", dense)
        monkeypatch.setattr(module, "MEMORY", memory)
        torch.testing.assert_close(
            neighbourhood_attention_2d(q, k, v, kernel, dilation, bias), wanted, atol=1e-12, rtol=0
        )


def test_each_axis_may_have_its_own_kernel_and_dilation() -> None:
    q, k, v, _ = some(9, 14, 3)
    square = neighbourhood_attention_2d(
        q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3), (5, 3), (2, 3)
    )
    torch.testing.assert_close(
        neighbourhood_attention_2d(q, k, v, (3, 5), (3, 2)), square.transpose(2, 3), atol=1e-12, rtol=0
    )


@pytest.mark.slow
def test_flex_attention_gives_the_same_numbers() -> None:
    q, k, v, bias = (x.float() for x in some(8, 14, 3))
    tiles = neighbourhood_attention_2d(q, k, v, 3, 2, bias)
    flex = neighbourhood_attention_2d(q, k, v, 3, 2, bias, backend="flex")
    torch.testing.assert_close(flex, tiles, atol=1e-5, rtol=0)


def test_natten_gives_the_same_numbers() -> None:
    pytest.importorskip("natten")
    q, k, v, _ = (x.float() for x in some(8, 14, 3))
    tiles = neighbourhood_attention_2d(q, k, v, 3, 2)
    natten = neighbourhood_attention_2d(q, k, v, 3, 2, backend="natten")
    torch.testing.assert_close(natten, tiles, atol=1e-5, rtol=0)


def test_a_kernel_as_wide_as_the_grid_is_full_attention_with_relative_bias() -> None:
    q, k, v, bias = some(7, 7, 7)
    place = torch.arange(7)
    apart = place[None] - place[:, None] + 6
    table = bias[:, apart[:, None, :, None], apart[None, :, None, :]].reshape(2, 49, 49)
    q1, k1, v1 = (x.flatten(2, 3) for x in (q, k, v))
    full = torch.nn.functional.scaled_dot_product_attention(q1, k1, v1, attn_mask=table[None])
    torch.testing.assert_close(
        neighbourhood_attention_2d(q, k, v, 7, 1, bias).flatten(2, 3), full, atol=1e-12, rtol=0
    )


def test_attention_moves_with_the_image_away_from_the_borders() -> None:
    q, k, v, bias = some(20, 20, 5)
    moved = neighbourhood_attention_2d(*(x.roll((1, 2), (2, 3)) for x in (q, k, v)), 5, 2, bias)
    still = neighbourhood_attention_2d(q, k, v, 5, 2, bias)
    inside = (slice(None), slice(None), slice(6, 14), slice(6, 14))
    torch.testing.assert_close(moved.roll((-1, -2), (2, 3))[inside], still[inside], atol=1e-12, rtol=0)


def test_gradients_pass_through_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, bias = (x.requires_grad_() for x in some(9, 9, 3))
    whole = torch.autograd.grad(
        neighbourhood_attention_2d(q, k, v, 3, 2, bias).square().sum(), (q, k, v, bias)
    )
    monkeypatch.setattr(module, "MEMORY", 1)
    parts = torch.autograd.grad(
        neighbourhood_attention_2d(q, k, v, 3, 2, bias).square().sum(), (q, k, v, bias)
    )
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_every_position_sees_kernel_many_distinct_ones() -> None:
    for length, kernel, dilation in itertools.product((7, 20, 31), (3, 7), (1, 2, 3)):
        if length >= kernel * dilation:
            seen, entries = neighbours(length, kernel, dilation)
            assert all(len(set(row)) == kernel for row in seen)
            assert entries.min() >= 0
            assert entries.max() <= 2 * kernel - 2


@pytest.mark.parametrize(
    ("length", "kernel", "dilation", "fitted"),
    [(56, 7, 8, (7, 8)), (20, 7, 4, (7, 2)), (7, 7, 2, (7, 1)), (6, 7, 2, (5, 1)), (1, 7, 1, (1, 1))],
)
def test_small_grids_reduce_dilation_and_then_the_kernel(
    length: int, kernel: int, dilation: int, fitted: tuple[int, int]
) -> None:
    assert fit_neighbourhood(length, kernel, dilation) == fitted


def test_a_reduced_neighbourhood_is_logged_once_and_uses_the_middle_of_the_bias(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    attention = NeighbourhoodAttention2d(32, kernel=7)
    x = torch.randn(1, 5, 5, 32)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        first, second = attention(x), attention(x)
    assert len(caplog.records) == 1
    assert "kernel 5 x 5" in caplog.text
    smaller = NeighbourhoodAttention2d(32, kernel=5)
    smaller.load_state_dict({**attention.state_dict(), "bias": attention.bias[:, 2:-2, 2:-2]})
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(smaller(x), first)


def test_a_grid_smaller_than_the_neighbourhood_is_refused() -> None:
    q, k, v, _ = some(8, 8, 3)
    with pytest.raises(ValueError, match="8 positions are fewer than kernel 5 x dilation 2"):
        neighbourhood_attention_2d(q, k, v, 5, 2)


def test_even_kernels_wrong_heads_and_wrong_tables_are_refused() -> None:
    q, k, v, bias = some(8, 8, 3)
    with pytest.raises(ValueError, match="odd kernel"):
        neighbourhood_attention_2d(q, k, v, 4)
    with pytest.raises(ValueError, match=r"bias has shape \(2, 5, 5\)"):
        neighbourhood_attention_2d(q, k, v, 5, 1, bias)
    with pytest.raises(ValueError, match="multiples"):
        NeighbourhoodAttention2d(48)
    with pytest.raises(ValueError, match="unknown backend"):
        neighbourhood_attention_2d(q, k, v, 3, backend="tile")
    with pytest.raises(ValueError, match="bias"):
        neighbourhood_attention_2d(q, k, v, 3, 1, bias, backend="natten")
