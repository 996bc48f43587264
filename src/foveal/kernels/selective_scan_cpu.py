"""Selective scan on the CPU: forward and backward as Numba kernels over blocks of channels.

A block of channels of one sequence is walked token by token with its state in the first cache; vector
registers hold neighbouring channels, so that nothing is summed across a register in the forward pass. The
backward pass walks pieces of `PIECE` tokens from the end, from the states kept at their borders, and within a
piece two states at a time, so that what it computes again stays in the nearest caches.
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
# Rows of the backward pass. Of a token: the step d, d u, the gradient before the gate, sums over states, y.
STEP, INPUT, GRADIENT, OF_INPUT, OF_STEP, OUTPUT = range(6)
RATE, CARRIED, OF_RATE = range(3)  # of a state: A, the gradient from later tokens, the gradient of A
BEFORE, DECAY = range(2)  # of a token and a state: h_{t-1}, exp(d A)
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
        dB, dC = np.empty((2, blocks, batch, length, groups, states), kind)
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
def _gate(x, gate, out):  # type: ignore[no-untyped-def]
    """out = x silu(gate)."""
    for j in range(out.size):
        out[j] = x[j] * gate[j] * logistic(gate[j])


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _gate_gradient(gate, y, grad, out):  # type: ignore[no-untyped-def]
    """out = grad y silu'(gate)."""
    one = out.dtype.type(1)  # a Python number would make this 64 bits
    for j in range(out.size):
        o = logistic(gate[j])
        out[j] = grad[j] * y[j] * o * (one + gate[j] * (one - o))


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _token_gradients(  # type: ignore[no-untyped-def]
    raw, bias, soft, x, skip, g, d, of_input, of_step, du, ddt, dskip, dbias
):
    """Gradients of one token's u and raw steps; those of D and the bias are added to.

    Rates are those of powers of two, hence the factor log 2.
    """
    log2 = du.dtype.type(LOG2)
    for j in range(du.size):
        du[j] = skip[j] * g[j] + d[j] * of_input[j]
        ddt[j] = of_step[j] * log2 + x[j] * of_input[j]
        dskip[j] += g[j] * x[j]
    if soft:
        for j in range(du.size):
            ddt[j] *= logistic(raw[j] + bias[j])
    for j in range(du.size):
        dbias[j] += ddt[j]


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _add_product(total, x, y):  # type: ignore[no-untyped-def]
    for j in range(total.size):
        total[j] += x[j] * y[j]


def _replay_of(gated: bool):  # type: ignore[no-untyped-def]
    """The recurrence of states n and n + 1 over a piece; its output is needed only before a gate."""

    @njit(nogil=True, fastmath=_MATHS, error_model="numpy", forceinline=True)
    def replay(n, count, tokens, states, state, kept, weights, read, dC):  # type: ignore[no-untyped-def]
        p = n // 2
        for k in range(count):
            b, c, b2, c2 = weights[k, n], read[k, n], weights[k, n + 1], read[k, n + 1]
            of_c, of_c2 = tokens.dtype.type(0), tokens.dtype.type(0)
            for j in range(tokens.shape[2]):
                d, du, g = tokens[STEP, k, j], tokens[INPUT, k, j], tokens[GRADIENT, k, j]
                decay, decay2 = exp2(d * states[p, 0, RATE, j]), exp2(d * states[p, 1, RATE, j])
                old, old2 = state[0, j], state[1, j]
                new, new2 = decay * old + b * du, decay2 * old2 + b2 * du
                kept[0, BEFORE, k, j], kept[1, BEFORE, k, j] = old, old2
                kept[0, DECAY, k, j], kept[1, DECAY, k, j] = decay, decay2
                state[0, j], state[1, j] = new, new2
                if gated:
                    tokens[OUTPUT, k, j] += c * new + c2 * new2
                of_c += g * new
                of_c2 += g * new2
            dC[k, n], dC[k, n + 1] = of_c, of_c2

    return replay


_replay, _replay_and_read = _replay_of(gated=False), _replay_of(gated=True)


@njit(nogil=True, fastmath=_MATHS, error_model="numpy", forceinline=True)
def _retreat(n, order, tokens, states, kept, weights, read, dB):  # type: ignore[no-untyped-def]
    """The reverse recurrence q_t = g_t C_t + a_{t+1} q_{t+1} of states n and n + 1 over a piece.

    Sums over states go to the rows OF_INPUT (q B) and OF_STEP (q a h_{t-1} A), sums over channels to dB.
    """
    p = n // 2
    for k in order:
        b, c, b2, c2 = weights[k, n], read[k, n], weights[k, n + 1], read[k, n + 1]
        of_b, of_b2 = tokens.dtype.type(0), tokens.dtype.type(0)
        for j in range(tokens.shape[2]):
            d, du, g = tokens[STEP, k, j], tokens[INPUT, k, j], tokens[GRADIENT, k, j]
            q, q2 = g * c + states[p, 0, CARRIED, j], g * c2 + states[p, 1, CARRIED, j]
            of_b += q * du
            of_b2 += q2 * du
            tokens[OF_INPUT, k, j] += q * b + q2 * b2
            q, q2 = q * kept[0, DECAY, k, j], q2 * kept[1, DECAY, k, j]
            states[p, 0, CARRIED, j], states[p, 1, CARRIED, j] = q, q2
            w, w2 = q * kept[0, BEFORE, k, j], q2 * kept[1, BEFORE, k, j]
            tokens[OF_STEP, k, j] += w * states[p, 0, RATE, j] + w2 * states[p, 1, RATE, j]
            states[p, 0, OF_RATE, j] += w * d
            states[p, 1, OF_RATE, j] += w2 * d
        dB[k, n], dB[k, n + 1] = of_b, of_b2


@njit(nogil=True, cache=True, fastmath=_MATHS, error_model="numpy")
def _backward(  # type: ignore[no-untyped-def]
    items, u, dt, A, B, C, D, z, bias, first, order, soft, gated, begun, borders, gy, glast,
    du_out, ddt_out, dz, dA, dD, dbias, dB, dC, dstate,
):  # fmt: skip
    length, states = u.shape[1], A.shape[0]
    pieces, pairs, kind = (length + PIECE - 1) // PIECE, (states + 1) // 2, u.dtype
    # Rows walked together are walked in vectors only where the compiler sees, or one test before a loop over
    # tokens shows, that they lie apart. So rows have a length that it knows; rows of one kind lie together;
    # and backwards, where that test would fail, tokens are taken from a list.
    rows = np.empty((6, PIECE, WIDEST), kind)
    kept_rows, state_rows = np.empty((2, 2, PIECE, WIDEST), kind), np.empty((2, WIDEST), kind)
    # The last of an odd number of states has a partner of zeros.
    pair_rows = np.zeros((pairs, 2, 3, WIDEST), kind)
    weights, read, of_b, of_c = (
        np.zeros((PIECE, 2 * pairs), kind),
        np.zeros((PIECE, 2 * pairs), kind),
        np.empty((PIECE, 2 * pairs), kind),
        np.empty((PIECE, 2 * pairs), kind),
    )
    backwards = np.arange(PIECE - 1, -1, -1).astype(np.uint64)
    for item in range(items.shape[0]):
        s, low, high, group, block = items[item]
        width = high - low
        tokens, of_state = rows[:, :, :width], pair_rows[:, :, :, :width]
        kept, state = kept_rows[:, :, :, :width], state_rows[:, :width]
        skip, shift = D[low:high].copy(), bias[low:high].copy()
        of_skip, of_bias = np.zeros(width, kind), np.zeros(width, kind)
        for n in range(states):
            of_state[n // 2, n % 2, RATE] = A[n, low:high]
            of_state[n // 2, n % 2, CARRIED] = glast[s, n, low:high]
            of_state[n // 2, n % 2, OF_RATE] = 0
        for piece in range(pieces - 1, -1, -1):
            start = piece * PIECE
            count = min(PIECE, length - start)
            for k in range(count):
                t = order[start + k] if order.size else start + k
                x, grad = u[s, t, low:high], gy[s, t, low:high]
                d, du, g = rows[STEP, k, :width], rows[INPUT, k, :width], rows[GRADIENT, k, :width]
                _steps(dt[s, t, low:high], shift, soft, d)
                for j in range(width):
                    du[j] = d[j] * x[j]
                    rows[OF_INPUT, k, j], rows[OF_STEP, k, j], rows[OUTPUT, k, j] = 0, 0, 0
                if gated:
                    _gate(grad, z[s, t, low:high], g)
                    _add_product(rows[OUTPUT, k, :width], skip, x)
                else:
                    for j in range(width):
                        g[j] = grad[j]
                for n in range(states):
                    weights[k, n], read[k, n] = B[s, t, group, n], C[s, t, group, n]
            for n in range(0, states, 2):
                for i in range(2):
                    if n + i < states:
                        border = borders[s, piece, n + i, low:high]
                        for j in range(width):
                            state[i, j] = border[j]
                    else:
                        state[i] = 0
                if gated:
                    _replay_and_read(n, count, tokens, of_state, state, kept, weights, read, of_c)
                else:
                    _replay(n, count, tokens, of_state, state, kept, weights, read, of_c)
                _retreat(n, backwards[PIECE - count :], tokens, of_state, kept, weights, read, of_b)
            for k in range(count):
                t = order[start + k] if order.size else start + k
                _token_gradients(
                    dt[s, t, low:high], shift, soft, u[s, t, low:high], skip, rows[GRADIENT, k],
                    rows[STEP, k], rows[OF_INPUT, k], rows[OF_STEP, k],
                    du_out[s, t, low:high], ddt_out[s, t, low:high], of_skip, of_bias,
                )  # fmt: skip
                if gated:
                    gate, of_gate = z[s, t, low:high], dz[s, t, low:high]
                    _gate_gradient(gate, rows[OUTPUT, k], gy[s, t, low:high], of_gate)
                for n in range(states):
                    dB[block, s, t, group, n], dC[block, s, t, group, n] = of_b[k, n], of_c[k, n]
        for n in range(states):
            dA[s, n, low:high] = of_state[n // 2, n % 2, OF_RATE]
            dstate[s, n, low:high] = of_state[n // 2, n % 2, CARRIED]
        dD[s, low:high] = of_skip
        dbias[s, low:high] = of_bias
