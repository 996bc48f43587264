"""Recurrence with one scalar decay a head: retention, Mamba-2's SSD and linear attention are cases of it.

Per head, over the tokens t of a sequence, with a state S of key width x value width:

    S_t = exp(a_t) S_{t-1} + k_t^T v_t
    o_t = q_t S_t

Retention (arXiv 2307.08621, 2310.19731) has one fixed a a head, linear attention a = 0, and SSD (Mamba-2,
arXiv 2405.21060) a = d_t A, k = B, q = C shared by groups of heads, v = d_t x. Three forms give the same
numbers: `parallel` is one masked matrix of L x L scores, `recurrent` goes token by token, and `chunkwise` is
parallel within chunks and recurrent between them, so that cost and memory are linear in L. All compute in
32 bits (64 where an input has 64).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from foveal.kernels.overriding import overridable

Form = Literal["parallel", "recurrent", "chunkwise"]
FORMS: tuple[Form, ...] = ("parallel", "recurrent", "chunkwise")

# Longer sequences keep only the states at the borders of segments for the backward pass, and compute what
# lies between them again.
RECOMPUTE_ABOVE = 4096
# Scores that one segment of chunks holds at once; bounds memory for any batch, and stays near the caches.
_SCORES_AT_ONCE = 1 << 22


@overridable
def gated_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    form: Form = "chunkwise",
    chunk: int = 64,
    initial_state: Tensor | None = None,
) -> Tensor:
    """The output of the recurrence; differentiable in every tensor.

    Args:
        q: (B, L, G, K) queries; head h is of group h // (H / G), so that G = H gives each head its own.
        k: (B, L, G, K) keys.
        v: (B, L, H, V) values.
        log_decay: a_t <= 0: (H,) where fixed, (B, L, H) where each token has its own; 0 forgets nothing.
        form: how it is computed; see the module.
        chunk: tokens of a chunk, for `chunkwise`; any length L will do.
        initial_state: (B, H, K, V) state before the first token, 32 or 64 bits; zero by default.

    Returns:
        (B, L, H, V), of the type of `v`.

    Raises:
        ValueError: shapes that do not fit, no token, a decay above 1, chunk < 1, or an unknown form.
        TypeError: integers where floating numbers are needed, or a state in half precision.
    """
    return gated_recurrence_with_state(
        q, k, v, log_decay, form=form, chunk=chunk, initial_state=initial_state
    )[0]


@overridable
def gated_recurrence_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    form: Form = "chunkwise",
    chunk: int = 64,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Like `gated_recurrence`, and the state (B, H, K, V) after the last token, to go on from."""
    if form not in FORMS:
        raise ValueError(f"form={form!r}; allowed: {', '.join(FORMS)}")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk={chunk!r}; allowed: a whole number of tokens, 1 or more")
    _check(q, k, v, log_decay, initial_state)
    kind = _kind(q, k, v, log_decay, initial_state)
    with torch.autocast(v.device.type, enabled=False):
        q, k, wide, log_decay = (x.to(kind) for x in (q, k, v, log_decay))
        if initial_state is None:
            state = torch.zeros(v.shape[0], v.shape[2], q.shape[3], v.shape[3], dtype=kind, device=v.device)
        else:
            state = initial_state.to(kind)
        if form == "recurrent":
            out, state = _token_by_token(q, k, wide, log_decay, state)
        elif form == "parallel":
            out, state = _chunks(q, k, wide, log_decay, state, length=v.shape[1])
        else:
            out, state = _segments(q, k, wide, log_decay, state, chunk=chunk)
    return out.to(v.dtype), state


@overridable
def gated_recurrence_step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: output (B, H, V) and the next state (B, H, K, V).

    Arguments are those of `gated_recurrence` without the axis of tokens: `log_decay` is (H,) or (B, H).
    """
    if log_decay.ndim == 2:
        log_decay = log_decay[:, None]
    rows = (q[:, None], k[:, None], v[:, None])
    out, state = gated_recurrence_with_state(*rows, log_decay, form="recurrent", initial_state=state)
    return out[:, 0], state


def recurrence_flops(
    tokens: int, heads: int, keys: int, values: int, *, form: Form = "chunkwise", chunk: int = 64
) -> int:
    """Floating-point operations of one sequence, forward: 2 T (K + V) + 4 K V a token, in chunks of T.

    The parallel form is one chunk of all tokens without a state: 2 L (K + V); the recurrent one has none of
    the scores: 4 K V.
    """
    scores = {"parallel": tokens, "recurrent": 0, "chunkwise": min(chunk, tokens)}[form]
    state = 0 if form == "parallel" else 4 * keys * values
    return tokens * heads * (2 * scores * (keys + values) + state)


def _token_by_token(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    per_group = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(per_group, dim=2) for x in (q, k))
    decay = torch.exp(log_decay).expand(*v.shape[:3])[..., None, None]
    outputs = []
    for q_t, k_t, v_t, decay_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), decay.unbind(1), strict=True):
        state = decay_t * state + k_t[..., :, None] * v_t[..., None, :]
        outputs.append((q_t[..., None, :] @ state)[..., 0, :])
    return torch.stack(outputs, dim=1), state


def _segments(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """All tokens, a segment of whole chunks after the other; the last one takes what is left over."""
    batch, length, heads = v.shape[:3]
    whole = chunk * max(1, _SCORES_AT_ONCE // (batch * heads * chunk * chunk))
    sizes = [whole] * (length // whole)
    full = (length % whole) // chunk * chunk
    sizes += [size for size in (full, length % chunk) if size]
    fixed = log_decay.ndim == 1
    decays = [log_decay] * len(sizes) if fixed else log_decay.split(sizes, dim=1)
    again = length > RECOMPUTE_ABOVE and torch.is_grad_enabled()
    outputs = []
    # `split` and not slices: its gradient is one concatenation, that of each slice as long as the sequence.
    parts = zip(q.split(sizes, 1), k.split(sizes, 1), v.split(sizes, 1), decays, strict=True)
    for part in parts:
        work = partial(_chunks, length=min(chunk, part[0].shape[1]))
        if again:
            out, state = checkpoint(work, *part, state, use_reentrant=False, preserve_rng_state=False)
        else:
            out, state = work(*part, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, length: int
) -> tuple[Tensor, Tensor]:
    """Chunks of `length` tokens that fill the sequence, at once but for the passing on of the state."""
    groups = q.shape[2]
    q, k = (rearrange(x, "b (n t) g k -> b n g t k", t=length) for x in (q, k))
    v = rearrange(v, "b (n t) (g r) d -> b n g t r d", t=length, g=groups)
    within, since_start, until_end = _decays(log_decay, length, groups)
    scores = (q @ k.mT)[:, :, :, None] * within  # b n g r t s
    inner = scores @ v.transpose(-3, -2)  # b n g r t d
    # All heads of a group lie side by side as columns, so that neither keys nor queries are copied.
    new = (k.mT @ (until_end.mT[..., None] * v).flatten(-2)).unflatten(-1, v.shape[-2:])  # b n g k r d
    gate = since_start[..., -1][..., None, :, None]  # b n g 1 r 1
    count = new.shape[1]
    state = rearrange(state, "b (g r) k d -> b g k r d", g=groups)
    entering = []
    for gate_n, new_n in zip(gate.expand(-1, count, -1, -1, -1, -1).unbind(1), new.unbind(1), strict=True):
        entering.append(state)
        state = gate_n * state + new_n
    cross = (q @ torch.stack(entering, dim=1).flatten(-2)).unflatten(-1, v.shape[-2:])  # b n g t r d
    out = inner.transpose(-3, -2) + since_start.mT[..., None] * cross
    out = rearrange(out, "b n g t r d -> b (n t) (g r) d")
    return out, rearrange(state, "b g k r d -> b (g r) k d")


def _decays(log_decay: Tensor, length: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Decays within chunks (b n g r t s); from before a chunk to its tokens, and from these to its end.

    All exponents are sums of terms <= 0, so that none overflows; pairs of a token and a later one are -inf
    before the exponential and not 0 after it, where infinity times 0 would be NaN. The sum from s + 1 to t
    is a cumulative sum of a masked matrix and no difference of two long sums, which would lose digits.
    """
    index = torch.arange(length, device=log_decay.device)
    later = index[:, None] < index  # s > t
    if log_decay.ndim == 1:
        a = rearrange(log_decay, "(g r) -> 1 1 g r 1 1", g=groups)
        sums = ((index[:, None] - index) * a).masked_fill(later, -torch.inf)
        since_start = (index + 1) * a[..., 0]
    else:
        a = rearrange(log_decay, "b (n t) (g r) -> b n g r t", t=length, g=groups)
        steps = a[..., None].expand(*a.shape, length).masked_fill(index[:, None] <= index, 0.0)
        sums = steps.cumsum(dim=-2).masked_fill(later, -torch.inf)
        since_start = a.cumsum(dim=-1)
    return torch.exp(sums), torch.exp(since_start), torch.exp(sums[..., -1, :])


def _kind(*tensors: Tensor | None) -> torch.dtype:
    wide = any(x is not None and x.dtype == torch.float64 for x in tensors)
    return torch.float64 if wide else torch.float32


def _check(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None) -> None:
    """Refuse what does not fit."""
    given = {"q": q, "k": k, "v": v, "log_decay": log_decay, "initial_state": state}
    for name, tensor in given.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} is of type {tensor.dtype}; a gated recurrence takes floating numbers")
    if q.ndim != 4 or v.ndim != 4 or v.shape[1] == 0 or not q.shape[2] or v.shape[2] % q.shape[2]:
        raise ValueError(
            f"q of shape {tuple(q.shape)} and v of {tuple(v.shape)}; allowed: (B, L, G, K) and (B, L, H, V) "
            "with at least one token and a number of groups G that divides the heads H"
        )
    batch, length, heads, values = v.shape
    groups, keys = q.shape[2:]
    wanted: dict[str, tuple[tuple[int, ...], Tensor | None]] = {
        "q": ((batch, length, groups, keys), q),
        "k": ((batch, length, groups, keys), k),
        "log_decay": ((heads,) if log_decay.ndim == 1 else (batch, length, heads), log_decay),
        "initial_state": ((batch, heads, keys, values), state),
    }
    for name, (shape, tensor) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; for q of {tuple(q.shape)} and v of "
                f"{tuple(v.shape)} it is {shape}"
            )
    if state is not None and state.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"initial_state is {state.dtype}; a state adds up rounding errors and is kept in 32 bits: "
            "pass it on as it was returned"
        )
    most = float(log_decay.detach().max())
    if not most <= 0:
        raise ValueError(f"log_decay has entries up to {most:.4g}; all must be <= 0, or the state grows")
