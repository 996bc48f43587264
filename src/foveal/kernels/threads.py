"""Numba kernels on several threads, as many as torch uses; each takes a share of the work items."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from foveal.kernels.denormals import denormals_flushed

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def on_threads(kernel: Callable[[np.ndarray], object], items: np.ndarray) -> None:
    """Call a kernel that releases the interpreter lock on shares of the items, one share a thread.

    Denormal numbers are zero to it.

    Numba's own parallel loops would stop a process that was forked from one that had used them, as a loader
    of training data is; plain threads are made anew in each process.

    Args:
        kernel: called with some rows of `items`, and writes to places that no other row writes to.
        items: (M, ...) work items of about equal cost.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        _run(kernel, items)
        return
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="foveal-kernel")
    shares = np.array_split(items, threads)
    others = [_pools[key].submit(_run, kernel, share) for share in shares[1:]]
    _run(kernel, shares[0])
    for other in others:
        other.result()


def _run(kernel: Callable[[np.ndarray], object], items: np.ndarray) -> None:
    with denormals_flushed():
        kernel(items)
