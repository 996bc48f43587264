"""What each sequence operator costs by formula: operations (a multiply-add is two), memory and state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foveal.kernels.gated_recurrence import recurrence_flops
from foveal.kernels.long_convolution import fft_points
from foveal.kernels.selective_scan import scan_flops

if TYPE_CHECKING:
    from foveal.blocks.sequence_operators import (
        CausalAttention,
        Continued,
        ConvolutionMixer,
        LinearAttention,
        LstmMixer,
        WindowAttention,
    )


@dataclass(frozen=True)
class Complexity:
    """The model of what an operator costs, in symbols: L tokens, width D, h heads of d channels.

    Attributes:
        operations: of a forward pass over one sequence; what the counting function of the operator sums up.
        memory: numbers that training keeps.
        state: numbers that it keeps from one token to the next; empty where there is no step.
    """

    operations: str
    memory: str
    state: str = ""


_FFT = "3 (5/2) n log2 n D + 6 (n/2 + 1) D (n >= 2 L points)"
_CHUNKED = "L h (2 T (N + d) + 4 N d) (chunks of T)"
COMPLEXITY: Mapping[str, Complexity] = {
    "attention": Complexity("8 L D^2 + 4 L^2 D", "O(L D) fused, h L^2 laid out", "2 L D"),
    "window_attention": Complexity("8 L D^2 + 4 L w^2 D (w^2 tokens a window)", "O(L D)"),
    "conv": Complexity("2 L D K + 2 L D^2 (K taps)", "O(L D)", "(K - 1) D"),
    "lstm": Complexity("16 L D^2", "O(L D)", "2 D"),
    "s4": Complexity(f"{_FFT} + 16 N (L/2 + 1) D + 4 L D^2 + 8 N^3 D log2 L", "O(L D N)", "N D"),
    "s4d": Complexity(f"{_FFT} + 2 L N D + 4 L D^2", "O(L D)", "N D"),
    "s5": Complexity("4 L P D + 4 L P + 2 L D^2 (P states in all)", "O(L D + L P)", "P"),
    "mamba": Complexity(
        "2 L (4 D^2 + 2 D (R + 2 N) + 2 D R + 2 D^2 + 2 D K) + 2 L D (9 N + 2)", "O(L D)", "2 D (N + K - 1)"
    ),
    "mamba2": Complexity(
        f"2 L (D (4 D + 2 N + h) + 2 D^2 + (2 D + 2 N) K) + {_CHUNKED}", "O(L D + L h T)", "2 D N + O(D)"
    ),
    "retention": Complexity(f"8 L D^2 (10 with a gate) + {_CHUNKED}, N = d", "O(L D + L h T)", "D d"),
    "linear_attention": Complexity(f"8 L D^2 + {_CHUNKED}, N = d", "O(L D + L h T)", "D d"),
}


def attention_flops(op: CausalAttention, tokens: int) -> int:
    """Four projections, scores and weighted sums."""
    return 8 * tokens * op.dim**2 + 4 * tokens**2 * op.dim


def window_flops(op: WindowAttention, tokens: int) -> int:
    """Four projections, scores and weighted sums within windows."""
    full, rest = divmod(tokens, op.tokens)
    return 8 * tokens * op.dim**2 + 4 * op.dim * (full * op.tokens**2 + rest**2)


def convolution_flops(op: ConvolutionMixer, tokens: int) -> int:
    """Taps of each channel, and the mixing."""
    return 2 * tokens * op.dim * op.taps + 2 * tokens * op.dim**2


def lstm_flops(op: LstmMixer, tokens: int) -> int:
    """Four gates of the input and of the state."""
    return 16 * tokens * op.dim**2


def linear_attention_flops(op: LinearAttention, tokens: int) -> int:
    """Four projections and the recurrence."""
    wide = op.dim // op.heads
    return 8 * tokens * op.dim**2 + recurrence_flops(tokens, op.heads, wide, wide, chunk=op.chunk)


def retention_flops(op: Continued, tokens: int) -> int:
    """Four projections, five with a gate, and the recurrence."""
    mixer, wide = op.mixer, op.dim // op.mixer.heads
    projections = 10 if mixer.gate is not None else 8
    return projections * tokens * op.dim**2 + recurrence_flops(
        tokens, mixer.heads, wide, wide, form=mixer.form, chunk=mixer.chunk
    )


def mamba_flops(op: Continued, tokens: int) -> int:
    """Projections, convolution and scan."""
    mixer = op.mixer
    wide, scan = mixer.out_proj.in_features, mixer.scan
    projections = op.dim * 2 * wide + wide * (scan.rank + 2 * scan.states) + scan.rank * wide + wide * op.dim
    convolution = wide * mixer.conv1d.kernel_size[0]
    return 2 * tokens * (projections + convolution) + scan_flops(
        1, tokens, wide, scan.states, skip=True, gate=True
    )


def mamba2_flops(op: Continued, tokens: int) -> int:
    """Projections, convolution and recurrence."""
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


def s4d_flops(op: Continued, tokens: int) -> int:
    """Convolution, the kernel's product (2 a real product of N terms) and the mixing."""
    pairs = op.mixer.core.C.shape[1]
    return _fft_flops(op, tokens) + 4 * pairs * tokens * op.dim + _mixing_flops(op, tokens)


def s4_flops(op: Continued, tokens: int) -> int:
    """Convolution, four Cauchy sums over N states at half of the roots of unity, and the mixing.

    A pair of states takes two real weights times a complex number (4 each) for each of the four sums.

    The power of the matrix that cuts the kernel does not grow with the tokens but for log2 of them: 8 N^3 a
    squaring and 8 N^2 a product with a row, per channel.
    """
    states = 2 * op.mixer.core.C.shape[1]
    bits = tokens.bit_length()
    power = op.dim * 8 * ((bits - 1) * states**3 + tokens.bit_count() * states**2)
    cauchy = 16 * states * (tokens // 2 + 1) * op.dim
    return _fft_flops(op, tokens) + cauchy + power + _mixing_flops(op, tokens)


def s5_flops(op: Continued, tokens: int) -> int:
    """Complex input and output weights (4 a real times complex product), 8 a state and token for the scan."""
    pairs = op.mixer.core.C.shape[1]
    return 8 * tokens * pairs * op.dim + 8 * tokens * pairs + _mixing_flops(op, tokens)
