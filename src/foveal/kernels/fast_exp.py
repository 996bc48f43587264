"""Exponential, logistic function and softplus for Numba kernels, in a form that becomes vector instructions.

A call of the mathematical library inside a loop keeps the compiler from using vector registers, and costs ten
times the arithmetic around it. In 32 bits these functions are range reductions and polynomials; in 64 bits
they call the library. They are for use inside compiled functions only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

LOG2E = 1.4426950408889634
_F = np.float32
_SMALLEST = _F(-126.0)  # powers of two below are not normal numbers; they are taken for the smallest
# 2^f on [-1/2, 1/2], fitted for the least relative error (1e-7) with the value 1 at 0.
_P1, _P2, _P3, _P4, _P5 = (
    _F(value) for value in (0.69314698, 0.24022242, 0.05550734, 0.00967151, 0.00132647)
)
_HALF, _ONE, _TWO, _LARGEST = _F(0.5), _F(1.0), _F(2.0), _F(126.0)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)  # of the exponent of a 32-bit number
_LOG2E = _F(LOG2E)
# log(1 + e) = 2 artanh(e / (2 + e)); the series in the square of that, which is at most 1/9.
_T3, _T5, _T7, _T9, _T11, _T13 = (_F(2 / k) for k in (3, 5, 7, 9, 11, 13))


@intrinsic
def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    """The 32-bit number with the given bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


def exp2(x: float) -> float:
    """2**x for x up to 127; what is below 2**-126 becomes 2**-126. Relative error 2e-7 in 32 bits."""
    return math.pow(2.0, x)


def exp(x: float) -> float:
    """exp(x) for x up to 88, like `exp2`."""
    return math.exp(x)


def logistic(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    """log(1 + exp(x)), relative error 1e-6 in 32 bits."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@overload(exp2, inline="always")
def _exp2(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.pow(2.0, x)

    def fast(x):  # type: ignore[no-untyped-def]
        x = max(x, _SMALLEST)
        k = np.floor(x + _HALF)
        f = x - k
        p = _ONE + f * (_P1 + f * (_P2 + f * (_P3 + f * (_P4 + f * _P5))))
        bits = (np.int32(k) + _BIAS) << _MANTISSA
        return p * _float_of_bits(bits)  # type: ignore[call-arg]

    return fast


@overload(exp, inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.exp(x)
    return lambda x: exp2(x * _LOG2E)


@overload(logistic, inline="always")
def _logistic(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    return lambda x: _ONE / (_ONE + exp2(min(-x * _LOG2E, _LARGEST)))


@overload(softplus, inline="always")
def _softplus(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    def fast(x):  # type: ignore[no-untyped-def]
        e = exp2(-abs(x) * _LOG2E)
        s = e / (_TWO + e)
        q = s * s
        series = _TWO + q * (_T3 + q * (_T5 + q * (_T7 + q * (_T9 + q * (_T11 + q * _T13)))))
        return max(x, _F(0.0)) + s * series

    return fast
