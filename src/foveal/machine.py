"""The machine: its versions and hardware, the time and memory that work takes, processes that work."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def describe_environment() -> dict[str, str]:
    """Versions and hardware that a measurement depends on, by name, ready to print."""
    import numpy
    import torch

    import foveal

    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        accelerators.append("Apple GPU (MPS)")
    return {
        "foveal": foveal.__version__,
        "torch": torch.__version__,
        "NumPy": numpy.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "accelerators": ", ".join(accelerators) or "none",
    }


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


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss counts what the process that started this one held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def added_memory(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Bytes that a piece of work adds to its process at most.

    The process is forked from one that has imported what this one has of foveal, and done nothing else.

    Args:
        prepare: makes the work, in a new process; a function of a module.
        *arguments: of it.

    Raises:
        OSError: the system does not tell, as only Linux does.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise OSError("this system does not tell how much memory a piece of work adds; Linux does")
    clean = multiprocessing.get_context("forkserver")
    # Each process runs the imports of the main module again, which then find all that they ask for.
    clean.set_forkserver_preload([prepare.__module__, *(m for m in sys.modules if m.startswith("foveal."))])
    with ProcessPoolExecutor(1, mp_context=clean) as pool:
        return pool.submit(_added, prepare, arguments).result()


def keep_freed_memory() -> bool:
    """Let this process keep large blocks of memory that were freed for the next ones of their size.

    glibc hands them back to the system, which has to clear every page of the next one first. Where large
    maps come and go, as in the network of lesions, that has taken up to a fifth of the time. The process then
    stays as large as it was at most.

    Returns:
        Whether the C library has such a setting and took it; others go on as they are.
    """
    import ctypes

    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    at_least, trim_from = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    return bool(mallopt(at_least, 1 << 30) and mallopt(trim_from, (1 << 31) - 1))


def become_worker() -> None:
    """Make this process a worker: Ctrl-C is for its parent to answer, and it ends when its parent is gone.

    An idle worker would else wait for tasks for ever.
    """

    def leave_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()


def _added(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int:
    work = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_memory()
    work()
    return peak_memory() - before


def _processor_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
