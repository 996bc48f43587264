"""Compiled kernels, and what stands in where their compiler is missing."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType


@cache
def compiled_module(name: str) -> ModuleType | None:
    """A module of this room that needs numba, or None where numba cannot be imported; that warns once."""
    try:
        return importlib.import_module(f"foveal.kernels.{name}")
    except ImportError as error:
        if not (error.name or "").startswith(("numba", "llvmlite")):
            raise
        warnings.warn(
            f"numba cannot be imported ({error}): {name} falls back to plain torch, which gives the same "
            "numbers many times slower; pip install numba",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
