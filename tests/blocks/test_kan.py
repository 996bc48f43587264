import math

import pytest
import torch
from torch import nn

from foveal.blocks import kan
from foveal.blocks.kan import KANBlock, KANLayer


def test_switches_are_one_at_their_centre_and_a_half_where_they_should() -> None:
    layer = KANLayer(1, 1)
    u = torch.linspace(-3, 3, 601)[:, None]
    values = layer.basis_values(u)
    assert values.min() >= 0
    assert values.max() <= 1
    torch.testing.assert_close(layer.basis_values(layer.centres[:, None])[:, 0].diagonal(), torch.ones(8))
    half = layer.basis_values(layer.centres[:, None] + 0.33 * math.atanh(math.sqrt(0.5)))[:, 0].diagonal()
    torch.testing.assert_close(half, torch.full((8,), 0.5))
    torch.testing.assert_close(layer.centres, torch.linspace(-2, 2, 8))


@pytest.mark.parametrize("basis", ["switch", "rbf", "bspline"])
def test_a_layer_is_its_explicit_double_sum(basis: kan.Basis) -> None:
    torch.manual_seed(0)
    layer = KANLayer(5, 3, basis=basis, base_branch=True)
    x = torch.randn(4, 5)
    u = nn.functional.layer_norm(x, (5,), layer.norm.weight, layer.norm.bias)
    values = layer.basis_values(u)
    wanted = layer.base(nn.functional.silu(u))
    for feature in range(5):
        for function in range(8):
            wanted = (
                wanted + values[:, feature, function, None] * layer.spline.weight[:, feature * 8 + function]
            )
    torch.testing.assert_close(layer(x), wanted)


def test_splines_sum_to_one_within_their_range() -> None:
    layer = KANLayer(1, 1, basis="bspline")
    total = layer.basis_values(torch.linspace(-2, 2, 101)[:, None]).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_chunks_of_tokens_change_neither_outputs_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = KANBlock((6, 12, 6)).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    whole = block(x)
    wanted = torch.autograd.grad(whole.square().sum(), [x, *block.parameters()])
    monkeypatch.setattr(kan, "MEMORY", 3 * 6 * 8 * 8)
    parts = block(x)
    torch.testing.assert_close(parts, whole)
    for one, other in zip(
        torch.autograd.grad(parts.square().sum(), [x, *block.parameters()]), wanted, strict=True
    ):
        torch.testing.assert_close(one, other)


def test_gradient_is_that_of_the_formula() -> None:
    layer = KANLayer(1, 1).double()
    u = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)[:, None].requires_grad_()
    (gradient,) = torch.autograd.grad(layer.basis_values(u).sum(), u)
    v = (u.detach()[..., None] - layer.centres) / 0.33
    wanted = (-2 * v.tanh() * (1 - v.tanh().square()) / 0.33).sum(-1)
    torch.testing.assert_close(gradient, wanted)


def test_settings_that_make_no_basis_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown basis 'switches'; did you mean 'switch'"):
        KANLayer(2, 2, basis="switches")
    with pytest.raises(ValueError, match="low < high"):
        KANLayer(2, 2, low=2, high=-2)
    with pytest.raises(ValueError, match="from 4"):
        KANLayer(2, 2, basis="bspline", grid=3)
