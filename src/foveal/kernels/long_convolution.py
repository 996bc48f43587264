"""Linear recurrences equal at every token: as a convolution by FFT, and as a scan of diagonal states.

With a diagonal complex state s_l = w s_{l-1} + b u_l and an output y_l = 2 Re(c s_l), the output is the
convolution of u with the kernel K_l = 2 Re sum_n c_n b_n w_n^l (S4D, arXiv 2206.11893; S5, arXiv 2208.04933).
Powers of all lags are never laid out: a lag is j T + i, and w^(jT) times w^i is a matrix product over n.
"""

from __future__ import annotations

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as F


def causal_convolution(u: Tensor, kernel: Tensor) -> Tensor:
    """y_l = sum over j <= l of kernel_j u_{l-j}, per channel.

    The transform is of 2 L points or more, so that nothing wraps around, and in 32 bits (64 for a 64-bit u).

    Args:
        u: (B, L, H) real.
        kernel: (H, K) real, K <= L.

    Returns:
        (B, L, H), of the type of `u`.

    Raises:
        TypeError: a complex tensor.
        ValueError: no token, a kernel of other channels or longer than the input.
    """
    _check(u, kernel)
    return convolve_with_spectrum(u, kernel_spectrum(kernel, u.shape[1]))


def kernel_spectrum(kernel: Tensor, length: int) -> Tensor:
    """The transform (H, F) of a kernel (H, K) for inputs of `length` tokens, to be kept between calls."""
    kind = torch.promote_types(kernel.dtype, torch.float32)
    return torch.fft.rfft(kernel.to(kind), n=fft_points(length))


def convolve_with_spectrum(u: Tensor, spectrum: Tensor) -> Tensor:
    """Convolve u (B, L, H) with a kernel whose `kernel_spectrum` is of the same length."""
    points = fft_points(u.shape[1])
    if spectrum.shape[-1] != points // 2 + 1:
        raise ValueError(
            f"a spectrum of {spectrum.shape[-1]} frequencies for {u.shape[1]} tokens; allowed: "
            f"{points // 2 + 1}; compute it anew with kernel_spectrum(kernel, {u.shape[1]})"
        )
    kind = torch.promote_types(u.dtype, torch.float32)
    rows = u.to(kind).transpose(1, 2)  # transforms run along memory
    y = torch.fft.irfft(torch.fft.rfft(rows, n=points) * spectrum, n=points)[..., : u.shape[1]]
    return y.transpose(1, 2).to(u.dtype)


def geometric_kernel(weights: Tensor, log_decay: Tensor, length: int) -> Tensor:
    """K_l = 2 Re sum_n weights_n exp(l log_decay_n) for l = 0 ... length - 1.

    Args:
        weights: (..., H, N) complex.
        log_decay: (H, N) complex with a real part below 0.
        length: tokens.

    Returns:
        (..., H, length), real.

    Raises:
        ValueError: no token, or a decay that does not decay.
    """
    check_stable(log_decay)
    if length < 1:
        raise ValueError(f"length={length}; allowed: 1 token or more")
    inner, outer, _ = _powers(log_decay, length)
    left = weights[..., None, :] * outer  # (..., H, J, N)
    # Re(a b) of all n is one real product of twice as many terms.
    left = torch.cat([left.real, -left.imag], dim=-1)
    right = torch.cat([inner.real, inner.imag], dim=-1)  # (H, T, 2 N)
    return 2 * (left @ right.mT).flatten(-2)[..., :length]


def geometric_state(u: Tensor, log_decay: Tensor) -> Tensor:
    """The state sum_l exp((L - 1 - l) log_decay_n) u_l after the last token: u (B, L, H) to (B, H, N)."""
    length = u.shape[1]
    inner, outer, size = _powers(log_decay, length)
    rows = u.transpose(1, 2).flip(-1)
    rows = F.pad(rows, (0, outer.shape[1] * size - length)).unflatten(-1, (-1, size))  # (B, H, J, T)
    parts = torch.complex(rows @ inner.real, rows @ inner.imag)  # (B, H, J, N)
    return (parts * outer).sum(dim=-2)


def diagonal_scan(decay: Tensor, inputs: Tensor, initial: Tensor | None = None, *, chunk: int = 32) -> Tensor:
    """All states s_l = decay s_{l-1} + inputs_l; differentiable in every tensor.

    Chunks are one triangular product each, and the states at their ends are a scan again, with decay^chunk:
    the depth is log(L) / log(chunk).

    Args:
        decay: (P,) complex, of modulus below 1.
        inputs: (B, L, P) complex.
        initial: (B, P) state before the first token; zero by default.
        chunk: tokens of a chunk, 2 or more.

    Returns:
        (B, L, P), complex.

    Raises:
        ValueError: no token, or a chunk of less than 2.
    """
    length = inputs.shape[1]
    if length < 1 or chunk < 2:
        raise ValueError(f"{length} tokens, chunk={chunk}; allowed: 1 or more tokens, chunks of 2 or more")
    size = min(chunk, length)
    count = math.ceil(length / size)
    padded = F.pad(inputs, (0, 0, 0, count * size - length))
    rows = padded.unflatten(1, (count, size)).permute(3, 0, 1, 2).flatten(1, 2)  # (P, B J, T)
    powers = torch.cat([torch.ones_like(decay)[:, None], decay[:, None].expand(-1, size).cumprod(-1)], dim=-1)
    index = torch.arange(size, device=decay.device)
    lag = index[None, :] - index[:, None]  # from row s to column t
    triangle = torch.where(lag >= 0, powers[:, lag.clamp(min=0)], 0)
    inner = (rows @ triangle).unflatten(1, (-1, count))  # (P, B, J, T)
    if count == 1:
        entering = None if initial is None else initial.mT[:, :, None]
    else:
        ends = inner[..., -1].permute(1, 2, 0)  # (B, J, P)
        after = diagonal_scan(powers[:, size], ends, initial, chunk=chunk)
        before = torch.zeros_like(after[:, 0]) if initial is None else initial
        entering = torch.cat([before[:, None], after[:, :-1]], dim=1).permute(2, 0, 1)  # (P, B, J)
    if entering is not None:
        inner = inner + entering[..., None] * powers[:, None, None, 1:]
    return inner.permute(1, 2, 3, 0).flatten(1, 2)[:, :length]


def check_stable(rates: Tensor) -> None:
    """Raise ValueError where a rate's real part is not below 0, so that the state would grow."""
    most = float(rates.detach().real.max())
    if not most < 0:
        raise ValueError(f"a rate has a real part of {most:.4g}; all must be below 0, or the state grows")


def _powers(log_decay: Tensor, length: int) -> tuple[Tensor, Tensor, int]:
    """exp(i log_decay) for i < T (H, T, N), exp(j T log_decay) (H, J, N), and T, about the root of L."""
    size = max(1, math.isqrt(length))
    count = math.ceil(length / size)
    lags = torch.arange(max(size, count), device=log_decay.device, dtype=log_decay.real.dtype)
    rates = log_decay[:, None]
    return torch.exp(rates * lags[:size, None]), torch.exp(rates * (lags[:count, None] * size)), size


def fft_points(length: int) -> int:
    """Points of the transform for sequences of `length` tokens: 2 L or a little more."""
    return int(next_fast_len(2 * length, real=True))


def _check(u: Tensor, kernel: Tensor) -> None:
    for name, tensor in {"u": u, "kernel": kernel}.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is of type {tensor.dtype}; a convolution takes real numbers")
    if u.ndim != 3 or u.shape[1] == 0 or kernel.ndim != 2 or kernel.shape[0] != u.shape[2]:
        raise ValueError(
            f"u of shape {tuple(u.shape)} and a kernel of {tuple(kernel.shape)}; allowed: (B, L, H) with at "
            "least one token, and (H, K)"
        )
    if kernel.shape[1] > u.shape[1]:
        raise ValueError(
            f"the kernel has {kernel.shape[1]} lags for {u.shape[1]} tokens; allowed: at most as many as "
            "tokens; compute it for this length, or cut it"
        )
