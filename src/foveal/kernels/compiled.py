"""Compilation of CPU kernels: Numba without the interpreter lock, cached on disk where that is possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with Numba, in nopython mode, and keep the machine code on disk.

    Numba writes beside the source file, else into the user's cache folder, else where `NUMBA_CACHE_DIR`
    says. Where none of them can be written (a read-only container) the function is still compiled, in
    every process anew.

    Args:
        function: a function in the subset of Python that Numba compiles.

    Returns:
        The function with the same signature; it compiles on its first call and releases the interpreter
        lock while it runs.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba: "cannot cache function: no locator available"
        return njit(nogil=True)(function)
