"""Denormal numbers while kernels run."""

import platform

import numpy as np
import pytest
from numba import njit

from foveal.kernels.denormals import denormals_flushed
from foveal.kernels.threads import on_threads


@njit
def halved(x):
    return x * np.float32(0.5)


SMALLEST_NORMAL = np.float32(2.0**-126)
x86_only = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86 has this register"
)


@x86_only
def test_denormals_are_zero_inside_and_back_outside():
    with denormals_flushed():
        assert halved(SMALLEST_NORMAL) == 0
    assert halved(SMALLEST_NORMAL) > 0


@x86_only
def test_control_is_restored_after_an_error():
    with pytest.raises(RuntimeError), denormals_flushed():
        raise RuntimeError
    assert halved(SMALLEST_NORMAL) > 0


@x86_only
def test_kernels_on_threads_flush_denormals():
    found = np.ones(4, np.float32)

    def kernel(items):
        for item in items:
            found[item] = halved(SMALLEST_NORMAL)

    on_threads(kernel, np.arange(4))
    assert not found.any()
