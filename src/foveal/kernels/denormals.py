"""Numbers too small to be normal, taken for zero while a kernel runs: most processors are slow with them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Bits of the x86 control register: results (15) and operands (6) that are not normal count as zero.
_FLUSH = (1 << 15) | (1 << 6)
_HAS_REGISTER = platform.machine().lower() in ("x86_64", "amd64")


@intrinsic
def _swap_control(typing_context: Any, new: Any) -> Any:
    """Set the control register of the calling thread if `new` is 0 or more; returns the one before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        save, load = (
            builder.module.declare_intrinsic(f"llvm.x86.sse.{name}", fnty=kind)
            for name in ("stmxcsr", "ldmxcsr")
        )
        place = builder.alloca(ir.IntType(32))
        address = builder.bitcast(place, ir.IntType(8).as_pointer())
        builder.call(save, [address])
        before = builder.load(place)
        wanted = arguments[0]
        is_given = builder.icmp_signed(">=", wanted, ir.Constant(ir.IntType(32), 0))
        builder.store(builder.select(is_given, wanted, before), place)
        builder.call(load, [address])
        return before

    return types.int32(types.int32), generate


@njit(nogil=True, cache=True)
def _control(new):  # type: ignore[no-untyped-def]
    return _swap_control(new)  # type: ignore[call-arg]


if _HAS_REGISTER:

    @njit(nogil=True, cache=True)
    def flush_denormals():  # type: ignore[no-untyped-def]
        """Take denormal numbers for zero in the calling thread from now on; gives what to restore."""
        before = _control(np.int32(-1))
        _control(np.int32(before | _FLUSH))
        return before

    @njit(nogil=True, cache=True)
    def restore_denormals(before):  # type: ignore[no-untyped-def]
        """Treat them as before."""
        _control(np.int32(before))

else:

    @njit(nogil=True, cache=True)
    def flush_denormals():  # type: ignore[no-untyped-def]
        """Other processors are left alone."""
        return np.int32(0)

    @njit(nogil=True, cache=True)
    def restore_denormals(before):  # type: ignore[no-untyped-def]
        """Other processors are left alone."""


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take denormal numbers for zero in the calling thread, on x86; elsewhere this does nothing."""
    before = flush_denormals()
    try:
        yield
    finally:
        restore_denormals(before)
