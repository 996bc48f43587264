"""Compiled work on torch's own team of threads: a second team would take turns with it, and wait for it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveal.kernels.threads import on_threads

_BEGUN_IN = os.getpid()


def on_team(work: Any, job: ctypes.Array[Any], threads: int) -> None:
    """Call compiled work on several threads at once and wait for all.

    They are those of torch's OpenMP, still awake from its last operation. Where torch is built with another
    one, and in a process that was forked, which has lost them, they are plain threads.

    Args:
        work: a `numba.cfunc` of the job's address. All threads call it with the same one; it shares the work
            out, with `take`.
        job: what it works on; it stays where it is meanwhile.
        threads: of which this one is one.
    """
    address = ctypes.addressof(job)
    if threads <= 1:
        work.ctypes(address)
    elif (parallel := _parallel()) is not None and os.getpid() == _BEGUN_IN:
        parallel(work.address, address, threads, 0)
    else:
        on_threads(lambda _some: work.ctypes(address), np.arange(threads))


@cache
def _parallel() -> Callable[..., None] | None:
    """`GOMP_parallel` of the library that torch uses itself."""
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return found
