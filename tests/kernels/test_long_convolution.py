"""Long convolutions and diagonal scans beside loops and SciPy."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from foveal.kernels.long_convolution import (
    causal_convolution,
    convolve_with_spectrum,
    diagonal_scan,
    geometric_kernel,
    geometric_state,
    kernel_spectrum,
)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_convolution_is_linear_and_not_circular(length: int) -> None:
    u, kernel = torch.randn(2, length, 3, dtype=torch.float64), torch.randn(3, length, dtype=torch.float64)
    for channel in range(3):
        expected = lfilter(kernel[channel].numpy(), [1.0], u[:, :, channel].numpy(), axis=1)
        np.testing.assert_allclose(causal_convolution(u, kernel)[..., channel], expected, atol=1e-12)


def test_half_precision_is_transformed_in_32_bits() -> None:
    u, kernel = torch.randn(1, 50, 2), torch.randn(2, 50)
    y = causal_convolution(u.half(), kernel.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(
        y.float(), causal_convolution(u.half().float(), kernel.half().float()), atol=1e-2, rtol=1e-2
    )


def test_a_kept_spectrum_is_of_one_length() -> None:
    u, kernel = torch.randn(1, 40, 2), torch.randn(2, 40)
    assert torch.equal(convolve_with_spectrum(u, kernel_spectrum(kernel, 40)), causal_convolution(u, kernel))
    with pytest.raises(ValueError, match="compute it anew"):
        convolve_with_spectrum(torch.randn(1, 80, 2), kernel_spectrum(kernel, 40))


def test_convolution_refuses_what_it_cannot_take() -> None:
    u = torch.randn(1, 8, 2)
    with pytest.raises(ValueError, match="9 lags for 8 tokens"):
        causal_convolution(u, torch.randn(2, 9))
    with pytest.raises(ValueError, match="at least one token"):
        causal_convolution(u[:, :0], torch.randn(2, 0))
    with pytest.raises(TypeError, match="real numbers"):
        causal_convolution(u, torch.randn(2, 8, dtype=torch.complex64))


def _rates(*shape: int) -> torch.Tensor:
    return torch.complex(
        -torch.rand(shape, dtype=torch.float64) - 0.01, torch.randn(shape, dtype=torch.float64)
    )


@pytest.mark.parametrize("length", [1, 2, 37])
def test_geometric_kernel_and_state_equal_their_sums(length: int) -> None:
    rates, weights = _rates(3, 4), torch.randn(3, 4, dtype=torch.complex128)
    lags = torch.arange(length)
    powers = torch.exp(rates[..., None] * lags)
    expected = 2 * (weights[..., None] * powers).sum(dim=1).real
    torch.testing.assert_close(geometric_kernel(weights, rates, length), expected)
    u = torch.randn(2, length, 3, dtype=torch.float64)
    state = torch.einsum("blh,hnl->bhn", u.to(powers.dtype), powers.flip(-1))
    torch.testing.assert_close(geometric_state(u, rates), state)


def test_a_growing_state_and_no_token_are_refused() -> None:
    with pytest.raises(ValueError, match="must be below 0"):
        geometric_kernel(torch.ones(1, 1, dtype=torch.complex64), torch.zeros(1, 1, dtype=torch.complex64), 4)
    with pytest.raises(ValueError, match="length=0"):
        geometric_kernel(torch.ones(1, 1, dtype=torch.complex64), -torch.ones(1, 1, dtype=torch.complex64), 0)


@pytest.mark.parametrize("length", [1, 4, 5, 83])
def test_scan_and_its_gradients_equal_the_loop(length: int) -> None:
    decay = torch.exp(_rates(3)).requires_grad_()
    inputs = torch.randn(2, length, 3, dtype=torch.complex128, requires_grad=True)
    initial = torch.randn(2, 3, dtype=torch.complex128, requires_grad=True)
    state, states = initial, []
    for t in range(length):
        state = decay * state + inputs[:, t]
        states.append(state)
    expected, found = torch.stack(states, dim=1), diagonal_scan(decay, inputs, initial, chunk=4)
    torch.testing.assert_close(found, expected)
    seed = torch.randn_like(expected)
    given = (decay, inputs, initial)
    for a, b in zip(
        torch.autograd.grad(found, given, seed), torch.autograd.grad(expected, given, seed), strict=True
    ):
        torch.testing.assert_close(a, b)
