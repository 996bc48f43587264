"""Selective scan on the CPU: forward and backward as Numba kernels over blocks of channels.

A block of channels of one sequence is walked token by token with its state in the first cache; vector
registers hold neighbouring channels, so that nothing is summed across a register in the forward pass. The
backward pass walks pieces of `PIECE` tokens from the end, from the states kept at their borders.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from foveal.kernels.fast_exp import LOG2E, exp2, logistic, softplus
from foveal.kernels.selective_scan import ScanInput
from foveal.kernels.threads import on_threads

PIECE = 32  # tokens between two kept states
FORWARD_BLOCK, BACKWARD_BLOCK = 128, 64  # channels
# Sums may be taken in any order; NaN and infinity keep their meaning.
_MATHS = {"reassoc", "contract", "nsz", "arcp"}


def scan_on_cpu(scan: ScanInput) -> tuple[Tensor, Tensor]:
    """Output (B, L, E) and last state (B, E, N) of a checked scan."""
    return _CpuScan.apply(*scan)


class _CpuScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor | None | bool) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scan = ScanInput(*tensors)  # type: ignore[arg-type]
        arrays = _Arrays(scan)
        batch, length, channels = scan.u.shape
        pieces = -(-length // PIECE)
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        borders = np.empty((batch, pieces if keep else 1, arrays.states, channels), arrays.kind)
        y = np.empty((batch, length, channels), arrays.kind)
        last = np.empty((batch, arrays.states, channels), arrays.kind)
        items = arrays.items(FORWARD_BLOCK)
        on_threads(
            lambda some: _forward(some, *arrays.inputs, *arrays.flags, keep, borders, y, last), items
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(*(x for x in scan[:-1] if isinstance(x, Tensor)))  # type: ignore[attr-defined]
            ctx.present = [isinstance(x, Tensor) for x in scan[:-1]]  # type: ignore[attr-defined]
            ctx.softplus, ctx.borders = scan.softplus, borders  # type: ignore[attr-defined]
        return torch.from_numpy(y), torch.from_numpy(last).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept = iter(ctx.saved_tensors)  # type: ignore[attr-defined]
        given = [next(kept) if present else None for present in ctx.present]  # type: ignore[attr-defined]
        scan = ScanInput(*given, softplus=ctx.softplus)  # type: ignore[attr-defined, arg-type]
        arrays = _Arrays(scan)
        kind, states = arrays.kind, arrays.states
        batch, length, channels = scan.u.shape
        groups = scan.B.shape[2]
        gy, glast = (g.contiguous() for g in gradients)
        items = arrays.items(BACKWARD_BLOCK)
        # What several blocks of channels add to has a copy for each block; they are summed at the end.
        du, ddt = np.empty((2, batch, length, channels), kind)
        dz = np.empty((batch, length, channels) if scan.z is not None else (1, 1, 1), kind)
        dA = np.empty((batch, states, channels), kind)
        dD, dbias = np.empty((2, batch, channels), kind)
        dstate = np.empty((batch, states, channels), kind)
        blocks = len(items) // (batch * groups)
        dB, dC = np.zeros((2, blocks, batch, length, groups, states), kind)
        glast_array = np.ascontiguousarray(glast.transpose(1, 2).numpy())
        on_threads(
            lambda some: _backward(
                some, *arrays.inputs, *arrays.flags, ctx.borders, gy.numpy(), glast_array,  # type: ignore[attr-defined]
                du, ddt, dz, dA, dD, dbias, dB, dC, dstate,
            ),
            items,
        )  # fmt: skip
        from_numpy = torch.from_numpy
        return (
            from_numpy(du),
            from_numpy(ddt),
            from_numpy(dA).sum(0).T.contiguous(),
            from_numpy(dB).sum(0) if blocks > 1 else from_numpy(dB[0]),
            from_numpy(dC).sum(0) if blocks > 1 else from_numpy(dC[0]),
            from_numpy(dD).sum(0) if scan.D is not None else None,
            from_numpy(dz) if scan.z is not None else None,
            from_numpy(dbias).sum(0) if scan.dt_bias is not None else None,
            from_numpy(dstate).transpose(1, 2) if scan.initial_state is not None else None,
            None,
            None,
        )


class _Arrays:
    """The tensors of a scan as arrays for the kernels; what is not given is an array of one element."""

    def __init__(self, scan: ScanInput) -> None:
        u = scan.u.detach()
        self.kind = np.float64 if u.dtype == torch.float64 else np.float32
        self.batch, _, self.channels = u.shape
        self.groups, self.states = scan.B.shape[2:]

        def array(tensor: Tensor | None, dimensions: int) -> np.ndarray:
            if tensor is None:
                return np.zeros((1,) * dimensions, self.kind)
            return tensor.detach().contiguous().numpy()

        state = scan.initial_state
        order = np.zeros(0, np.int64) if scan.order is None else scan.order.numpy()
        self.inputs = (
            array(u, 3),
            array(scan.dt, 3),
            array(scan.A.detach().T * LOG2E, 2),
            array(scan.B, 4),
            array(scan.C, 4),
            array(scan.D, 1) if scan.D is not None else np.zeros(self.channels, self.kind),
            array(scan.z, 3),
            array(scan.dt_bias, 1) if scan.dt_bias is not None else np.zeros(self.channels, self.kind),
            array(None if state is None else state.transpose(1, 2), 3),
            order,
        )
        self.flags = (scan.softplus, scan.z is not None, state is not None)

    def items(self, width: int) -> np.ndarray:
        """(M, 5): sequence, first and last channel, group, and number of the block within its group."""
        of_group = self.channels // self.groups
        blocks = -(-of_group // width)
        edges = np.linspace(0, of_group, blocks + 1).astype(int)
        return np.array(
            [
                (b, g * of_group + edges[k], g * of_group + edges[k + 1], g, k)
                for b in range(self.batch)
                for g in range(self.groups)
                for k in range(blocks)
            ],
            np.int64,
        )


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _steps(raw, bias, soft, out):  # type: ignore[no-untyped-def]
    """Step sizes of one token."""
    if soft:
        for j in range(out.size):
            out[j] = softplus(raw[j] + bias[j])
    else:
        for j in range(out.size):
            out[j] = raw[j] + bias[j]


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _advance(d, du, rates, weights, state):  # type: ignore[no-untyped-def]
    """h <- exp(d A) h + B d u of all states of one token."""
    for n in range(state.shape[0]):
        h, rate, b = state[n], rates[n], weights[n]
        for j in range(d.size):
            h[j] = exp2(d[j] * rate[j]) * h[j] + b * du[j]


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _advance_and_read(d, du, rates, weights, read, state, out):  # type: ignore[no-untyped-def]
    """`_advance`, and out += sum over states of C h; states go in pairs to spare loads of the sums."""
    states = state.shape[0]
    for n in range(0, states - 1, 2):
        h, rate, b, c = state[n], rates[n], weights[n], read[n]
        h2, rate2, b2, c2 = state[n + 1], rates[n + 1], weights[n + 1], read[n + 1]
        for j in range(d.size):
            new = exp2(d[j] * rate[j]) * h[j] + b * du[j]
            new2 = exp2(d[j] * rate2[j]) * h2[j] + b2 * du[j]
            h[j] = new
            h2[j] = new2
            out[j] += c * new + c2 * new2
    if states % 2:
        h, rate, b, c = state[states - 1], rates[states - 1], weights[states - 1], read[states - 1]
        for j in range(d.size):
            new = exp2(d[j] * rate[j]) * h[j] + b * du[j]
            h[j] = new
            out[j] += c * new


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _forward(items, u, dt, A, B, C, D, z, bias, first, order, soft, gated, begun, keep, borders, y, last):  # type: ignore[no-untyped-def]
    length, states = u.shape[1], A.shape[0]
    for item in range(items.shape[0]):
        s, low, high, g = items[item, 0], items[item, 1], items[item, 2], items[item, 3]
        width = high - low
        d, du = np.empty(width, u.dtype), np.empty(width, u.dtype)
        state, rates = np.zeros((states, width), u.dtype), A[:, low:high].copy()
        skip, shift = D[low:high].copy(), bias[low:high].copy()
        if begun:
            state[:] = first[s, :, low:high]
        for place in range(length):
            t = order[place] if order.size else place
            if keep and place % PIECE == 0:
                borders[s, place // PIECE, :, low:high] = state
            x, out = u[s, t, low:high], y[s, t, low:high]
            _steps(dt[s, t, low:high], shift, soft, d)
            for j in range(width):
                du[j] = d[j] * x[j]
                out[j] = skip[j] * x[j]
            _advance_and_read(d, du, rates, B[s, t, g], C[s, t, g], state, out)
            if gated:
                gate = z[s, t, low:high]
                for j in range(width):
                    out[j] = out[j] * gate[j] * logistic(gate[j])
        last[s, :, low:high] = state


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _retreat(g, d, du, x, decay, before, state, rates, weights, read, carried, s_q, s_w, dA, dB, dC):  # type: ignore[no-untyped-def]
    """One token of the reverse recurrence; sums over states go to s_q (q B) and s_w (w A), over channels to dB, dC."""
    for n in range(state.shape[0]):
        h, a, e, rate, da = state[n], decay[n], carried[n], rates[n], dA[n]
        b, c = weights[n], read[n]
        of_b, of_c = b * 0, c * 0
        for j in range(g.size):
            q = g[j] * c + e[j]
            w = q * (h[j] - b * du[j])
            of_c += g[j] * h[j]
            of_b += q * du[j]
            s_q[j] += q * b
            s_w[j] += w * rate[j]
            da[j] += w * d[j]
            e[j] = q * a[j]
        dB[n] += of_b
        dC[n] += of_c


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _backward(
    items, u, dt, A, B, C, D, z, bias, first, order, soft, gated, begun, borders, gy, glast,
    du_out, ddt_out, dz, dA, dD, dbias, dB, dC, dstate,
):  # type: ignore[no-untyped-def]  # fmt: skip
    length, states = u.shape[1], A.shape[0]
    pieces = (length + PIECE - 1) // PIECE
    ln2 = np.log(2.0)
    for item in range(items.shape[0]):
        s, low, high, group, block = items[item]
        width = high - low
        rates = A[:, low:high].copy()
        skip, shift = D[low:high].copy(), bias[low:high].copy()
        hs = np.empty((PIECE + 1, states, width), u.dtype)
        decays = np.empty((PIECE, states, width), u.dtype)
        ds, dus, gs = np.empty((3, PIECE, width), u.dtype)
        s_q, s_w, inner = np.empty((3, width), u.dtype)
        of_a, of_skip, of_bias = (
            np.zeros((states, width), u.dtype),
            np.zeros(width, u.dtype),
            np.zeros(width, u.dtype),
        )
        carried = glast[s, :, low:high].copy()
        for piece in range(pieces - 1, -1, -1):
            start = piece * PIECE
            count = min(PIECE, length - start)
            hs[0] = borders[s, piece, :, low:high]
            for k in range(count):
                t = order[start + k] if order.size else start + k
                d, du, x = ds[k], dus[k], u[s, t, low:high]
                _steps(dt[s, t, low:high], shift, soft, d)
                for j in range(width):
                    du[j] = d[j] * x[j]
                for n in range(states):
                    before, h, a, rate, b = hs[k, n], hs[k + 1, n], decays[k, n], rates[n], B[s, t, group, n]
                    for j in range(width):
                        decay = exp2(d[j] * rate[j])
                        a[j] = decay
                        h[j] = decay * before[j] + b * du[j]
            for k in range(count - 1, -1, -1):
                t = order[start + k] if order.size else start + k
                x, d, du, g = u[s, t, low:high], ds[k], dus[k], gs[k]
                grad = gy[s, t, low:high]
                if gated:
                    inner[:] = 0
                    for n in range(states):
                        c, h = C[s, t, group, n], hs[k + 1, n]
                        for j in range(width):
                            inner[j] += c * h[j]
                    gate, of_gate = z[s, t, low:high], dz[s, t, low:high]
                    for j in range(width):
                        o = logistic(gate[j])
                        full = inner[j] + skip[j] * x[j]
                        of_gate[j] = grad[j] * full * o * (1 + gate[j] * (1 - o))
                        g[j] = grad[j] * gate[j] * o
                else:
                    for j in range(width):
                        g[j] = grad[j]
                s_q[:] = 0
                s_w[:] = 0
                _retreat(
                    g, d, du, x, decays[k], hs[k], hs[k + 1], rates, B[s, t, group], C[s, t, group], carried,
                    s_q, s_w, of_a, dB[block, s, t, group], dC[block, s, t, group],
                )  # fmt: skip
                raw = dt[s, t, low:high]
                of_u, of_dt = du_out[s, t, low:high], ddt_out[s, t, low:high]
                for j in range(width):
                    of_u[j] = skip[j] * g[j] + d[j] * s_q[j]
                    of_skip[j] += g[j] * x[j]
                    # rates are those of powers of two; s_w wants those of the natural exponential
                    slope = s_w[j] * ln2 + x[j] * s_q[j]
                    if soft:
                        slope = slope * logistic(raw[j] + shift[j])
                    of_dt[j] = slope
                    of_bias[j] += slope
        dA[s, :, low:high] = of_a
        dD[s, low:high] = of_skip
        dbias[s, low:high] = of_bias
        dstate[s, :, low:high] = carried
