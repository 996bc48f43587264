"""Retention: equal forms, streams, causality, the grid, stabilisers and errors."""

import pytest
import torch

from foveal.blocks.retention import Retention, retention_decays


def layer(dim: int = 12, heads: int = 3, **options: object) -> Retention:
    torch.manual_seed(0)
    return Retention(dim, heads, **options).double()  # type: ignore[arg-type]


def tokens(length: int = 30, dim: int = 12) -> torch.Tensor:
    return torch.randn(2, length, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_decays_are_those_of_retnet_or_spread_over_a_range() -> None:
    assert torch.tensor(retention_decays(3)).exp().tolist() == pytest.approx(
        [1 - 2**-5, 1 - 2**-6, 1 - 2**-7]
    )
    ranges = 1 / (1 - torch.tensor(retention_decays(3, decay_range=(32, 3200))).double().exp())
    assert ranges.tolist() == pytest.approx([32, 320, 3200], rel=1e-3)


@pytest.mark.parametrize("stabilise", [False, True])
@pytest.mark.parametrize("post", ["ln_gelu", "gn_gate"])
def test_forms_can_be_switched_and_give_equal_outputs(post: str, stabilise: bool) -> None:
    retention, x = layer(post=post, stabilise=stabilise), tokens()
    outputs = []
    for form in ("parallel", "recurrent", "chunkwise"):
        retention.set_form(form, chunk=7)  # type: ignore[arg-type]
        outputs.append(retention(x))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-10, atol=1e-10)


def test_the_parallel_form_is_the_equation() -> None:
    retention, x = layer(decays=(0.9, 0.5, 0.99), form="parallel"), tokens()
    q, k, v = retention.qkv(x).unflatten(-1, (3, 3, 4)).unbind(2)
    n = torch.arange(30)
    g = torch.tensor([0.9, 0.5, 0.99], dtype=torch.float64)[:, None, None]
    mask = torch.where(n[:, None] >= n, g ** (n[:, None] - n).clamp(min=0), 0.0)
    out = torch.einsum("bnhd,bmhd,hnm,bmhe->bnhe", q, k, mask, v) / 2
    wanted = retention.proj(torch.nn.functional.gelu(retention.norm(out.flatten(2))))
    torch.testing.assert_close(retention(x), wanted, rtol=1e-6, atol=1e-7)  # decays are kept in 32 bits


@pytest.mark.parametrize("stabilise", [False, True])
def test_parts_and_steps_with_the_state_are_one_pass(stabilise: bool) -> None:
    retention, x = layer(stabilise=stabilise), tokens()
    whole = retention(x)
    first, state = retention.continued(x[:, :13])
    rest, _ = retention.continued(x[:, 13:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole, rtol=1e-10, atol=1e-10)
    state, outputs = None, []
    for token in x.unbind(1):
        out, state = retention.step(token, state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-10, atol=1e-10)


def test_stabilisers_leave_the_output_after_the_norm_of_each_head() -> None:
    plain, stable, x = layer(post="gn_gate"), layer(post="gn_gate", stabilise=True), 30 * tokens()
    for retention in (plain, stable):
        assert isinstance(retention.norm, torch.nn.GroupNorm)
        retention.norm.eps = 0.0
    torch.testing.assert_close(stable(x), plain(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_no_token_sees_a_later_one(form: str) -> None:
    retention, x = layer(form=form, chunk=7), tokens()
    changed = x.clone()
    changed[:, 11] += 1
    assert torch.equal(retention(x)[:, :11], retention(changed)[:, :11])


def test_a_class_token_sees_all_at_the_end_and_nothing_at_the_beginning() -> None:
    retention, x = layer(), tokens().requires_grad_()
    out = retention(x)
    last = torch.autograd.grad(out[:, -1].sum(), x, retain_graph=True)[0]
    first = torch.autograd.grad(out[:, 0].sum(), x)[0]
    assert (last.abs().sum(-1) > 0).all()
    assert not first[:, 1:].any()


@pytest.mark.parametrize("grid", ["up-left", "corners"])
def test_over_a_grid_the_forms_are_equal_and_a_token_after_it_sees_all_cells(grid: str) -> None:
    retention, x = layer(grid=grid), tokens(36).requires_grad_()
    outputs = []
    for form in ("parallel", "recurrent", "chunkwise"):
        retention.set_form(form, chunk=14)  # type: ignore[arg-type]
        outputs.append(retention(x, shape=(5, 7)))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-10, atol=1e-10)
    seen = torch.autograd.grad(outputs[0][:, -1].sum(), x)[0]
    assert (seen.abs().sum(-1) > 0).all()


def test_only_the_mean_of_corners_lets_the_first_cell_see_the_last() -> None:
    for grid, sees in (("up-left", False), ("corners", True)):
        x = tokens(35).requires_grad_()
        layer(grid=grid)(x, shape=(5, 7))[:, 0].sum().backward()
        assert x.grad is not None
        assert bool(x.grad[:, -1].any()) is sees


def test_the_state_stays_in_32_bits_whatever_the_tokens() -> None:
    retention = Retention(12, 3).to(torch.bfloat16)
    out, state = retention.continued(tokens().to(torch.bfloat16))
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(TypeError, match="kept in 32 bits"):
        retention.continued(tokens().to(torch.bfloat16), state.half())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"decays": (0.5, 1.0, 0.9)}, "above 0 and below 1"),
        ({"decays": (0.5, 0.0, 0.9)}, "above 0 and below 1"),
        ({"decays": (0.5,)}, "one number a head"),
        ({"decay_range": (0.5, 9)}, "1 < shortest"),
        ({"decays": (0.5,) * 3, "decay_range": (2, 9)}, "not both"),
        ({"chunk": 0}, "chunk=0"),
        ({"form": "chunk"}, "form='chunk'; allowed: parallel"),
        ({"grid": "left"}, "grid='left'"),
        ({"post": "none"}, "post='none'"),
        ({"heads": 5}, "does not divide into heads"),
        ({"grid": "corners", "stabilise": True}, "stabilise is for sequences"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        layer(**options)  # type: ignore[arg-type]


def test_a_state_of_another_batch_and_a_grid_without_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="initial_state has shape"):
        layer().continued(tokens(), layer().init_state(3))
    with pytest.raises(ValueError, match="needs its"):
        layer(grid="up-left")(tokens())
    with pytest.raises(ValueError, match="no order of one token after the other"):
        layer(grid="up-left").continued(tokens())
