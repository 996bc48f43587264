"""Every mixer of a sequence behind one signature: op(x (B, L, D), state) gives y and the state after it.

`create_operator(name, dim)` makes one; `OPERATORS` tells of each whether it is causal, time-invariant, can go
on token by token, and how many floating-point operations (a multiply-add is two) its forward pass takes.
"""

from __future__ import annotations

import math
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
from foveal.blocks.state_space import S4, S4D, S5, StateSpaceMixer
from foveal.kernels.gated_recurrence import gated_recurrence_with_state, recurrence_flops
from foveal.kernels.long_convolution import fft_points
from foveal.kernels.selective_scan import scan_flops

FLOATS = ("float32", "float64")


class SequenceOperator(Protocol):
    """What all operators share; each is an `nn.Module`."""

    def __call__(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """y (B, L, D), and the state after x; None where the operator has no step."""
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
        causal: whether a token sees only those before it.
        time_invariant: whether it is a linear convolution, equal at every token, but for mixing of channels.
        has_step: whether it goes on token by token.
        constant_state: whether what it keeps between steps does not grow with the tokens.
        dtypes: it computes in.
        backends: that exist, the first one in use on a CPU.
    """

    make: Callable[..., nn.Module]
    flops: Callable[[Any, int], int]
    causal: bool = True
    time_invariant: bool = False
    has_step: bool = True
    constant_state: bool = True
    dtypes: tuple[str, ...] = FLOATS
    backends: tuple[str, ...] = ("torch",)


class KeyValues(NamedTuple):
    """Keys and values (B, heads, L, d) of the tokens so far."""

    keys: Tensor
    values: Tensor


class CausalAttention(nn.Module):
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

    def step(self, x: Tensor, state: KeyValues | None = None) -> tuple[Tensor, KeyValues]:
        """One token (B, D)."""
        return _one(self, x, state)


class WindowAttention(nn.Module):
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


class ConvolutionMixer(nn.Module):
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
        before = x.new_zeros(len(x), self.taps - 1, self.dim) if state is None else state
        joined = torch.cat([before, x], dim=1)
        return self.proj(self.conv(joined.mT).mT), joined[:, joined.shape[1] - self.taps + 1 :]

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token (B, D)."""
        return _one(self, x, state)


class LstmMixer(nn.Module):
    """torch's LSTM of one layer, D to D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run over the tokens after `state`, torch's pair (h, c)."""
        return self.lstm(x, state)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token (B, D)."""
        return _one(self, x, state)


class LinearAttention(nn.Module):
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
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b l h d", three=3, h=self.heads)
        no_decay = x.new_zeros(self.heads)
        q = q * q.shape[-1] ** -0.5
        out, state = gated_recurrence_with_state(q, k, v, no_decay, chunk=self.chunk, initial_state=state)
        return self.proj(out.flatten(2)), state

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One token (B, D)."""
        return _one(self, x, state)


class Continued(nn.Module):
    """A mixer with `continued`, such as Mamba's, behind the common signature."""

    def __init__(self, mixer: Any, dim: int) -> None:
        super().__init__()
        self.mixer, self.dim = mixer, dim

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix the tokens that follow those of `state`."""
        return self.mixer.continued(x, state)

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One token (B, D)."""
        if hasattr(self.mixer, "step"):
            return self.mixer.step(x, state)
        return _one(self, x, state)


def _attention_flops(op: CausalAttention, tokens: int) -> int:
    return 8 * tokens * op.dim**2 + 4 * tokens**2 * op.dim


def _window_flops(op: WindowAttention, tokens: int) -> int:
    full, rest = divmod(tokens, op.tokens)
    return 8 * tokens * op.dim**2 + 4 * op.dim * (full * op.tokens**2 + rest**2)


def _convolution_flops(op: ConvolutionMixer, tokens: int) -> int:
    return 2 * tokens * op.dim * op.taps + 2 * tokens * op.dim**2


def _lstm_flops(op: LstmMixer, tokens: int) -> int:
    return 16 * tokens * op.dim**2


def _linear_attention_flops(op: LinearAttention, tokens: int) -> int:
    wide = op.dim // op.heads
    return 8 * tokens * op.dim**2 + recurrence_flops(tokens, op.heads, wide, wide, chunk=op.chunk)


def _retention_flops(op: Continued, tokens: int) -> int:
    mixer, wide = op.mixer, op.dim // op.mixer.heads
    projections = 10 if mixer.gate is not None else 8
    return projections * tokens * op.dim**2 + recurrence_flops(
        tokens, mixer.heads, wide, wide, form=mixer.form, chunk=mixer.chunk
    )


def _mamba_flops(op: Continued, tokens: int) -> int:
    mixer = op.mixer
    wide, scan = mixer.out_proj.in_features, mixer.scan
    projections = op.dim * 2 * wide + wide * (scan.rank + 2 * scan.states) + scan.rank * wide + wide * op.dim
    convolution = wide * mixer.conv1d.kernel_size[0]
    return 2 * tokens * (projections + convolution) + scan_flops(
        1, tokens, wide, scan.states, skip=True, gate=True
    )


def _mamba2_flops(op: Continued, tokens: int) -> int:
    mixer = op.mixer
    mixed = mixer.conv1d.in_channels
    projections = mixer.in_proj.in_features * mixer.in_proj.out_features + mixer.width * op.dim
    return 2 * tokens * (projections + mixed * mixer.conv1d.kernel_size[0]) + recurrence_flops(
        tokens, mixer.heads, mixer.states, mixer.width // mixer.heads, form=mixer.form, chunk=mixer.chunk
    )


def _fft_flops(op: Continued, tokens: int) -> int:
    """Three real transforms of 5/2 n log2 n a channel, rounded up, and 6 a frequency for their product."""
    points = fft_points(tokens)
    return op.dim * (3 * math.ceil(2.5 * points * math.log2(points)) + 6 * (points // 2 + 1))


def _mixing_flops(op: Continued, tokens: int) -> int:
    return 2 * tokens * op.dim * op.mixer.mix.out_features


def _s4d_flops(op: Continued, tokens: int) -> int:
    """Convolution, the kernel's product (2 a real product of N terms) and the mixing."""
    pairs = op.mixer.core.C.shape[1]
    return _fft_flops(op, tokens) + 4 * pairs * tokens * op.dim + _mixing_flops(op, tokens)


def _s4_flops(op: Continued, tokens: int) -> int:
    """Convolution, four Cauchy sums of complex products (8 each) over N states, and the mixing.

    The power of the matrix that cuts the kernel does not grow with the tokens but for log2 of them: 8 N^3 a
    squaring and 8 N^2 a product with a row, per channel.
    """
    states = 2 * op.mixer.core.C.shape[1]
    bits = tokens.bit_length()
    power = op.dim * 8 * ((bits - 1) * states**3 + tokens.bit_count() * states**2)
    cauchy = 32 * states * tokens * op.dim
    return _fft_flops(op, tokens) + cauchy + power + _mixing_flops(op, tokens)


def _s5_flops(op: Continued, tokens: int) -> int:
    """Complex input and output weights (4 a real times complex product), 8 a state and token for the scan."""
    pairs = op.mixer.core.C.shape[1]
    return 8 * tokens * pairs * op.dim + 8 * tokens * pairs + _mixing_flops(op, tokens)


def _continued(make: Callable[..., Any]) -> Callable[..., nn.Module]:
    return lambda dim, **settings: Continued(make(dim, **settings), dim)


def _state_space(core: type[S4] | type[S4D] | type[S5]) -> Callable[..., nn.Module]:
    gate: Any = "self" if core is S5 else "glu"
    return _continued(lambda dim, **settings: StateSpaceMixer(core(dim, **settings), dim, gate=gate))


def _retention(dim: int, *, head_dim: int = 64, **settings: Any) -> Retention:
    return Retention(dim, _heads(dim, head_dim), **settings)


OPERATORS: Mapping[str, OperatorKind] = {
    "attention": OperatorKind(make=CausalAttention, flops=_attention_flops, constant_state=False),
    "window_attention": OperatorKind(make=WindowAttention, flops=_window_flops, causal=False, has_step=False),
    "conv": OperatorKind(make=ConvolutionMixer, flops=_convolution_flops, time_invariant=True),
    "lstm": OperatorKind(make=LstmMixer, flops=_lstm_flops),
    "s4": OperatorKind(make=_state_space(S4), flops=_s4_flops, time_invariant=True),
    "s4d": OperatorKind(make=_state_space(S4D), flops=_s4d_flops, time_invariant=True),
    "s5": OperatorKind(make=_state_space(S5), flops=_s5_flops, time_invariant=True),
    "mamba": OperatorKind(
        make=_continued(MambaMixer), flops=_mamba_flops, backends=("compiled", "reference", "triton")
    ),
    "mamba2": OperatorKind(make=_continued(Mamba2Mixer), flops=_mamba2_flops),
    "retention": OperatorKind(make=_continued(_retention), flops=_retention_flops),
    "linear_attention": OperatorKind(make=LinearAttention, flops=_linear_attention_flops),
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


def _one(op: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    y, state = op(x[:, None], state)
    return y[:, 0], state


def _no_state(op: nn.Module, state: object) -> None:
    if state is not None:
        raise ValueError(
            f"{type(op).__name__} is not causal and has no state; call it with the whole sequence"
        )
