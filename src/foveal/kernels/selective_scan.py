"""Selective scan, the recurrence of Mamba (Gu and Dao, arXiv 2312.00752), on CPU and GPU.

Per channel d and state n, over the tokens t of a sequence:

    d_t = softplus(dt_t + dt_bias)
    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t
    y_t = (sum_n C_t h_t + D u_t) silu(z_t)

All paths compute steps, decays, states and sums in 32 bits (64 where the input has 64), whatever the type of
the input, and none keeps the states of all tokens: the backward pass computes them again from those at a few
borders. `auto` takes the Numba kernel for tensors on the CPU, the Triton kernel on a GPU, and the loop in
torch elsewhere. On a GPU the values of tensors are not checked, since that would wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.fallback import compiled_module
from foveal.kernels.orders import checked_order
from foveal.kernels.overriding import overridable

Backend = Literal["auto", "reference", "compiled", "triton"]
BACKENDS: tuple[Backend, ...] = ("auto", "reference", "compiled", "triton")


class ScanInput(NamedTuple):
    """Checked tensors of one scan, of one floating type on one device.

    `u`, `dt`, `z`: (B, L, E); `A`: (E, N); `B`, `C`: (B, L, G, N); `D`, `dt_bias`: (E,);
    `initial_state`: (B, E, N); `order`: (L,) int64.
    """

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None
    order: Tensor | None
    softplus: bool


@overridable
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = True,
    initial_state: Tensor | None = None,
    order: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """The output of a selective scan; differentiable in every tensor.

    Args:
        u: (B, L, E) input sequence, one row a token. Channels come last here, unlike in mamba_ssm.
        dt: (B, L, E) raw step sizes.
        A: (E, N) rates, all below 0.
        B: (B, L, G, N) input weights, or (B, L, N) for one group; channel e is of group e // (E / G).
        C: (B, L, G, N) output weights, or (B, L, N).
        D: (E,) skip weights.
        z: (B, L, E) gate.
        dt_bias: (E,) added to the raw steps.
        softplus: take the softplus of the steps; else they are taken as they are and should be >= 0.
        initial_state: (B, E, N) state before the first token; zero by default.
        order: (L,) int64, a permutation: the scan visits row order[0] first. Rows of the output lie where
            their input lay, so that no route over a grid needs a copy in its order or back.
        backend: which path; see the module.

    Returns:
        (B, L, E), of the type of `u`.

    Raises:
        ValueError: shapes that do not fit, no token, A >= 0, or an order that is no permutation.
        TypeError: integers where floating numbers are needed.
        FloatingPointError: the output is not finite; names the input that is not.
    """
    return _scan(u, dt, A, B, C, D, z, dt_bias, softplus, initial_state, order, backend)[0]


@overridable
def selective_scan_with_state(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = True,
    initial_state: Tensor | None = None,
    order: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Like `selective_scan`, and the state (B, E, N) after the last token, to go on from."""
    return _scan(u, dt, A, B, C, D, z, dt_bias, softplus, initial_state, order, backend)


@overridable
def selective_scan_step(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = True,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One token of a scan: output (B, E) and the next state (B, E, N).

    Arguments are those of `selective_scan` without the axis of tokens.
    """
    gate = None if z is None else z[:, None]
    rows = u[:, None], dt[:, None], A, B[:, None], C[:, None]
    y, state = _scan(*rows, D, gate, dt_bias, softplus, state, None, "reference")
    return y[:, 0], state


def scan_flops(batch: int, tokens: int, channels: int, states: int, *, skip: bool, gate: bool) -> int:
    """Operations of a forward scan by the usual convention: 9 B L E N, and B L E each for skip and gate."""
    return batch * tokens * channels * (9 * states + skip + gate)


def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    initial_state: Tensor | None,
    order: Tensor | None,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    scan = _check(u, dt, A, B, C, D, z, dt_bias, softplus, initial_state, order)
    y, state = _path(backend, scan.u)(scan)
    # A number that is not finite anywhere in u, dt, B or C reaches the sum of the output.
    if y.device.type == "cpu" and not torch.isfinite(y.detach().sum()):
        _complain_of_what_is_not_finite(scan, y)
    return y.to(u.dtype), state


def _path(backend: Backend, u: Tensor) -> Callable[[ScanInput], tuple[Tensor, Tensor]]:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; allowed: {', '.join(BACKENDS)}")
    if backend == "auto":
        paths: dict[str, Backend] = {"cpu": "compiled", "cuda": "triton"}
        backend = paths.get(u.device.type, "reference")
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            backend = "reference"
    if backend == "compiled":
        if u.device.type != "cpu":
            raise ValueError(f"backend='compiled' takes tensors on the CPU, got {u.device}")
        compiled = compiled_module("selective_scan_cpu")
        return reference_scan if compiled is None else compiled.scan_on_cpu  # type: ignore[no-any-return]
    if backend == "triton":
        from foveal.kernels.selective_scan_gpu import scan_on_gpu

        return scan_on_gpu
    return reference_scan


def reference_scan(scan: ScanInput) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written, token by token, in plain torch; differentiated by autograd."""
    u, A = scan.u, scan.A
    step = scan.dt if scan.dt_bias is None else scan.dt + scan.dt_bias
    if scan.softplus:
        step = F.softplus(step)
    per_group = u.shape[-1] // scan.B.shape[2]
    state = scan.initial_state
    if state is None:
        state = u.new_zeros(u.shape[0], *A.shape)
    # `unbind` and not indices: the gradient of each index would be as long as the sequence.
    tokens = list(zip(*(x.unbind(1) for x in (step, u, scan.B, scan.C)), strict=True))
    outputs: dict[int, Tensor] = {}
    for t in range(len(tokens)) if scan.order is None else scan.order.tolist():
        d, x = tokens[t][0][..., None], tokens[t][1][..., None]
        B, C = (weights.repeat_interleave(per_group, dim=1) for weights in tokens[t][2:])  # (B, E, N)
        state = torch.exp(d * A) * state + d * B * x
        outputs[t] = (C * state).sum(dim=-1)
    y = torch.stack([outputs[t] for t in range(len(tokens))], dim=1)
    if scan.D is not None:
        y = y + scan.D * u
    if scan.z is not None:
        y = y * F.silu(scan.z)
    return y, state


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    initial_state: Tensor | None,
    order: Tensor | None,
) -> ScanInput:
    """Refuse what does not fit, and bring the rest to one floating type."""
    tensors = {"u": u, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    tensors["initial_state"] = initial_state
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is of type {tensor.dtype}; a selective scan takes floating numbers")
    if u.ndim != 3 or u.shape[1] == 0 or A.ndim != 2:
        raise ValueError(
            f"u of shape {tuple(u.shape)} and A of {tuple(A.shape)}; allowed: (B, L, E) with at least one "
            "token, and (E, N)"
        )
    if B.ndim == 3:
        B = B.unsqueeze(2)
    if C.ndim == 3:
        C = C.unsqueeze(2)
    batch, length, channels = u.shape
    states = A.shape[1]
    if B.ndim != 4 or channels % max(B.shape[2], 1) or not B.shape[2]:
        raise ValueError(
            f"B of shape {tuple(B.shape)} for {channels} channels; allowed: (B, L, G, N) with a number of "
            "groups G that divides the channels"
        )
    wanted: dict[str, tuple[tuple[int, ...], Tensor | None]] = {
        "dt": ((batch, length, channels), dt),
        "A": ((channels, states), A),
        "B": ((batch, length, B.shape[2], states), B),
        "C": ((batch, length, B.shape[2], states), C),
        "D": ((channels,), D),
        "z": ((batch, length, channels), z),
        "dt_bias": ((channels,), dt_bias),
        "initial_state": ((batch, channels, states), initial_state),
    }
    for name, (shape, value) in wanted.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; for u of {tuple(u.shape)} it is {shape}"
            )
    if A.device.type == "cpu" and bool((A.detach() >= 0).any()):
        worst = float(A.detach().max())
        raise ValueError(f"A has entries up to {worst:.4g}; all must be below 0, or the state grows")
    if order is not None:
        order = checked_order(order, length, u.device)
    wide = any(tensor.dtype == torch.float64 for tensor in given.values())
    kind = torch.float64 if wide else torch.float32

    def cast(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(kind)

    return ScanInput(
        u.to(kind), dt.to(kind), A.to(kind), B.to(kind), C.to(kind),
        cast(D), cast(z), cast(dt_bias), cast(initial_state), order, softplus,
    )  # fmt: skip


def _complain_of_what_is_not_finite(scan: ScanInput, y: Tensor) -> None:
    for name in ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state"):
        tensor = getattr(scan, name)
        if tensor is not None and not torch.isfinite(tensor).all():
            places = int((~torch.isfinite(tensor)).sum())
            raise FloatingPointError(
                f"{name} holds {places} of {tensor.numel()} values that are NaN or infinite; "
                "a selective scan takes finite numbers"
            )
    if not torch.isfinite(y).all():
        raise FloatingPointError("the output of the selective scan overflows, although its inputs are finite")
