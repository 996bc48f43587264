"""Block-sparse linear layers: torch's own with a masked weight, at any size of tile."""

import multiprocessing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from foveal.kernels.block_sparse import (
    block_sparse_linear,
    dense_of,
    from_tiles,
    in_tiles,
    tile_grid,
    tiles_of,
)


def made(outputs, inputs, block, share=0.5, seed=0):
    """Weight with zeros, bias, and tiles with their index."""
    draw = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(outputs, inputs, generator=draw), torch.randn(outputs, generator=draw)
    kept = torch.rand(tile_grid((outputs, inputs), block), generator=draw) < share
    starts = F.pad(kept.sum(dim=1).cumsum(0), (1, 0))
    masked = from_tiles(in_tiles(weight, block) * kept[:, :, None, None], (outputs, inputs))
    return masked, bias, (tiles_of(weight, kept, block), starts, kept.nonzero()[:, 1])


@settings(deadline=None, max_examples=40)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 70),
    height=st.sampled_from([8, 16, 24, 32]),
    width=st.integers(1, 33),
    rows=st.integers(0, 20),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_it_equals_the_masked_dense_layer(outputs, inputs, height, width, rows, share):
    weight, bias, parts = made(outputs, inputs, (height, width), share)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1))
    wanted = F.linear(x, weight, bias)
    for backend in ("compiled", "reference"):
        found = block_sparse_linear(x, *parts, bias, outputs=outputs, backend=backend)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_two_threads_and_leading_axes_change_nothing():
    weight, _, parts = made(96, 800, (32, 32))
    x = torch.randn(2, 3, 67, 800, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = block_sparse_linear(x, *parts, outputs=96, backend="compiled")
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found, F.linear(x, weight), atol=1e-4, rtol=1e-5)


def _sum_of(parts, x, said):
    torch.set_num_threads(2)
    found = block_sparse_linear(x, *parts, outputs=96, backend="compiled")
    said.put(float(found.numpy().sum()))  # torch's own sum on two threads would wait for ever


def test_a_process_forked_after_threads_ran_multiplies_too():
    _, _, parts = made(96, 800, (32, 32))
    x = torch.randn(402, 800, generator=torch.Generator().manual_seed(1))
    fork = multiprocessing.get_context("fork")
    said = fork.SimpleQueue()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wanted = float(block_sparse_linear(x, *parts, outputs=96, backend="compiled").sum())
        child = fork.Process(target=_sum_of, args=(parts, x, said))
        child.start()
        child.join(60)
        stuck = child.is_alive()
        if stuck:
            child.kill()
    finally:
        torch.set_num_threads(threads)
    assert not stuck
    assert said.get() == pytest.approx(wanted)


def test_tiles_are_the_weight_again():
    weight, _, parts = made(50, 70, (16, 24))
    assert torch.equal(dense_of(*parts, (50, 70)), weight)


def test_gradients_are_those_of_the_dense_layer():
    weight, bias, (tiles, *index) = made(20, 12, (8, 4))
    x = torch.randn(5, 12, requires_grad=True)
    tiles.requires_grad_()
    block_sparse_linear(x, tiles, *index, bias, outputs=20).square().sum().backward()
    dense = weight.clone().requires_grad_()
    again = x.detach().clone().requires_grad_()
    F.linear(again, dense, bias).square().sum().backward()
    torch.testing.assert_close(x.grad, again.grad)
    kept = torch.zeros(tile_grid((20, 12), (8, 4)), dtype=torch.bool)
    kept[torch.repeat_interleave(torch.arange(3), index[0].diff()), index[1]] = True
    torch.testing.assert_close(tiles.grad, tiles_of(dense.grad, kept, (8, 4)))


def test_operations_are_counted_by_tiles():
    _, bias, parts = made(64, 64, (16, 16))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        block_sparse_linear(torch.randn(7, 64), *parts, bias, outputs=64)
    assert counter.get_total_flops() == 2 * 7 * len(parts[2]) * 16 * 16


def test_other_types_and_heights_take_the_plain_path():
    weight, bias, (tiles, *index) = made(30, 12, (5, 4))
    x = torch.randn(3, 12)
    torch.testing.assert_close(
        block_sparse_linear(x, tiles, *index, bias, outputs=30), F.linear(x, weight, bias)
    )
    double = block_sparse_linear(x.double(), tiles.double(), *index, bias.double(), outputs=30)
    assert double.dtype == torch.float64
    with pytest.raises(ValueError, match="a multiple of 8"):
        block_sparse_linear(x, tiles, *index, outputs=30, backend="compiled")


def test_wrong_shapes_are_refused():
    _, bias, parts = made(32, 32, (16, 16))
    with pytest.raises(ValueError, match="just hold"):
        block_sparse_linear(torch.randn(2, 32), *parts, bias, outputs=40)
    with pytest.raises(ValueError, match="unknown backend"):
        block_sparse_linear(torch.randn(2, 32), *parts, bias, outputs=32, backend="fast")
    with pytest.raises(ValueError, match="allowed: \\(N, w, h\\)"):
        block_sparse_linear(torch.randn(2, 32), parts[0][0], *parts[1:], outputs=32)
    for backend in ("compiled", "reference"):
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            block_sparse_linear(torch.randn(2, 8), *parts, bias, outputs=32, backend=backend)
