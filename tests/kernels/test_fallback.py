"""Without numba the kernels are slow, not gone."""

import sys
import warnings

import pytest
import torch

from foveal.kernels.fallback import compiled_module
from foveal.kernels.selective_scan import selective_scan
from foveal.kernels.short_convolution import short_convolution


@pytest.fixture
def no_numba(monkeypatch):
    for name in list(sys.modules):
        if name.endswith(("selective_scan_cpu", "short_convolution_cpu")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    compiled_module.cache_clear()
    yield
    compiled_module.cache_clear()


def test_a_scan_without_numba_warns_once_and_gives_the_same(no_numba):
    torch.manual_seed(0)
    u, dt = torch.randn(2, 1, 9, 4)
    given = u, dt, -torch.rand(4, 3) - 0.1, torch.randn(1, 9, 3), torch.randn(1, 9, 3)
    with pytest.warns(RuntimeWarning, match="numba cannot be imported"):
        found = selective_scan(*given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = selective_scan(*given)
    assert torch.equal(found, again)
    torch.testing.assert_close(found, selective_scan(*given, backend="reference"))


def test_a_short_convolution_without_numba_gives_the_same(no_numba):
    x, taps, bias = torch.randn(1, 9, 4), torch.randn(4, 3), torch.randn(4)
    with pytest.warns(RuntimeWarning, match="short_convolution_cpu falls back"):
        found = short_convolution(x, taps, bias, silu=True)
    torch.testing.assert_close(found, short_convolution(x, taps, bias, silu=True, backend="reference"))


def test_other_import_errors_are_not_swallowed():
    with pytest.raises(ImportError):
        compiled_module("no_such_kernel")
