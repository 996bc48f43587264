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

PIECE = 16  # tokens between two kept states
WIDEST, NARROWEST = 384, 32  # channels of a block
LOG2 = float(np.log(2.0))
# Sums may be taken in any order; NaN and infinity keep their meaning.
_MATHS = {"reassoc", "contract", "nsz", "arcp"}


def scan_on_cpu(scan: ScanInput) -> tuple[Tensor, Tensor]:
    """Output (B, L, E) and last state (B, E, N) of a checked scan."""
    return _CpuScan.apply(*scan)


class _CpuScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: Tensor | bool | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scan = ScanInput(*tensors)  # type: ignore[arg-type]
        arrays = _Arrays(scan)
        batch, length, channels = scan.u.shape
        pieces = -(-length // PIECE)
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        borders = np.empty((batch, pieces if keep else 1, arrays.states, channels), arrays.kind)
        y = np.empty((batch, length, channels), arrays.kind)
        last = np.empty((batch, arrays.states, channels), arrays.kind)
        items = arrays.items()
        on_threads(lambda some: _forward(some, *arrays.inputs, *arrays.flags, keep, borders, y, last), items)
        if keep:
            kept = (torch.from_numpy(borders), *(x for x in scan[:9] if isinstance(x, Tensor)))
            ctx.save_for_backward(*kept)  # type: ignore[attr-defined]
            ctx.present = [isinstance(x, Tensor) for x in scan[:9]]  # type: ignore[attr-defined]
            # no gradient: an order may come from inference mode, whose tensors cannot be saved
            ctx.order, ctx.softplus = scan.order, scan.softplus  # type: ignore[attr-defined]
        return torch.from_numpy(y), torch.from_numpy(last).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        borders, *others = ctx.saved_tensors  # type: ignore[attr-defined]
        kept = iter(others)
        given = [next(kept) if present else None for present in ctx.present]  # type: ignore[attr-defined]
        scan = ScanInput(*given, order=ctx.order, softplus=ctx.softplus)  # type: ignore[attr-defined, arg-type, misc]
        arrays = _Arrays(scan)
        kind, states = arrays.kind, arrays.states
        batch, length, channels = scan.u.shape
        groups = scan.B.shape[2]
        gy, glast = (g.contiguous() for g in gradients)
        items = arrays.items()
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
                some, *arrays.inputs, *arrays.flags, borders.numpy(), gy.numpy(), glast_array,
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

    def items(self) -> np.ndarray:
        """(M, 5): sequence, first and last channel, group, and number of the block within its group.

        Wide blocks walk faster; narrower ones are made where threads would have nothing to do.
        """
        of_group = self.channels // self.groups
        shares = -(-torch.get_num_threads() // (self.batch * self.groups))
        blocks = max(-(-of_group // WIDEST), min(shares, of_group // NARROWEST))
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
def _advance(d, du, rates, weights, state, decays, kept):  # type: ignore[no-untyped-def]
    """h <- exp(d A) h + B d u of all states of one token; decays and states are kept."""
    for n in range(state.shape[0]):
        b = weights[n]
        for j in range(d.size):
            decay = exp2(d[j] * rates[n, j])
            new = decay * state[n, j] + b * du[j]
            decays[n, j] = decay
            state[n, j] = new
            kept[n, j] = new


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _advance_and_read(d, du, rates, weights, read, state, out):  # type: ignore[no-untyped-def]
    """h <- exp(d A) h + B d u, and out += sum over states of C h; in pairs, to spare loads of out."""
    states = state.shape[0]
    for n in range(0, states - 1, 2):
        b, c, b2, c2 = weights[n], read[n], weights[n + 1], read[n + 1]
        for j in range(d.size):
            new = exp2(d[j] * rates[n, j]) * state[n, j] + b * du[j]
            new2 = exp2(d[j] * rates[n + 1, j]) * state[n + 1, j] + b2 * du[j]
            state[n, j] = new
            state[n + 1, j] = new2
            out[j] += c * new + c2 * new2
    if states % 2:
        n = states - 1
        b, c = weights[n], read[n]
        for j in range(d.size):
            new = exp2(d[j] * rates[n, j]) * state[n, j] + b * du[j]
            state[n, j] = new
            out[j] += c * new


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _forward(  # type: ignore[no-untyped-def]
    items, u, dt, A, B, C, D, z, bias, first, order, soft, gated, begun, keep, borders, y, last
):
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
                _gate(out, z[s, t, low:high], out)
        last[s, :, low:high] = state


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _retreat(  # type: ignore[no-untyped-def]
    g, d, du, decays, state, rates, weights, read, carried, s_q, s_w, dA, dB, dC
):
    """One token of the reverse recurrence q_t = g_t C_t + a_{t+1} q_{t+1}.

    Sums over states go to s_q (q B) and s_w (q a h_{t-1} A), sums over channels to dB and dC.
    """
    for n in range(state.shape[0]):
        b, c = weights[n], read[n]
        of_b, of_c = g.dtype.type(0), g.dtype.type(0)
        for j in range(g.size):
            q = g[j] * c + carried[n, j]
            w = q * (state[n, j] - b * du[j])
            of_c += g[j] * state[n, j]
            of_b += q * du[j]
            s_q[j] += q * b
            s_w[j] += w * rates[n, j]
            dA[n, j] += w * d[j]
            carried[n, j] = q * decays[n, j]
        dB[n] += of_b
        dC[n] += of_c


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _gate(x, gate, out):  # type: ignore[no-untyped-def]
    """out = x silu(gate)."""
    for j in range(out.size):
        out[j] = x[j] * gate[j] * logistic(gate[j])


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _gate_gradient(gate, y, grad, out):  # type: ignore[no-untyped-def]
    """out = grad y silu'(gate)."""
    for j in range(out.size):
        o = logistic(gate[j])
        out[j] = grad[j] * y[j] * o * (1 + gate[j] * (1 - o))


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _input_gradient(skip, g, d, s_q, out):  # type: ignore[no-untyped-def]
    """out = D g + d sum q B."""
    for j in range(out.size):
        out[j] = skip[j] * g[j] + d[j] * s_q[j]


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _step_gradient(raw, bias, soft, x, s_q, s_w, out):  # type: ignore[no-untyped-def]
    """Gradient of the raw steps; rates are those of powers of two, hence the factor log 2."""
    log2 = out.dtype.type(LOG2)
    for j in range(out.size):
        out[j] = s_w[j] * log2 + x[j] * s_q[j]
    if soft:
        for j in range(out.size):
            out[j] *= logistic(raw[j] + bias[j])


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _add_product(total, x, y):  # type: ignore[no-untyped-def]
    for j in range(total.size):
        total[j] += x[j] * y[j]


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _add(total, x):  # type: ignore[no-untyped-def]
    for j in range(total.size):
        total[j] += x[j]


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _backward(  # type: ignore[no-untyped-def]
    items, u, dt, A, B, C, D, z, bias, first, order, soft, gated, begun, borders, gy, glast,
    du_out, ddt_out, dz, dA, dD, dbias, dB, dC, dstate,
):  # fmt: skip
    length, states = u.shape[1], A.shape[0]
    pieces = (length + PIECE - 1) // PIECE
    for item in range(items.shape[0]):
        s, low, high, group, block = items[item]
        width = high - low
        rates = A[:, low:high].copy()
        skip, shift = D[low:high].copy(), bias[low:high].copy()
        # Arrays of their own, each: the compiler proves them apart, and uses vector registers.
        hs, decays = np.empty((PIECE, states, width), u.dtype), np.empty((PIECE, states, width), u.dtype)
        ds, dus = np.empty((PIECE, width), u.dtype), np.empty((PIECE, width), u.dtype)
        g, s_q, s_w = np.empty(width, u.dtype), np.empty(width, u.dtype), np.empty(width, u.dtype)
        inner, state = np.empty(width, u.dtype), np.empty((states, width), u.dtype)
        of_a, of_skip, of_bias = (
            np.zeros((states, width), u.dtype),
            np.zeros(width, u.dtype),
            np.zeros(width, u.dtype),
        )
        carried = glast[s, :, low:high].copy()
        for piece in range(pieces - 1, -1, -1):
            start = piece * PIECE
            count = min(PIECE, length - start)
            state[:] = borders[s, piece, :, low:high]
            for k in range(count):
                t = order[start + k] if order.size else start + k
                d, du, x = ds[k], dus[k], u[s, t, low:high]
                _steps(dt[s, t, low:high], shift, soft, d)
                for j in range(width):
                    du[j] = d[j] * x[j]
                _advance(d, du, rates, B[s, t, group], state, decays[k], hs[k])
            for k in range(count - 1, -1, -1):
                t = order[start + k] if order.size else start + k
                x, d, du = u[s, t, low:high], ds[k], dus[k]
                grad = gy[s, t, low:high]
                if gated:
                    inner[:] = 0
                    for n in range(states):
                        c = C[s, t, group, n]
                        for j in range(width):
                            inner[j] += c * hs[k, n, j]
                    _add_product(inner, skip, x)
                    _gate_gradient(z[s, t, low:high], inner, grad, dz[s, t, low:high])
                    _gate(grad, z[s, t, low:high], g)
                else:
                    for j in range(width):
                        g[j] = grad[j]
                s_q[:] = 0
                s_w[:] = 0
                _retreat(
                    g, d, du, decays[k], hs[k], rates, B[s, t, group], C[s, t, group], carried,
                    s_q, s_w, of_a, dB[block, s, t, group], dC[block, s, t, group],
                )  # fmt: skip
                of_dt = ddt_out[s, t, low:high]
                _input_gradient(skip, g, d, s_q, du_out[s, t, low:high])
                _step_gradient(dt[s, t, low:high], shift, soft, x, s_q, s_w, of_dt)
                _add_product(of_skip, g, x)
                _add(of_bias, of_dt)
        dA[s, :, low:high] = of_a
        dD[s, low:high] = of_skip
        dbias[s, low:high] = of_bias
        dstate[s, :, low:high] = carried
