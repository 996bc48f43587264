"""Short causal convolution: torch's own, any order, gradients."""

import pytest
import torch
from torch.nn import functional as F

from foveal.kernels.short_convolution import short_convolution


def given(batch=2, length=9, channels=6, taps=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, length, channels), (channels, taps), (channels,)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("taps", [1, 3, 4, 12])
@pytest.mark.parametrize("silu", [False, True])
def test_it_is_torchs_padded_convolution(backend, taps, silu):
    x, w, b = given(taps=taps)
    wanted = F.conv1d(F.pad(x.mT, (taps - 1, 0)), w[:, None], b, groups=len(b)).mT
    found = short_convolution(x, w, b, silu=silu, backend=backend)
    torch.testing.assert_close(found, F.silu(wanted) if silu else wanted, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_an_order_is_that_of_the_rows_put_in_it(backend):
    x, w, b = given(length=17)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1))
    wanted = torch.empty_like(x)
    wanted[:, order] = short_convolution(x[:, order], w, b, silu=True, backend="reference")
    found = short_convolution(x, w, b, order=order, silu=True, backend=backend)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_gradients_are_right(silu, ordered):
    tensors = [tensor.requires_grad_() for tensor in given(length=7, channels=3, dtype=torch.float64)]
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4]) if ordered else None
    assert torch.autograd.gradcheck(
        lambda *t: short_convolution(*t, order=order, silu=silu, backend="compiled"), tensors
    )


def test_wide_batches_on_two_threads_equal_the_reference():
    x, w, b = given(batch=1, length=50, channels=200)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = short_convolution(x[..., :], w, b, silu=True, backend="compiled")
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found, short_convolution(x, w, b, silu=True, backend="reference"))


def test_half_precision_takes_the_plain_path():
    x, w, b = (tensor.half() for tensor in given())
    assert short_convolution(x, w, b).dtype == torch.float16
    with pytest.raises(ValueError, match="32 or 64 bits"):
        short_convolution(x, w, b, backend="compiled")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taps": torch.zeros(5, 4)}, "allowed"),
        ({"order": torch.arange(3)}, "for 9 tokens"),
        ({"order": torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9])}, "no permutation"),
        ({"backend": "cuda"}, "backend"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    x, w, b = given()
    with pytest.raises(ValueError, match=message):
        short_convolution(x, **({"taps": w, "bias": b} | changes))
