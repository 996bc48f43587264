"""Curves of distortion: closed forms against written-out matrices, gradients, slopes."""

import numpy as np
import pytest
import torch
from torch import nn

from foveal.compression.distortion import (
    Calibration,
    calibrate,
    distortion_curve,
    kept_counts,
    power_weight,
    slopes,
    smooth_curve,
    tile_scores,
)
from foveal.kernels.block_sparse import from_tiles, in_tiles

BLOCK = (16, 16)


def layer(shape=(64, 48), seed=0):
    draw = torch.Generator().manual_seed(seed)
    weight, gradient = (torch.randn(shape, generator=draw) for _ in range(2))
    product = in_tiles(weight * gradient, BLOCK).sum(dim=(2, 3))
    return Calibration(weight, gradient, product[None])


def pruned_at(of, d, points=100):
    """delta of a layer at a point of its curve, by a mask that is written out."""
    scores = tile_scores(of, BLOCK)
    kept = kept_counts(scores.numel(), points)[d]
    gone = torch.ones(scores.numel(), dtype=torch.bool)
    gone[scores.flatten().argsort(descending=True, stable=True)[:kept]] = False
    tiles = gone.view(scores.shape)[:, :, None, None] * in_tiles(of.weight, BLOCK)
    return -from_tiles(tiles, tuple(of.weight.shape))


@pytest.mark.parametrize("shape", [(64, 48), (50, 41)])
def test_second_order_is_the_matrix_product_and_its_steps_add_up(shape):
    of, damping = layer(shape), 1e-3
    curve = distortion_curve(of, tile_scores(of, BLOCK), BLOCK, damping=damping)
    g = of.gradient.double().flatten()
    hessian = g[:, None] * g[None] + damping * torch.eye(len(g), dtype=torch.float64)
    steps, before = 0.0, torch.zeros_like(g)
    for d in range(101):
        now = pruned_at(of, d).double().flatten()
        first = (now * g).square().mean()
        step = now - before
        steps += float((step + 2 * before) @ (hessian @ step)) / 2
        before = now
        if d % 20 == 0:
            whole = float(now @ (hessian @ now)) / 2
            assert curve[d] == pytest.approx(float(first) + whole, rel=1e-5)
        assert curve[d] == pytest.approx(float(first) + steps, rel=1e-5, abs=1e-9)
    assert curve[0] == 0


def test_batches_of_opposite_signs_do_not_cancel():
    of = layer()
    both = Calibration(of.weight, of.gradient * 0, torch.cat([of.products, -of.products]))
    scores = tile_scores(of, BLOCK)
    mean = distortion_curve(both, scores, BLOCK, damping=0)
    batches = distortion_curve(both, scores, BLOCK, damping=0, fisher="batches")
    alone = distortion_curve(of, scores, BLOCK, damping=0)
    assert mean[-1] == 0
    assert batches[-1] == pytest.approx(alone[-1], rel=1e-2)


def test_counts_are_exact():
    assert kept_counts(10, 100)[90] == 1
    assert kept_counts(7, 100)[0] == 7
    assert kept_counts(7, 100)[-1] == 0
    assert kept_counts(96, 100)[50] == 48


def test_scores_of_edges_are_means_over_what_is_there():
    of = Calibration(torch.ones(20, 18), torch.full((20, 18), 2.0), torch.zeros(1, 2, 2))
    assert torch.equal(tile_scores(of, BLOCK), torch.full((2, 2), 2.0))
    assert torch.equal(tile_scores(of, BLOCK, ranking="magnitude"), torch.ones(2, 2))


def test_slopes_are_exact_on_curves_of_third_degree():
    x = np.linspace(0, 1, 101)
    wanted = 3 * x**2 - 1
    for half_width in (4, 10):
        found = slopes(x**3 - x, half_width=half_width)
        np.testing.assert_allclose(found[2:-2], wanted[2:-2], atol=1e-9)
        np.testing.assert_allclose(found, wanted, atol=0.05)
    with pytest.raises(ValueError, match="half_width is 3"):
        slopes(x, half_width=3)


def test_smoothing_keeps_constants_and_the_first_point():
    assert smooth_curve(np.full(5, 2.0), 0.9) == pytest.approx(np.full(5, 2.0))
    curve = np.array([0.0, 1, 0, 1])
    assert smooth_curve(curve, 0.5)[0] == 0
    assert smooth_curve(curve, 0.0) == pytest.approx(curve)
    with pytest.raises(ValueError, match="smoothing is 1"):
        smooth_curve(curve, 1)


def test_power_has_the_slope_of_distortion():
    x = np.linspace(0, 1, 101)
    assert power_weight({"a": 3 * x, "b": x}, {"a": -8 * x, "b": -8 * x}) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="nothing to weigh"):
        power_weight({"a": x}, {"a": x * 0})


def test_gradients_are_those_of_the_mean_squared_logit_and_leave_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).train()
    model[2].weight.requires_grad_(False)
    images = torch.randn(10, 6)
    found = calibrate(model, images, ["0", "2"], (4, 3), batch_size=5)
    assert model.training
    assert model[0].weight.grad is None
    assert not model[2].weight.requires_grad
    model[2].weight.requires_grad_(True)
    wanted = torch.autograd.grad(model(images).square().mean(), model[2].weight)[0]
    torch.testing.assert_close(found["2"].gradient, wanted)
    assert found["2"].products.shape == (2, 1, 3)
    sums = in_tiles(found["2"].weight * wanted, (4, 3)).sum(dim=(2, 3))
    torch.testing.assert_close(found["2"].products.mean(0), sums)


def test_a_layer_without_gradient_is_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            self.idle(x)
            return self.used(x)

    with pytest.raises(ValueError, match="weight of 'idle', which has no gradient"):
        calibrate(Unused(), torch.randn(2, 4), ["used", "idle"], (2, 2))
