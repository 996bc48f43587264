"""What a measurement depends on, and the memory that a piece of work adds to a process of its own."""

from collections.abc import Callable
from functools import partial

from foveal.machine import added_memory, describe_environment

MIB = 2**20


def _bytes_of(size: int) -> Callable[[], bytes]:
    return partial(bytes.__mul__, b"x", size)


def test_environment_tells_versions_and_threads() -> None:
    assert {"torch", "Python", "processor", "torch threads"} <= describe_environment().keys()


def test_memory_that_work_adds_is_that_of_its_tensors() -> None:
    added = added_memory(_bytes_of, 64 * MIB)
    assert 63 * MIB < added < 80 * MIB
