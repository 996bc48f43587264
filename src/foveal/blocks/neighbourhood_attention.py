"""Dilated neighbourhood attention in 2-D (Hassani et al., arXiv 2204.07143, 2209.15001), in plain torch."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveal.blocks.neighbourhood_tiles import (
    axis_entries,
    axis_tiles,
    fit_neighbourhood,
    neighbours,
    tile_side,
)
from foveal.settings import unknown_name

logger = logging.getLogger(__name__)

Pair = int | tuple[int, int]
Backend = Literal["auto", "tiles", "flex", "natten"]

MEMORY = 64 * 2**20
"""Bytes that the gathered keys, values and scores of one chunk of tiles may take."""
DENSE_UP_TO = 256
"""Positions up to which one tile holds the whole grid: attention over everything, with a mask."""


def neighbourhood_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel: Pair = 7,
    dilation: Pair = 1,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attention of each position to the `kernel` x `kernel` positions around it, always that many.

    On an axis of length n, position i is number j = i // e of residue class g = i mod e, which has
    m = ceil((n - g) / e) positions; it sees numbers s .. s + k - 1 of its class with
    s = clip(j - k // 2, 0, m - k): near a border the window is shifted inwards, nothing is padded. The bias
    of number s + t is entry s + t - j + k - 1. In 2-D the windows of both axes are crossed.

    Keys are gathered for tiles of queries, whose windows overlap, and outsiders are masked: memory grows with
    the number of positions, and stays below `MEMORY` a chunk.

    Args:
        q: (B, heads, H, W, d) queries.
        k: (B, heads, H, W, d) keys.
        v: (B, heads, H, W, d) values.
        kernel: odd; one number, or one an axis.
        dilation: e; one number, or one an axis.
        bias: (heads, 2 K - 1, 2 K' - 1) by offset of the key; where K > kernel, the middle of it serves.
        scale: of the scores; d ** -0.5 by default.
        backend: "tiles"; "flex", torch's flex_attention, compiled on a GPU; "natten", which needs the package
            and no bias; "auto" takes natten where it is installed and fits (GPU, no bias), else tiles.

    Returns:
        (B, heads, H, W, d).

    Raises:
        ValueError: shapes do not fit, an even kernel, a grid smaller than kernel x dilation, or a backend
            that cannot do it.
    """
    kernels, dilations = _pair(kernel), _pair(dilation)
    _check(q, k, v, kernels, dilations, bias)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if bias is not None:
        bias = _middle(bias, kernels)
    if backend == "auto":
        backend = "natten" if q.is_cuda and bias is None and _natten_is_there() else "tiles"
    if backend == "tiles":
        return _by_tiles(q, k, v, kernels, dilations, bias, scale)
    if backend == "flex":
        return _by_flex(q, k, v, kernels, dilations, bias, scale)
    if backend == "natten":
        return _by_natten(q, k, v, kernels, dilations, bias, scale)
    raise ValueError(unknown_name("backend", backend, ["auto", "tiles", "flex", "natten"]))


def _by_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernels: tuple[int, int],
    dilations: tuple[int, int],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    batch, heads, height, width, dim = q.shape
    sides = (tile_side(height, dilations[0]), tile_side(width, dilations[1]))
    if height * width <= DENSE_UP_TO and dilations == (1, 1):
        sides = (height, width)
    rows = axis_tiles(height, kernels[0], dilations[0], sides[0])
    columns = axis_tiles(width, kernels[1], dilations[1], sides[1])
    below, right = (torch.from_numpy(axis.offsets).to(q.device) for axis in (rows, columns))
    if bias is None:
        bias = q.new_zeros(heads, 2 * kernels[0] - 1, 2 * kernels[1] - 1)
    # One row and one column more, which the entry -1 of what is not seen finds.
    bias = F.pad(bias.to(q.dtype), (0, 1, 0, 1), value=float("-inf"))
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, numbers: np.ndarray) -> Tensor:
        down, across = np.divmod(numbers, len(columns.queries))
        queries, keys = (
            torch.from_numpy(places.reshape(len(numbers), -1)).to(q.device)
            for places in (
                rows.queries[down][:, :, None] * width + columns.queries[across][:, None],
                rows.keys[down][:, :, None] * width + columns.keys[across][:, None],
            )
        )
        mask = bias[:, below[down][:, :, None, :, None], right[across][:, None, :, None, :]]
        mask = rearrange(mask, "h t q1 q2 u1 u2 -> 1 (h t) (q1 q2) (u1 u2)")
        # Heads and tiles share an axis: fused kernels want four.
        near_q, far_k, far_v = (x[:, :, at].flatten(1, 2) for x, at in ((q, queries), (k, keys), (v, keys)))
        out = F.scaled_dot_product_attention(near_q, far_k, far_v, attn_mask=mask, scale=scale)
        return rearrange(out, "b (h t) q d -> b h (t q) d", h=heads)

    side, reach = sides[0] * sides[1], rows.keys.shape[1] * columns.keys.shape[1]
    values = batch * (2 * reach * dim + 2 * side * dim + 2 * side * reach) + 3 * side * reach
    step = max(1, MEMORY // (heads * values * q.element_size()))
    numbers = np.arange(len(rows.queries) * len(columns.queries))
    pieces = []
    for start in range(0, len(numbers), step):
        chunk = numbers[start : start + step]
        if torch.is_grad_enabled() and step < len(numbers):  # what a chunk gathers is made again going back
            pieces.append(checkpoint(attend, q, k, v, bias, chunk, use_reentrant=False))
        else:
            pieces.append(attend(q, k, v, bias, chunk))
    row_tile, row_place = np.divmod(rows.home, sides[0])
    column_tile, column_place = np.divmod(columns.home, sides[1])
    home = (row_tile[:, None] * len(columns.queries) + column_tile) * side
    home = home + row_place[:, None] * sides[1] + column_place
    out = torch.cat(pieces, dim=2)[:, :, torch.from_numpy(home.ravel()).to(q.device)]
    return out.unflatten(2, (height, width))


def _by_flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernels: tuple[int, int],
    dilations: tuple[int, int],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    height, width = q.shape[2:4]
    device = q.device
    below, right = (
        torch.from_numpy(axis_entries(*axis)).to(device)
        for axis in zip((height, width), kernels, dilations, strict=True)
    )

    def sees(batch: Tensor, head: Tensor, one: Tensor, other: Tensor) -> Tensor:
        down, across = below[one // width, other // width], right[one % width, other % width]
        return (down >= 0) & (across >= 0)

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, one: Tensor, other: Tensor) -> Tensor:
        if bias is None:
            return score
        down, across = below[one // width, other // width], right[one % width, other % width]
        return score + bias[head, down.clamp(min=0), across.clamp(min=0)]

    attention = _compiled_flex() if q.is_cuda else flex_attention
    block_mask = create_block_mask(sees, None, None, height * width, height * width, device=str(device))
    q, k, v = (x.flatten(2, 3).contiguous() for x in (q, k, v))
    out = attention(q, k, v, score_mod=add_bias, block_mask=block_mask, scale=scale)
    return out.unflatten(2, (height, width))


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _by_natten(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernels: tuple[int, int],
    dilations: tuple[int, int],
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    if bias is not None:
        raise ValueError("NATTEN's fused attention takes no bias; set backend='tiles', or bias=None")
    if not _natten_is_there():
        raise ValueError("NATTEN is not installed; install natten, or set backend='tiles'")
    from natten.functional import na2d

    q, k, v = (rearrange(x, "b h i j d -> b i j h d").contiguous() for x in (q, k, v))
    out = na2d(q, k, v, kernel_size=kernels, dilation=dilations, scale=scale)
    return rearrange(out, "b i j h d -> b h i j d")


@cache
def _natten_is_there() -> bool:
    return importlib.util.find_spec("natten") is not None


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _middle(bias: Tensor, kernels: tuple[int, int]) -> Tensor:
    """The entries of a table of a larger kernel that a smaller one uses: offsets from the centre stay."""
    spans = [2 * kernel - 1 for kernel in kernels]
    starts = [(have - want) // 2 for have, want in zip(bias.shape[1:], spans, strict=True)]
    return bias[:, starts[0] : starts[0] + spans[0], starts[1] : starts[1] + spans[1]]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernels: tuple[int, int],
    dilations: tuple[int, int],
    bias: Tensor | None,
) -> None:
    if q.ndim != 5 or q.shape != k.shape or q.shape[:4] != v.shape[:4]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k, v have shapes {shapes}; allowed: (B, heads, H, W, d) of the same grid")
    for length, kernel, dilation in zip(q.shape[2:4], kernels, dilations, strict=True):
        neighbours(length, kernel, dilation)
    if bias is None:
        return
    spans = [2 * kernel - 1 for kernel in kernels]
    sizes = bias.shape[1:]
    if (
        bias.ndim != 3
        or len(bias) != q.shape[1]
        or any(have < want or have % 2 == 0 for have, want in zip(sizes, spans, strict=True))
    ):
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; allowed: ({q.shape[1]}, {spans[0]}, {spans[1]}), "
            "or a larger table of odd sides, of which the middle serves"
        )


class NeighbourhoodAttention2d(nn.Module):
    """Multi-head neighbourhood attention with a relative position bias: (B, H, W, C) to (B, H, W, C).

    On a grid too small for kernel x dilation both are reduced as `fit_neighbourhood` says, and this is logged
    once a grid; the bias keeps its meaning, as the middle of its table serves.

    Args:
        dim: C, a multiple of `head_dim`.
        head_dim: channels of a head.
        kernel: positions along each axis of the neighbourhood, odd.
        dilation: steps between neighbours; "widest" takes the most that the grid at hand has room for.
        backend: see `neighbourhood_attention_2d`.

    Raises:
        ValueError: `dim` is no multiple of `head_dim`, or an even kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        head_dim: int = 32,
        kernel: int = 7,
        dilation: int | Literal["widest"] = 1,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"{dim} channels do not divide into heads of {head_dim}; allowed: its multiples")
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; allowed: odd numbers")
        self.heads, self.kernel, self.dilation, self.backend = dim // head_dim, kernel, dilation, backend
        self.qkv = nn.Linear(dim, 3 * dim)
        self.bias = nn.Parameter(torch.empty(self.heads, 2 * kernel - 1, 2 * kernel - 1))
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.bias, std=0.02, a=-2.0, b=2.0)
        self._told: set[tuple[int, int]] = set()

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that an optimiser leaves undecayed (timm's convention)."""
        return {"bias"}

    def neighbourhood(self, grid: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Kernel and dilation along each axis of a grid."""
        wanted = [n // self.kernel if self.dilation == "widest" else self.dilation for n in grid]
        down, across = (
            fit_neighbourhood(n, self.kernel, max(1, e)) for n, e in zip(grid, wanted, strict=True)
        )
        kernels, dilations = (down[0], across[0]), (down[1], across[1])
        reduced = kernels != (self.kernel, self.kernel) or (
            self.dilation != "widest" and dilations != (self.dilation, self.dilation)
        )
        if reduced and grid not in self._told:
            self._told.add(grid)
            logger.warning(
                "a grid of %d x %d has no room for kernel %d, dilation %s: kernel %d x %d, dilation %d x %d",
                *(*grid, self.kernel, self.dilation, *kernels, *dilations),
            )
        return kernels, dilations

    def forward(self, x: Tensor) -> Tensor:
        """Attend within neighbourhoods."""
        kernels, dilations = self.neighbourhood((x.shape[1], x.shape[2]))
        q, k, v = rearrange(self.qkv(x), "b h w (three n d) -> three b n h w d", three=3, n=self.heads)
        out = neighbourhood_attention_2d(q, k, v, kernels, dilations, self.bias, backend=self.backend)
        return self.proj(rearrange(out, "b n h w d -> b h w (n d)"))
