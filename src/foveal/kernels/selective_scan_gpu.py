"""Selective scan on a GPU: forward and backward as Triton kernels that never write the states of all tokens.

A program walks one sequence for a few channels in pieces of `PIECE` tokens. Within a piece the pairs of decay
and input are joined by an associative scan in registers; the state goes from piece to piece in registers, and
into memory at the borders only when a backward pass will want it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from foveal.kernels.selective_scan import ScanInput

PIECE = 32  # tokens of one associative scan
CHANNELS = 4  # of one program


def scan_on_gpu(scan: ScanInput) -> tuple[Tensor, Tensor]:
    """Output (B, L, E) and last state (B, E, N) of a checked scan."""
    return _GpuScan.apply(*scan)


@triton.jit
def _join(decay, value, next_decay, next_value):  # type: ignore[no-untyped-def]
    """Two stretches of the recurrence as one: (a1, x1) then (a2, x2)."""
    return decay * next_decay, next_decay * value + next_value


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _rows(order, start, length, PIECE: tl.constexpr, ORDERED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Tokens of a piece in the order of the scan, and which of them exist."""
    place = start + tl.arange(0, PIECE)
    inside = (place >= 0) & (place < length)
    rows = tl.load(order + place, mask=inside, other=0) if ORDERED else place
    return rows.to(tl.int64), inside


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    u, dt, A, B, C, D, z, bias, first, order, y, borders, last, length, channels, states, groups,
    SOFT: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, SHIFT: tl.constexpr, BEGUN: tl.constexpr,
    ORDERED: tl.constexpr, KEEP: tl.constexpr, PIECE: tl.constexpr, WIDTH: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    batch, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    per_group = channels // groups
    blocks = tl.cdiv(per_group, WIDTH)
    group = block // blocks
    within = (block % blocks) * WIDTH + tl.arange(0, WIDTH)
    e, alive = group * per_group + within, within < per_group
    n = tl.arange(0, STATES)
    real = n < states
    square = alive[:, None] & real[None, :]
    rates = tl.load(A + e[:, None] * states + n[None, :], mask=square, other=-1.0)
    at_state = (batch * channels + e[:, None]) * states + n[None, :]
    state = tl.zeros((WIDTH, STATES), tl.float32)
    if BEGUN:
        state = tl.load(first + at_state, mask=square, other=0.0)
    shift = tl.load(bias + e, mask=alive, other=0.0) if SHIFT else tl.zeros((WIDTH,), tl.float32)
    skip = tl.load(D + e, mask=alive, other=0.0) if SKIP else tl.zeros((WIDTH,), tl.float32)
    place = tl.arange(0, PIECE)
    pieces = tl.cdiv(length, PIECE)
    for piece in range(pieces):
        rows, inside = _rows(order, piece * PIECE, length, PIECE, ORDERED)
        if KEEP:
            at = ((batch * pieces + piece) * channels + e[:, None]) * states + n[None, :]
            tl.store(borders + at, state, mask=square)
        seen = inside[:, None] & alive[None, :]
        at = (batch * length + rows[:, None]) * channels + e[None, :]
        x = tl.load(u + at, mask=seen, other=0.0)
        d = tl.load(dt + at, mask=seen, other=0.0) + shift[None, :]
        if SOFT:
            d = _softplus(d)
        d = tl.where(seen, d, 0.0)  # a token that is not there changes nothing
        weight_at = ((batch * length + rows[:, None]) * groups + group) * states + n[None, :]
        known = inside[:, None] & real[None, :]
        b = tl.load(B + weight_at, mask=known, other=0.0)
        c = tl.load(C + weight_at, mask=known, other=0.0)
        decay = tl.exp(d[:, :, None] * rates[None, :, :])
        value = (d * x)[:, :, None] * b[:, None, :]
        value += tl.where(place[:, None, None] == 0, decay * state[None, :, :], 0.0)
        _, h = tl.associative_scan((decay, value), 0, _join)
        state = tl.sum(tl.where(place[:, None, None] == PIECE - 1, h, 0.0), axis=0)
        out = tl.sum(h * c[:, None, :], axis=2) + skip[None, :] * x
        if GATED:
            gate = tl.load(z + at, mask=seen, other=0.0)
            out = out * gate * tl.sigmoid(gate)
        tl.store(y + at, out, mask=seen)
    tl.store(last + at_state, state, mask=square)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    u, dt, A, B, C, D, z, bias, order, borders, gy, glast,
    du, ddt, dz, dA, dB, dC, dD, dbias, dfirst, length, channels, states, groups,
    SOFT: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, SHIFT: tl.constexpr,
    ORDERED: tl.constexpr, PIECE: tl.constexpr, WIDTH: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    batch, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batches = tl.num_programs(0)
    per_group = channels // groups
    blocks = tl.cdiv(per_group, WIDTH)
    group, number = block // blocks, block % blocks
    within = number * WIDTH + tl.arange(0, WIDTH)
    e, alive = group * per_group + within, within < per_group
    n = tl.arange(0, STATES)
    real = n < states
    square = alive[:, None] & real[None, :]
    rates = tl.load(A + e[:, None] * states + n[None, :], mask=square, other=-1.0)
    at_state = (batch * channels + e[:, None]) * states + n[None, :]
    shift = tl.load(bias + e, mask=alive, other=0.0) if SHIFT else tl.zeros((WIDTH,), tl.float32)
    skip = tl.load(D + e, mask=alive, other=0.0) if SKIP else tl.zeros((WIDTH,), tl.float32)
    # a_{t+1} q_{t+1} of the token after the piece
    carried = tl.load(glast + at_state, mask=square, other=0.0)
    of_rates = tl.zeros((WIDTH, STATES), tl.float32)
    of_skip, of_shift = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    place = tl.arange(0, PIECE)
    pieces = tl.cdiv(length, PIECE)
    for turn in range(pieces):
        piece = pieces - 1 - turn
        rows, inside = _rows(order, piece * PIECE, length, PIECE, ORDERED)
        at = ((batch * pieces + piece) * channels + e[:, None]) * states + n[None, :]
        before = tl.load(borders + at, mask=square, other=0.0)
        seen = inside[:, None] & alive[None, :]
        at = (batch * length + rows[:, None]) * channels + e[None, :]
        x = tl.load(u + at, mask=seen, other=0.0)
        raw = tl.load(dt + at, mask=seen, other=0.0) + shift[None, :]
        d = tl.where(seen, _softplus(raw) if SOFT else raw, 0.0)
        weight_at = ((batch * length + rows[:, None]) * groups + group) * states + n[None, :]
        known = inside[:, None] & real[None, :]
        b = tl.load(B + weight_at, mask=known, other=0.0)
        c = tl.load(C + weight_at, mask=known, other=0.0)
        decay = tl.exp(d[:, :, None] * rates[None, :, :])
        own = (d * x)[:, :, None] * b[:, None, :]
        value = own + tl.where(place[:, None, None] == 0, decay * before[None, :, :], 0.0)
        _, h = tl.associative_scan((decay, value), 0, _join)
        g = tl.load(gy + at, mask=seen, other=0.0)
        if GATED:
            gate = tl.load(z + at, mask=seen, other=0.0)
            o = tl.sigmoid(gate)
            full = tl.sum(h * c[:, None, :], axis=2) + skip[None, :] * x
            tl.store(dz + at, g * full * o * (1 + gate * (1 - o)), mask=seen)
            g = g * gate * o
        # q_t = g_t C_t + a_{t+1} q_{t+1}; within the piece a_{t+1} is that of the next row
        next_rows, next_inside = _rows(order, piece * PIECE + 1, length, PIECE, ORDERED)
        next_seen = next_inside[:, None] & alive[None, :]
        next_at = (batch * length + next_rows[:, None]) * channels + e[None, :]
        next_raw = tl.load(dt + next_at, mask=next_seen, other=0.0) + shift[None, :]
        next_d = tl.where(next_seen, _softplus(next_raw) if SOFT else next_raw, 0.0)
        next_decay = tl.exp(next_d[:, :, None] * rates[None, :, :])
        end = place[:, None, None] == PIECE - 1
        pulled = g[:, :, None] * c[:, None, :] + tl.where(end, carried[None, :, :], 0.0)
        _, q = tl.associative_scan((tl.where(end, 1.0, next_decay), pulled), 0, _join, reverse=True)
        carried = tl.sum(tl.where(place[:, None, None] == 0, decay * q, 0.0), axis=0)
        w = q * (h - own)
        of_b, of_c = tl.sum(q * (d * x)[:, :, None], axis=1), tl.sum(g[:, :, None] * h, axis=1)
        part = ((number * batches + batch) * length + rows[:, None]) * groups + group
        tl.store(dB + part * states + n[None, :], of_b, mask=known)
        tl.store(dC + part * states + n[None, :], of_c, mask=known)
        s_q = tl.sum(q * b[:, None, :], axis=2)
        tl.store(du + at, skip[None, :] * g + d * s_q, mask=seen)
        slope = tl.sum(w * rates[None, :, :], axis=2) + x * s_q
        if SOFT:
            slope = slope * tl.sigmoid(raw)
        slope = tl.where(seen, slope, 0.0)
        tl.store(ddt + at, slope, mask=seen)
        of_rates += tl.sum(w * d[:, :, None], axis=0)
        of_skip += tl.sum(g * x, axis=0)
        of_shift += tl.sum(slope, axis=0)
    tl.store(dA + at_state, of_rates, mask=square)
    tl.store(dD + batch * channels + e, of_skip, mask=alive)
    tl.store(dbias + batch * channels + e, of_shift, mask=alive)
    tl.store(dfirst + at_state, carried, mask=square)


class _GpuScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor | bool | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scan = _in_32_bits(ScanInput(*tensors))  # type: ignore[arg-type]
        batch, length, channels = scan.u.shape
        groups, states = scan.B.shape[2:]
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        pieces = triton.cdiv(length, PIECE) if keep else 1
        borders = scan.u.new_empty(batch, pieces, channels, states)
        y, last = torch.empty_like(scan.u), scan.u.new_empty(batch, channels, states)
        nothing = scan.u
        _forward_kernel[_grid(scan)](
            *(nothing if x is None else x for x in scan[:-1]), y, borders, last,
            length, channels, states, groups, **_flags(scan), BEGUN=scan.initial_state is not None, KEEP=keep,
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(borders, *(x for x in scan[:9] if x is not None))  # type: ignore[attr-defined]
            ctx.present = [x is not None for x in scan[:9]]  # type: ignore[attr-defined]
            ctx.order = scan.order  # type: ignore[attr-defined]
            ctx.softplus, ctx.kind = scan.softplus, tensors[0].dtype  # type: ignore[attr-defined, union-attr]
        return y.to(tensors[0].dtype), last.to(tensors[0].dtype)  # type: ignore[union-attr]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        borders, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        rest = iter(kept)
        given = [next(rest) if present else None for present in ctx.present]  # type: ignore[attr-defined]
        scan = ScanInput(*given, order=ctx.order, softplus=ctx.softplus)  # type: ignore[attr-defined, arg-type, misc]
        batch, length, channels = scan.u.shape
        groups, states = scan.B.shape[2:]
        gy, glast = (g.float().contiguous() for g in gradients)
        grid = _grid(scan)
        blocks = grid[1] // groups
        du, ddt, dz = (torch.empty_like(scan.u) for _ in range(3))
        dA, dfirst = scan.u.new_empty(2, batch, channels, states)
        dD, dbias = scan.u.new_empty(2, batch, channels)
        dB, dC = scan.u.new_empty(2, blocks, batch, length, groups, states)
        nothing = scan.u
        inputs = (nothing if x is None else x for x in (*scan[:8], scan.order))
        _backward_kernel[grid](
            *inputs, borders, gy, glast, du, ddt, dz, dA, dB, dC, dD, dbias, dfirst,
            length, channels, states, groups, **_flags(scan),
        )  # fmt: skip
        found = (
            du, ddt, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0), dfirst,
        )  # fmt: skip
        cast = (
            g.to(ctx.kind) if present else None  # type: ignore[attr-defined]
            for g, present in zip(found, ctx.present, strict=False)  # type: ignore[attr-defined]
        )
        return (*cast, None, None)


def _in_32_bits(scan: ScanInput) -> ScanInput:
    """Contiguous tensors of 32 bits, also where the input has 64: the kernels know no other."""
    tensors = (None if x is None else x.detach().float().contiguous() for x in scan[:9])
    order = None if scan.order is None else scan.order.contiguous()
    return ScanInput(*tensors, order=order, softplus=scan.softplus)  # type: ignore[arg-type, misc]


def _grid(scan: ScanInput) -> tuple[int, int]:
    groups = scan.B.shape[2]
    return scan.u.shape[0], groups * triton.cdiv(scan.u.shape[2] // groups, CHANNELS)


def _flags(scan: ScanInput) -> dict[str, int | bool]:
    """What the kernels are compiled for."""
    return {
        "SOFT": scan.softplus,
        "SKIP": scan.D is not None,
        "GATED": scan.z is not None,
        "SHIFT": scan.dt_bias is not None,
        "ORDERED": scan.order is not None,
        "PIECE": PIECE,
        "WIDTH": CHANNELS,
        "STATES": triton.next_power_of_2(scan.A.shape[1]),
    }
