"""What passes through encoders cost: times taken in turn in one run, and memory in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from foveal.recipes.evidence import peak_memory


def seconds_of(work: Mapping[str, Callable[[], Any]], *, rounds: int = 7) -> dict[str, float]:
    """Least wall time of each piece of work over rounds in which all take turns, after one to warm up."""
    for piece in work.values():
        piece()
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, piece in work.items():
            begun = time.perf_counter()
            piece()
            found[name].append(time.perf_counter() - begun)
    return {name: min(times) for name, times in found.items()}


def added_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Bytes that a piece of work adds to its process at most.

    Args:
        prepare: makes the work, in a new process; a function of a module.
        *arguments: of it.

    Raises:
        OSError: the system does not tell, as only Linux does.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_added, prepare, arguments).result()


def _added(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int:
    work = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_memory()
    work()
    return peak_memory() - before
