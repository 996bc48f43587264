import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.kernels import selective_scan_cpu
from foveal.kernels.selective_scan import (
    scan_flops,
    selective_scan,
    selective_scan_step,
    selective_scan_with_state,
)

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")


def _inputs(length, *, batch=2, channels=8, states=5, groups=1, kind=torch.float64, seed=0, given=NAMES):
    source = torch.Generator().manual_seed(seed)
    shapes = {
        "u": (batch, length, channels), "dt": (batch, length, channels), "A": (channels, states),
        "B": (batch, length, groups, states), "C": (batch, length, groups, states), "D": (channels,),
        "z": (batch, length, channels), "dt_bias": (channels,), "initial_state": (batch, channels, states),
    }  # fmt: skip
    made = {n: torch.randn(s, generator=source, dtype=torch.float64) for n, s in shapes.items()}
    made["A"] = -torch.exp(made["A"] / 2)
    made["dt_bias"] -= 2
    return {name: made[name].to(kind).requires_grad_() for name in given}


def _by_hand(u, dt, A, B, C, D, z, dt_bias, initial_state):
    """The recurrence in NumPy, element by element of the definition."""
    u, dt, A, B, C, D, z, dt_bias, h = (
        x.detach().double().numpy() for x in (u, dt, A, B, C, D, z, dt_bias, initial_state)
    )
    h = h.copy()
    group = np.arange(u.shape[2]) // (u.shape[2] // B.shape[2])
    y = np.empty_like(u)
    for t in range(u.shape[1]):
        d = np.log1p(np.exp(dt[:, t] + dt_bias))[..., None]
        h = np.exp(d * A) * h + d * B[:, t, group] * u[:, t, :, None]
        y[:, t] = (C[:, t, group] * h).sum(-1) + D * u[:, t]
    return y * z / (1 + np.exp(-z)), h


@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 17, 196])
def test_every_path_is_the_recurrence(length, groups, backend):
    for kind, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        x = _inputs(length, groups=groups, kind=kind)
        y, state = selective_scan_with_state(**x, backend=backend)
        wanted = _by_hand(**x)
        for found, value in zip((y, state), wanted, strict=True):
            assert np.abs(found.detach().numpy() - value).max() <= tolerance * np.abs(value).max()


def test_a_thousand_tokens_in_32_bits_keep_five_digits():
    x = _inputs(1000, kind=torch.float32)
    wanted, _ = _by_hand(**x)
    assert np.abs(selective_scan(**x).detach().numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 50),
    channels=st.sampled_from([1, 3, 70]),
    states=st.integers(1, 6),
    seed=st.integers(0, 99),
    gated=st.booleans(),
    ordered=st.booleans(),
)
def test_compiled_gradients_are_those_of_autograd(length, channels, states, seed, gated, ordered):
    names = [name for name in NAMES if gated or name != "z"]
    x, y = (_inputs(length, channels=channels, states=states, seed=seed, given=names) for _ in range(2))
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)) if ordered else None
    results = []
    for tensors, backend in ((x, "compiled"), (y, "reference")):
        out, state = selective_scan_with_state(**tensors, order=order, backend=backend)
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        ((out * weights).sum() + (state * state).sum()).backward()
        results.append(out.detach())
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    for name in names:
        torch.testing.assert_close(x[name].grad, y[name].grad, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("channels", [selective_scan_cpu.WIDEST, selective_scan_cpu.WIDEST + 5])
def test_gradients_of_the_widest_block_and_of_two_blocks_are_those_of_autograd(channels):
    x, y = (_inputs(selective_scan_cpu.PIECE + 1, batch=1, channels=channels, states=3) for _ in range(2))
    for tensors, backend in ((x, "compiled"), (y, "reference")):
        selective_scan(**tensors, backend=backend).square().sum().backward()
    for name in NAMES:
        torch.testing.assert_close(x[name].grad, y[name].grad, rtol=1e-8, atol=1e-9, msg=name)


def test_numerical_differentiation_agrees_for_all_inputs():
    x = _inputs(selective_scan_cpu.PIECE + 3, batch=1, channels=2, states=2)
    assert torch.autograd.gradcheck(
        lambda *tensors: selective_scan_with_state(**dict(zip(NAMES, tensors, strict=True))),
        tuple(x.values()),
    )


def test_gradients_in_32_bits_are_close_to_those_in_64():
    x, y = _inputs(300, kind=torch.float32, channels=64), _inputs(300, channels=64)
    for tensors in (x, y):
        selective_scan(**tensors).square().sum().backward()
    for name in NAMES:
        error = (x[name].grad.double() - y[name].grad).abs().max() / y[name].grad.abs().max()
        assert error < 1e-5, name


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_two_halves_with_the_state_carried_over_are_one_pass(backend):
    x = _inputs(21)
    whole, last = selective_scan_with_state(**x, backend=backend)
    rows = {"u", "dt", "B", "C", "z"}
    first = {n: v[:, :9] if n in rows else v for n, v in x.items()}
    second = {n: v[:, 9:] if n in rows else v for n, v in x.items()}
    y, state = selective_scan_with_state(**first, backend=backend)
    rest, end = selective_scan_with_state(**second | {"initial_state": state}, backend=backend)
    torch.testing.assert_close(torch.cat([y, rest], dim=1), whole)
    torch.testing.assert_close(end, last)


def test_steps_token_by_token_are_the_scan():
    x = _inputs(6)
    state, rows = x.pop("initial_state"), ("u", "dt", "B", "C", "z")
    whole = selective_scan(**x, initial_state=state)
    for t in range(6):
        token = {n: v[:, t] if n in rows else v for n, v in x.items()}
        y, state = selective_scan_step(**token, state=state)
        torch.testing.assert_close(y, whole[:, t])


def test_grouped_scan_is_a_scan_of_each_group():
    x = _inputs(12, groups=4)
    whole = selective_scan(**x)
    for g in range(4):
        some = np.s_[..., 2 * g : 2 * g + 2]
        part = {n: v[some] for n, v in x.items() if n in ("u", "dt", "D", "z", "dt_bias")}
        part |= {n: x[n][:, :, g : g + 1] for n in ("B", "C")}
        part |= {"A": x["A"][2 * g : 2 * g + 2], "initial_state": x["initial_state"][:, 2 * g : 2 * g + 2]}
        torch.testing.assert_close(selective_scan(**part), whole[some])


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_an_order_is_a_gather_before_and_its_inverse_after(backend):
    x = _inputs(15)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    gathered = {n: v[:, order] if n in ("u", "dt", "B", "C", "z") else v for n, v in x.items()}
    wanted = selective_scan(**gathered, backend=backend)[:, order.argsort()]
    torch.testing.assert_close(selective_scan(**x, order=order, backend=backend), wanted)


def test_constant_rates_give_an_exponential_moving_sum():
    u = torch.randn(1, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(1, 40, 1, dtype=torch.float64)
    y = selective_scan(u, ones, torch.tensor([[-0.3]]), ones, ones, softplus=False)
    total, wanted = 0.0, []
    for value in u.flatten().tolist():
        total = np.exp(-0.3) * total + value
        wanted.append(total)
    np.testing.assert_allclose(y.flatten().numpy(), wanted, rtol=1e-6)  # A was given in 32 bits


def test_steps_of_zero_leave_the_skip_alone():
    x = _inputs(10, given=("u", "dt", "A", "B", "C", "D"))
    x["dt"] = torch.full_like(x["dt"], -60.0)
    torch.testing.assert_close(selective_scan(**x), x["D"] * x["u"])


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_later_tokens_do_not_touch_earlier_outputs(backend):
    x = _inputs(30, kind=torch.float32)
    changed = x | {"u": x["u"].detach().clone()}
    changed["u"][:, 20] += 5
    before, after = selective_scan(**x, backend=backend), selective_scan(**changed, backend=backend)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_strong_decay_stays_finite_where_the_factorised_form_overflows():
    length = 4096
    source = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(1, length, n, generator=source) for n in (4, 2, 2))
    dt = 20 * torch.rand(1, length, 4, generator=source)
    A = torch.tensor([-16.0, -1.0]).repeat(4, 1)
    tensors = [x.requires_grad_() for x in (u, dt, A, B, C)]
    y = selective_scan(*tensors, softplus=False)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(x.grad).all() for x in tensors)
    sums = torch.cumsum(dt[..., None] * A, dim=1)
    x = dt[..., None] * B[:, :, None] * u[..., None]
    factorised = torch.exp(sums) * torch.cumsum(torch.exp(-sums) * x, dim=1)
    assert not torch.isfinite(factorised).all()  # why the kernels never divide by a decay


def test_half_precision_input_is_scanned_in_32_bits():
    x = _inputs(40, kind=torch.float32)
    half = {n: v.detach().bfloat16() if n in ("u", "z", "B", "C") else v.detach() for n, v in x.items()}
    y = selective_scan(**half)
    assert y.dtype == torch.bfloat16
    exact = selective_scan(**{n: v.float() for n, v in half.items()})
    torch.testing.assert_close(y, exact.bfloat16())


def test_what_does_not_fit_is_named():
    x = _inputs(5)
    with pytest.raises(ValueError, match="A has entries up to"):
        selective_scan(**x | {"A": x["A"].abs()})
    with pytest.raises(ValueError, match=r"B of shape .* divides the channels"):
        selective_scan(**x | {"B": x["B"].repeat(1, 1, 3, 1), "C": x["C"].repeat(1, 1, 3, 1)})
    with pytest.raises(TypeError, match=r"u is of type torch\.int64"):
        selective_scan(**x | {"u": torch.ones(2, 5, 8, dtype=torch.int64)})
    with pytest.raises(ValueError, match="at least one token"):
        selective_scan(**x | {"u": x["u"][:, :0]})
    with pytest.raises(ValueError, match="z has shape"):
        selective_scan(**x | {"z": x["z"][:, :3]})
    with pytest.raises(ValueError, match="no permutation"):
        selective_scan(**x, order=torch.tensor([0, 1, 1, 3, 4]))
    with pytest.raises(ValueError, match="backend='cuda'; allowed"):
        selective_scan(**x, backend="cuda")


@pytest.mark.parametrize("name", ["u", "dt", "C", "z", "initial_state"])
def test_numbers_that_are_not_finite_are_reported_with_their_input(name):
    x = {n: v.detach().clone() for n, v in _inputs(5, kind=torch.float32).items()}
    x[name].view(-1)[3] = float("nan")
    with pytest.raises(FloatingPointError, match=f"{name} holds 1 of"):
        selective_scan(**x)


def test_threads_do_not_change_the_numbers():
    x = _inputs(50, channels=130, kind=torch.float32)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(selective_scan(**x))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_operations_are_counted_by_the_usual_convention():
    assert scan_flops(2, 10, 6, 4, skip=True, gate=False) == 9 * 2 * 10 * 6 * 4 + 2 * 10 * 6


def test_an_order_made_in_inference_mode_can_be_trained_with():
    x = _inputs(8)
    with torch.inference_mode():
        order = torch.arange(7, -1, -1)
    selective_scan(**x, order=order).sum().backward()
    assert all(tensor.grad is not None for tensor in x.values())
