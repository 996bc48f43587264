"""What a measurement depends on, and the memory that a piece of work adds to a process of its own."""

import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from foveal.machine import added_memory, describe_environment

MIB = 2**20


def _bytes_of(size: int) -> Callable[[], bytes]:
    return partial(bytes.__mul__, b"x", size)


def test_environment_tells_versions_and_threads() -> None:
    assert {"torch", "Python", "processor", "torch threads"} <= describe_environment().keys()


def test_memory_that_work_adds_is_that_of_its_tensors() -> None:
    added = added_memory(_bytes_of, 64 * MIB)
    assert 63 * MIB < added < 80 * MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_blocks_are_used_again_without_new_pages() -> None:
    code = """
import resource, sys
import numpy as np
from foveal.machine import keep_freed_memory
assert keep_freed_memory() if sys.argv[1] == "keep" else True
def fill():
    np.ones(3_000_000)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill(), np.ones(5_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    keep, hand_back = (
        int(subprocess.run([sys.executable, "-c", code, how], check=True, capture_output=True).stdout)
        for how in ("keep", "plain")
    )
    assert keep < hand_back / 2
