"""Discretisation, HiPPO and the time-invariant layers beside SciPy, naive powers and loops."""

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from scipy.signal import cont2discrete, dlsim
from torch import nn

from foveal.blocks.state_space import S4, S4D, S5, StateSpaceMixer
from foveal.blocks.state_space_theory import (
    RATES,
    diagonal_rates,
    discretise,
    discretise_diagonal,
    hippo_legs,
    kernel_by_powers,
    legs_eigenbasis,
    legs_low_rank,
    legs_projection,
    legs_reconstruction,
)
from foveal.kernels.long_convolution import causal_convolution


def _system(states: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    A, B = hippo_legs(states)
    return A, B[:, None], torch.randn(states, dtype=torch.float64)


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_discretisation_is_scipys(rule: str) -> None:
    A, B, C = _system()
    expected = cont2discrete((A.numpy(), B.numpy(), C.numpy()[None], np.zeros((1, 1))), 0.05, method=rule)
    for found, wanted in zip(discretise(A, B, 0.05, rule=rule), expected, strict=False):  # type: ignore[arg-type]
        np.testing.assert_allclose(found, wanted, atol=1e-10, rtol=0)


def test_eulers_input_is_the_step_times_b() -> None:
    A, B, _ = _system()
    Ab, Bb = discretise(A, B, 0.05, rule="euler")
    torch.testing.assert_close(Ab, torch.matrix_exp(0.05 * A))
    torch.testing.assert_close(Bb, 0.05 * B)


@pytest.mark.parametrize("rule", ["zoh", "bilinear", "euler"])
def test_diagonal_discretisation_is_the_dense_one(rule: str) -> None:
    rates = diagonal_rates(8, kind="legs")
    log_decay, factor = discretise_diagonal(rates, torch.tensor(0.03, dtype=torch.float64), rule=rule)  # type: ignore[arg-type]
    Ab, Bb = discretise(torch.diag(rates), torch.ones(4, 1, dtype=rates.dtype), 0.03, rule=rule)  # type: ignore[arg-type]
    torch.testing.assert_close(log_decay.exp(), Ab.diagonal())
    torch.testing.assert_close(factor, Bb[:, 0])


def test_recurrence_convolution_kernel_and_dlsim_agree() -> None:
    A, B, C = _system()
    D, u = 0.7, torch.randn(200, dtype=torch.float64)
    Ab, Bb = discretise(A, B, 0.05)
    state, looped = torch.zeros(4, dtype=torch.float64), []
    for value in u:
        state = Ab @ state + Bb[:, 0] * value
        looped.append(C @ state + D * value)
    kernel = kernel_by_powers(Ab, Bb[:, 0], C, 200)
    by_fft = causal_convolution(u[None, :, None], kernel[None])[0, :, 0] + D * u
    explicit = np.convolve(u.numpy(), kernel.numpy())[:200] + D * u.numpy()
    # dlsim reads the state before its update: y_l = C' x_l + D' u_l with x_{l+1} = Ab x_l + Bb u_l.
    shifted = ((C @ Ab).numpy()[None], np.array([[float(C @ Bb[:, 0]) + D]]))
    _, simulated, _ = dlsim((Ab.numpy(), Bb.numpy(), *shifted, 1.0), u.numpy()[:, None])
    for found in (by_fft, explicit, simulated[:, 0]):
        np.testing.assert_allclose(found, torch.stack(looped), atol=1e-8)


def test_legs_remembers_a_polynomial() -> None:
    curve = Polynomial([0.3, -2.0, 1.5, 4.0, -3.0])
    samples = (np.arange(2000) + 0.5) / 2000
    found = legs_reconstruction(
        legs_projection(torch.from_numpy(curve(samples)), states=32), torch.from_numpy(samples)
    )
    error = np.linalg.norm(found.numpy() - curve(samples)) / np.linalg.norm(curve(samples))
    assert error < 1e-2


@pytest.mark.parametrize("states", [2, 32, 64])
def test_legs_with_its_low_rank_part_is_normal(states: int) -> None:
    A, _ = hippo_legs(states)
    P = legs_low_rank(states)
    M = A + torch.outer(P, P)
    assert (M @ M.T - M.T @ M).abs().max() < 1e-9
    assert (torch.linalg.eigvals(M).real + 0.5).abs().max() < 1e-9
    values, V = legs_eigenbasis(states)
    rebuilt = 2 * (V @ torch.diag(values) @ V.mH).real
    torch.testing.assert_close(rebuilt, M, atol=1e-9, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 15, 64])
def test_s4s_kernel_is_that_of_naive_powers(length: int) -> None:
    torch.manual_seed(0)
    layer = S4(3, states=16).double()
    Ab, Bb, C = layer.system()
    expected = torch.stack([kernel_by_powers(Ab[h], Bb[h], C[h], length).real for h in range(3)])
    torch.testing.assert_close(layer.kernel(length), expected, atol=1e-6, rtol=1e-6)


def test_s4_starts_as_legs() -> None:
    torch.manual_seed(0)
    layer = S4(1, states=8).double()
    A, B = hippo_legs(8)
    Ab, Bb = discretise(A, B[:, None], layer.log_step.exp().item(), rule="bilinear")
    ours, driven, _ = layer.system()
    for power in range(1, 4):
        trace = torch.linalg.matrix_power(ours[0], power).diagonal().sum().real
        torch.testing.assert_close(trace, torch.linalg.matrix_power(Ab, power).trace(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(driven[0].abs().square().sum(), Bb.square().sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rates", RATES)
def test_s4ds_kernel_is_its_loop(rates: str) -> None:
    torch.manual_seed(0)
    layer = S4D(3, states=8, rates=rates).double()  # type: ignore[arg-type]
    A, step = layer.rates(), layer.log_step.exp()[:, None]
    driven = (torch.exp(step * A) - 1) / A
    expected = []
    for lag in range(40):
        terms = torch.view_as_complex(layer.C) * driven * torch.exp(lag * step * A)
        expected.append(2 * terms.sum(dim=-1).real)
    torch.testing.assert_close(layer.kernel(40), torch.stack(expected, dim=-1))


def _cores() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "s4": S4(6, states=8),
        "s4d": S4D(6, states=8),
        "s4d, bilinear": S4D(6, states=8, rule="bilinear", rates="lin"),
        "s5": S5(6, states=8),
        "s5 of blocks": S5(6, states=8, blocks=2),
        "mixer": StateSpaceMixer(S5(6, states=8), 6, gate="self"),
    }


@pytest.mark.parametrize("name", list(_cores()))
def test_steps_and_parts_equal_the_whole(name: str) -> None:
    core = _cores()[name].double()
    u = torch.randn(2, 83, 6, dtype=torch.float64)
    whole = core(u)
    state, outputs = None, []
    for t in range(83):
        y, state = core.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole)
    first, after = core.continued(u[:, :70], None)
    second, last = core.continued(u[:, 70:], after)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("name", ["s4", "s4d", "s5"])
def test_gradients_of_the_whole_are_those_of_steps(name: str) -> None:
    core = _cores()[name].double()
    u = torch.randn(1, 12, 6, dtype=torch.float64)
    weights = list(core.parameters())
    whole = torch.autograd.grad(core(u).square().sum(), weights)
    state, total = None, torch.zeros((), dtype=torch.float64)
    for t in range(12):
        y, state = core.step(u[:, t], state)
        total = total + y.square().sum()
    for a, b in zip(whole, torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    A, B, _ = _system()
    with pytest.raises(ValueError, match="allowed: zoh"):
        discretise(A, B, 0.1, rule="tustin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        discretise(A, B, 0.0)
    with pytest.raises(ValueError, match="must be below 0"):
        discretise_diagonal(torch.tensor([0.1 + 1j]), torch.tensor(0.1))
    with pytest.raises(ValueError, match="even number"):
        S4D(4, states=5)
    with pytest.raises(ValueError, match="blocks"):
        S5(4, states=8, blocks=3)
    for core in (S4(4, states=4), S4D(4, states=4), S5(4, states=4)):
        with pytest.raises(ValueError, match=r"1 (token )?or more"):
            core(torch.randn(1, 0, 4))
