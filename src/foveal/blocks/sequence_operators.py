"""Every mixer of a sequence behind one signature: op(x (B, L, D), state) gives y and the state after it.

`create_operator(name, dim)` makes one; `OPERATORS` tells of each whether it is causal, time-invariant, can go
on token by token, and how many floating-point operations (a multiply-add is two) its forward pass takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.blocks.mamba import MambaMixer
from foveal.blocks.mamba2 import Mamba2Mixer
from foveal.blocks.retention import Retention
from foveal.blocks.sequence_flops import (
    COMPLEXITY,
    Complexity,
    attention_flops,
    convolution_flops,
    linear_attention_flops,
    lstm_flops,
    mamba2_flops,
    mamba_flops,
    retention_flops,
    s4_flops,
    s4d_flops,
    s5_flops,
    window_flops,
)
from foveal.blocks.state_space import S4, S4D, S5, StateSpaceMixer
from foveal.kernels.gated_recurrence import gated_recurrence_with_state

FLOATS = ("float32", "float64")


class SequenceOperator(Protocol):
    """What all operators share; each is an `nn.Module`."""

    def __call__(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """y (B, L, D), and the state after x; None where the operator has no step."""
        ...

    def output(self, x: Tensor) -> Tensor:
        """y alone, where the state after x is not needed; layers that convolve then compute none."""
        ...

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token (B, D): its output and the next state."""
        ...


@dataclass(frozen=True, kw_only=True)
class OperatorKind:
    """What an operator is.

    Attributes:
        make: builds it for a width.
        flops: of a forward pass over one sequence: (operator, tokens) to a whole number.
        complexity: the same in symbols, with memory and state.
        causal: whether a token sees only those before it.
        time_invariant: whether it is a linear convolution, equal at every token, but for mixing of channels.
        has_step: whether it goes on token by token.
        constant_state: whether what it keeps between steps does not grow with the tokens.
        dtypes: it computes in.
        backends: that exist, the first one in use on a CPU.
    """

    make: Callable[..., nn.Module]
    flops: Callable[[Any, int], int]
    complexity: Complexity
    causal: bool = True
    time_invariant: bool = False
    has_step: bool = True
    constant_state: bool = True
    dtypes: tuple[str, ...] = FLOATS
    backends: tuple[str, ...] = ("torch",)


class _Operator(nn.Module):
    def output(self, x: Tensor) -> Tensor:
        """What the tokens become, where the state after them is not needed."""
        return self(x)[0]


class _Stepping(_Operator):
    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token (B, D): its output and the next state."""
        y, state = self(x[:, None], state)
        return y[:, 0], state


class KeyValues(NamedTuple):
    """Keys and values (B, heads, L, d) of the tokens so far."""

    keys: Tensor
    values: Tensor


class CausalAttention(_Stepping):
    """Softmax attention to the tokens at and before each one.

    Args:
        dim: width D.
        head_dim: of each head; it divides D.
        fused: by torch's kernel, or with the matrix of scores laid out.
    """

    def __init__(self, dim: int, *, head_dim: int = 64, fused: bool = True) -> None:
        super().__init__()
        self.dim, self.heads, self.fused = dim, _heads(dim, head_dim), fused
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: KeyValues | None = None) -> tuple[Tensor, KeyValues]:
        """Attend; `state` holds the tokens before x."""
        _check_tokens(self, x)
        q, k, v = _split(self.qkv(x), self.heads)
        if state is not None:
            k, v = torch.cat([state.keys, k], dim=2), torch.cat([state.values, v], dim=2)
        new, all_ = q.shape[2], k.shape[2]
        if self.fused and state is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.ones(new, all_, dtype=torch.bool, device=x.device).tril(all_ - new)
            if self.fused:
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            else:
                scores = (q @ k.mT) * q.shape[-1] ** -0.5
                out = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ v
        return self.proj(rearrange(out, "b h l d -> b l (h d)")), KeyValues(k, v)


class WindowAttention(_Operator):
    """Softmax attention within windows of w x w = `window`^2 tokens that follow each other; not causal.

    Args:
        dim: width D.
        window: side w; the last window may be smaller.
        head_dim: of each head.
    """

    def __init__(self, dim: int, *, window: int = 7, head_dim: int = 64) -> None:
        super().__init__()
        self.dim, self.heads, self.tokens = dim, _heads(dim, head_dim), window * window
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Attend within windows."""
        _check_tokens(self, x)
        _no_state(self, state)
        length = x.shape[1]
        whole = length - length % self.tokens
        outputs = []
        for part, size in ((x[:, :whole], self.tokens), (x[:, whole:], length - whole)):
            if part.shape[1]:
                windows = rearrange(part, "b (n w) d -> (b n) w d", w=size)
                out = F.scaled_dot_product_attention(*_split(self.qkv(windows), self.heads))
                outputs.append(rearrange(out, "(b n) h w d -> b (n w) (h d)", b=len(x)))
        return self.proj(torch.cat(outputs, dim=1)), None


class ConvolutionMixer(_Stepping):
    """A causal convolution of each channel, then a mixing of channels.

    Args:
        dim: width D.
        kernel_size: taps.
    """

    def __init__(self, dim: int, *, kernel_size: int = 7) -> None:
        super().__init__()
        self.dim, self.taps = dim, kernel_size
        self.conv = nn.Conv1d(dim, dim, kernel_size, groups=dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve; `state` (B, taps - 1, D) holds the tokens before x."""
        _check_tokens(self, x)
        before = x.new_zeros(len(x), self.taps - 1, self.dim) if state is None else state
        joined = torch.cat([before, x], dim=1)
        return self.proj(self.conv(joined.mT).mT), joined[:, joined.shape[1] - self.taps + 1 :]


class LstmMixer(_Stepping):
    """torch's LSTM of one layer, D to D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run over the tokens after `state`, torch's pair (h, c)."""
        _check_tokens(self, x)
        return self.lstm(x, state)


class LinearAttention(_Stepping):
    """Causal linear attention without normalisation: a gated recurrence that forgets nothing.

    Args:
        dim: width D.
        head_dim: of each head.
        chunk: tokens of a chunk.
    """

    def __init__(self, dim: int, *, head_dim: int = 64, chunk: int = 64) -> None:
        super().__init__()
        self.dim, self.heads, self.chunk = dim, _heads(dim, head_dim), chunk
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sum up keys and values of the tokens before each; `state` is (B, heads, d, d)."""
        _check_tokens(self, x)
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b l h d", three=3, h=self.heads)
        no_decay = x.new_zeros(self.heads)
        q = q * q.shape[-1] ** -0.5
        out, state = gated_recurrence_with_state(q, k, v, no_decay, chunk=self.chunk, initial_state=state)
        return self.proj(out.flatten(2)), state


class Continued(_Stepping):
    """A mixer with `continued`, such as Mamba's, behind the common signature."""

    def __init__(self, mixer: Any, dim: int) -> None:
        super().__init__()
        self.mixer, self.dim = mixer, dim

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix the tokens that follow those of `state`."""
        _check_tokens(self, x)
        return self.mixer.continued(x, state)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token (B, D)."""
        return self.mixer.step(x, state) if hasattr(self.mixer, "step") else super().step(x, state)

    def output(self, x: Tensor) -> Tensor:
        """What the tokens become, where the state after them is not needed."""
        _check_tokens(self, x)
        return self.mixer(x)


def _continued(make: Callable[..., Any]) -> Callable[..., nn.Module]:
    return lambda dim, **settings: Continued(make(dim, **settings), dim)


def _state_space(core: type[S4] | type[S4D] | type[S5]) -> Callable[..., nn.Module]:
    gate: Any = "self" if core is S5 else "glu"
    return _continued(lambda dim, **settings: StateSpaceMixer(core(dim, **settings), dim, gate=gate))


def _retention(dim: int, *, head_dim: int = 64, **settings: Any) -> Retention:
    return Retention(dim, _heads(dim, head_dim), **settings)


OPERATORS: Mapping[str, OperatorKind] = {
    "attention": OperatorKind(
        complexity=COMPLEXITY["attention"], make=CausalAttention, flops=attention_flops, constant_state=False
    ),
    "window_attention": OperatorKind(
        complexity=COMPLEXITY["window_attention"],
        make=WindowAttention,
        flops=window_flops,
        causal=False,
        has_step=False,
    ),
    "conv": OperatorKind(
        complexity=COMPLEXITY["conv"], make=ConvolutionMixer, flops=convolution_flops, time_invariant=True
    ),
    "lstm": OperatorKind(complexity=COMPLEXITY["lstm"], make=LstmMixer, flops=lstm_flops),
    "s4": OperatorKind(
        complexity=COMPLEXITY["s4"], make=_state_space(S4), flops=s4_flops, time_invariant=True
    ),
    "s4d": OperatorKind(
        complexity=COMPLEXITY["s4d"], make=_state_space(S4D), flops=s4d_flops, time_invariant=True
    ),
    "s5": OperatorKind(
        complexity=COMPLEXITY["s5"], make=_state_space(S5), flops=s5_flops, time_invariant=True
    ),
    "mamba": OperatorKind(
        complexity=COMPLEXITY["mamba"],
        make=_continued(MambaMixer),
        flops=mamba_flops,
        backends=("compiled", "reference", "triton"),
    ),
    "mamba2": OperatorKind(complexity=COMPLEXITY["mamba2"], make=_continued(Mamba2Mixer), flops=mamba2_flops),
    "retention": OperatorKind(
        complexity=COMPLEXITY["retention"], make=_continued(_retention), flops=retention_flops
    ),
    "linear_attention": OperatorKind(
        complexity=COMPLEXITY["linear_attention"], make=LinearAttention, flops=linear_attention_flops
    ),
}


def create_operator(name: str, dim: int, **settings: Any) -> Any:
    """The operator of a name for tokens of width `dim`; settings are those of its class.

    Raises:
        ValueError: an unknown name.
    """
    return operator_kind(name).make(dim, **settings)


def operator_kind(name: str) -> OperatorKind:
    """What the operator of a name is.

    Raises:
        ValueError: an unknown name.
    """
    if name not in OPERATORS:
        raise ValueError(f"operator {name!r} is not known; allowed: {', '.join(OPERATORS)}")
    return OPERATORS[name]


def _heads(dim: int, head_dim: int) -> int:
    if head_dim < 1 or dim % head_dim:
        raise ValueError(f"dim={dim} does not divide into heads of {head_dim}; allowed: a divisor of dim")
    return dim // head_dim


def _split(qkv: Tensor, heads: int) -> Tensor:
    return rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=heads)


def _check_tokens(op: Any, x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"tokens are of type {x.dtype}; a sequence operator takes real floating numbers")
    if x.ndim != 3 or not x.shape[1] or x.shape[2] != op.dim:
        raise ValueError(
            f"tokens of shape {tuple(x.shape)}; allowed: (B, L, {op.dim}) with a length L of 1 token or more"
        )


def _no_state(op: nn.Module, state: object) -> None:
    if state is not None:
        raise ValueError(
            f"{type(op).__name__} is not causal and has no state; call it with the whole sequence"
        )
