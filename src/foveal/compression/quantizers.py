"""Grids of few bits for given numbers: of some percentiles the range of least error (arXiv 2212.08254)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from foveal.blocks.quantized_numbers import OFF, check_bits, log_sqrt2, pack, uniform, uniform_codes

PERCENTILES = (0.999, 0.9999, 0.99999)
MIN_MAX = (1.0,)
_LEAST_SCALE = 1e-8
_MOST_VALUES = 2**22


class UniformQuantizer:
    """x to (q - z) s with q = clamp(round(x / s) + z, 0, 2^b - 1), z = round(-min / s).

    Args:
        bits: 2 to 8; 32 leaves numbers as they are.
        axis: with a grid for each place along it; None has one grid.
        percentiles: p of the ranges, from the share 1 - p to the share p of the numbers, that are tried; 1
            is from the least to the largest.

    Attributes:
        scale: s, of shape () or with the length of the axis, 1 elsewhere, so that it broadcasts.
        zero_point: z, whole, of the same shape.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, bits: int, *, axis: int | None = None, percentiles: Sequence[float] = PERCENTILES
    ) -> None:
        check_bits(bits, "a quantizer", off=True)
        self.bits, self.axis, self.percentiles = bits, axis, tuple(percentiles)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> Self:
        """Take the range by which these numbers have the least squared error.

        Raises:
            ValueError: they are not finite, or none.
        """
        if not x.numel() or not bool(torch.isfinite(x).all()):
            raise ValueError(f"numbers of shape {tuple(x.shape)} to calibrate with are none or not finite")
        rows = x.flatten()[None] if self.axis is None else x.movedim(self.axis, 0).flatten(1)
        scale, zero_point = uniform_grid(rows, self.bits, self.percentiles)
        shape: list[int] = []
        if self.axis is not None:
            shape = [1] * x.ndim
            shape[self.axis] = -1
        self.scale, self.zero_point = scale.view(shape), zero_point.view(shape)
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """x on the grid."""
        return uniform(x, self.scale, self.zero_point, self.bits)

    def codes(self, x: Tensor) -> Tensor:
        """q, as floats."""
        return uniform_codes(x, self.scale, self.zero_point, self.bits)

    def pack(self, x: Tensor) -> Tensor:
        """q of all numbers, packed into bytes."""
        return pack(self.codes(x), self.bits)


class LogSqrt2Quantizer:
    """x >= 0 to s 2^(-q/2) with q = clamp(round(-2 log2(x / s)), 0, 2^b - 1); smaller numbers to 0.

    Args:
        bits: 2 to 8; 32 leaves numbers as they are.
        percentiles: shares of the numbers that are at most s, which are tried.

    Attributes:
        scale: s, of shape ().
    """

    scale: Tensor

    def __init__(self, bits: int, *, percentiles: Sequence[float] = PERCENTILES) -> None:
        check_bits(bits, "a quantizer", off=True)
        self.bits, self.percentiles = bits, tuple(percentiles)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> Self:
        """Take the largest level by which these numbers have the least squared error."""
        values = _thinned(x.flatten())
        ordered = values.sort().values[None]
        found = []
        for percentile in self.percentiles:
            scale = _percentile(ordered, percentile)[0].clamp_min(_LEAST_SCALE)
            found.append((float((log_sqrt2(values, scale, self.bits) - values).square().sum()), scale))
        self.scale = min(found, key=lambda each: each[0])[1]
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """x on the grid."""
        return log_sqrt2(x, self.scale, self.bits)


def uniform_grid(rows: Tensor, bits: int, percentiles: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scale and zero-point (C,) of each row of numbers (C, N), all rows at once."""
    rows = _thinned(rows)
    ordered = rows.sort(dim=1).values
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for percentile in percentiles:
        low, high = _percentile(ordered, 1 - percentile), _percentile(ordered, percentile)
        scale, zero_point = grid_of_range(low, high, bits)
        error = (uniform(rows, scale[:, None], zero_point[:, None], bits) - rows).square().sum(dim=1)
        if best is None:
            best = error, scale, zero_point
        else:
            better = error < best[0]
            best = (
                torch.where(better, error, best[0]),
                torch.where(better, scale, best[1]),
                torch.where(better, zero_point, best[2]),
            )
    if best is None:
        raise ValueError("percentiles is empty; give one or more shares up to 1")
    return best[1], best[2]


def grid_of_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """s = (high - low) / (2^b - 1), z = round(-low / s); a range of one number is widened to hold 0."""
    steps = 2 ** min(bits, OFF - 1) - 1
    one = high <= low
    low, high = torch.where(one, low.clamp_max(0), low), torch.where(one, high.clamp_min(0), high)
    scale = ((high - low) / steps).clamp_min(_LEAST_SCALE)
    return scale, torch.round(-low / scale)


def _percentile(ordered: Tensor, share: float) -> Tensor:
    """(C,) of ordered rows (C, N), between places linearly; torch.quantile takes no more than 16 million."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)


def _thinned(x: Tensor) -> Tensor:
    """Every so manieth along the last axis where there are very many."""
    step = -(-x.numel() // _MOST_VALUES)
    return x[..., ::step] if step > 1 else x
