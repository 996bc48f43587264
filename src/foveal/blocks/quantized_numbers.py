"""Numbers of few bits: uniform with a zero-point, powers of the square root of 2; codes packed in bytes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

OFF = 32
"""Bits at which numbers stay as they are."""


def check_bits(bits: int, what: str, *, off: bool = False) -> None:
    """Raise a ValueError for bits out of range: 2 to 8, and with `off` also 32."""
    if not (2 <= bits <= 8 or (off and bits == OFF)):
        raise ValueError(f"{what} has {bits} bits; allowed: 2 to 8{', and 32 for none' if off else ''}")


def uniform_codes(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """clamp(round(x / scale) + zero_point, 0, 2^bits - 1), as floats; scale and zero-point broadcast to x."""
    return (torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1)


def uniform(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """x on the grid of so many bits; its gradient passes where x is within the grid.

    Args:
        x: any shape.
        scale: step of the grid, above 0; broadcasts to x.
        zero_point: code of 0; broadcasts to x.
        bits: 2 to 8; 32 gives x itself.
    """
    if bits == OFF:
        return x
    whole = torch.round(x / scale) + zero_point
    codes = whole.clamp(0, 2**bits - 1)
    return _straight(x, (codes - zero_point) * scale, whole == codes)


def log_sqrt2(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """x >= 0 on the grid scale 2^(-q/2), q = 0 ... 2^bits - 1; what is smaller becomes 0.

    Args:
        x: weights of attention, any shape.
        scale: largest value of the grid.
        bits: 2 to 8; 32 gives x itself.
    """
    if bits == OFF:
        return x
    codes = torch.round(-2 * torch.log2(x / scale))  # infinite where x is 0, and then beyond the grid
    beyond = codes >= 2**bits
    codes = codes.clamp(0, 2**bits - 1)
    odd = 1 + (codes % 2) * (math.sqrt(2) - 1)
    y = torch.exp2(-torch.ceil(codes / 2)) * odd * scale
    return _straight(x, y.masked_fill(beyond, 0.0))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes 0 ... 2^bits - 1 as a stream of bits, least first: two of 4 bits a byte.

    Args:
        codes: any shape.
        bits: 2 to 8.

    Returns:
        (ceil(N bits / 8),) uint8.
    """
    check_bits(bits, "a packed code")
    places = torch.arange(bits, dtype=torch.uint8, device=codes.device)
    stream = ((codes.flatten().to(torch.uint8)[:, None] >> places) & 1).flatten()
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % 8)).view(-1, 8)
    worth = 2 ** torch.arange(8, dtype=torch.uint8, device=codes.device)
    return (stream * worth).sum(dim=1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """(count,) uint8 codes of `pack`.

    Raises:
        ValueError: bytes of another number of codes.
    """
    check_bits(bits, "a packed code")
    if len(packed) != packed_size(count, bits):
        raise ValueError(f"{len(packed)} bytes; {count} codes of {bits} bits take {packed_size(count, bits)}")
    # In floats, which hold bytes exactly: ONNX has no shifts of the kind that torch exports.
    worth = 2.0 ** torch.arange(8, device=packed.device)
    stream = torch.remainder(torch.floor(packed.float()[:, None] / worth), 2).flatten()[: count * bits]
    return (stream.view(count, bits) * worth[:bits]).sum(dim=1).to(torch.uint8)


def packed_size(count: int, bits: int) -> int:
    """Bytes of so many codes."""
    return -(-count * bits // 8)


def _straight(x: Tensor, y: Tensor, inside: Tensor | None = None) -> Tensor:
    return _Straight.apply(x, y, inside) if torch.is_grad_enabled() and x.requires_grad else y


class _Straight(torch.autograd.Function):
    """y in place of x, with x's gradient, or 0 where x is not inside the grid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, inside: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.inside = inside
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return gradient if ctx.inside is None else gradient * ctx.inside, None, None
