"""Dilated neighbourhood attention in 2-D (Hassani et al., arXiv 2204.07143, 2209.15001), in plain torch."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveal.settings import unknown_name

logger = logging.getLogger(__name__)

Pair = int | tuple[int, int]
Backend = Literal["auto", "tiles", "flex", "natten"]

MEMORY = 64 * 2**20
"""Bytes that the gathered keys, values and scores of one chunk of tiles may take."""
DENSE_UP_TO = 256
"""Positions up to which one tile holds the whole grid: attention over everything, with a mask."""
TILES = (5, 6, 7, 8)
"""Sides that a tile of queries may have, in positions of one residue class."""


class AxisTiles(NamedTuple):
    """Queries of one axis in T tiles of Q, and the U keys that the queries of a tile see between them.

    Attributes:
        queries: (T, Q) positions; the last tile of a class repeats its last position.
        keys: (T, U) positions; a class shorter than U repeats its last position.
        offsets: (T, Q, U) s + t - j + k - 1 in 0..2k - 2 where the query sees the key, else -1.
        home: (n,) where in `queries`, flattened, each position lies.
    """

    queries: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray
    home: np.ndarray


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


def fit_neighbourhood(length: int, kernel: int, dilation: int) -> tuple[int, int]:
    """Kernel and dilation that an axis of `length` has room for: the dilation is reduced before the kernel.

    Example:
        >>> fit_neighbourhood(20, 7, 4), fit_neighbourhood(6, 7, 2)
        ((7, 2), (5, 1))
    """
    dilation = max(1, min(dilation, length // kernel))
    if length < kernel:
        kernel = length if length % 2 else length - 1
    return max(kernel, 1), dilation


@cache
def neighbours(length: int, kernel: int, dilation: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, k) that each position of an axis sees, and the entries (n, k) of the bias.

    Raises:
        ValueError: fewer than kernel x dilation positions, or an even kernel.
    """
    if kernel % 2 == 0 or kernel < 1 or dilation < 1:
        raise ValueError(
            f"kernel {kernel}, dilation {dilation}; allowed: an odd kernel, a dilation from 1 on"
        )
    if length < kernel * dilation:
        raise ValueError(
            f"{length} positions are fewer than kernel {kernel} x dilation {dilation}; "
            f"`fit_neighbourhood` reduces them to {fit_neighbourhood(length, kernel, dilation)}"
        )
    position = np.arange(length)
    group, rank = position % dilation, position // dilation
    size = -((group - length) // dilation)  # ceil((n - g) / e)
    seen = np.clip(rank - kernel // 2, 0, size - kernel)[:, None] + np.arange(kernel)
    return group[:, None] + dilation * seen, seen - rank[:, None] + kernel - 1


@cache
def axis_tiles(length: int, kernel: int, dilation: int, tile: int) -> AxisTiles:
    """The tiles of an axis: `tile` neighbouring positions of one residue class each."""
    seen, entries = neighbours(length, kernel, dilation)
    reach = min(-(-length // dilation), tile + kernel - 1)
    queries: list[np.ndarray] = []
    keys: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    home = np.empty(length, dtype=np.int64)
    for group in range(dilation):
        members = np.arange(group, length, dilation)
        for start in range(0, len(members), tile):
            rows = members[np.minimum(np.arange(start, start + tile), len(members) - 1)]
            first = min(max(int(seen[rows[0], 0]) // dilation, 0), max(len(members) - reach, 0))
            numbers = first + np.arange(reach)
            columns = members[np.minimum(numbers, len(members) - 1)]
            there = numbers < len(members)
            table = np.full((tile, reach), -1)
            number = seen[rows] // dilation - first  # (Q, k) places in `columns`
            np.put_along_axis(table, number, entries[rows], axis=1)
            table[:, ~there] = -1
            count = min(tile, len(members) - start)
            home[rows[:count]] = len(queries) * tile + np.arange(count)
            queries.append(rows)
            keys.append(columns)
            offsets.append(table)
    return AxisTiles(np.stack(queries), np.stack(keys), np.stack(offsets), home)


class _GridTiles(NamedTuple):
    queries: Tensor  # (T, Q) flat positions
    keys: Tensor  # (T, U)
    entries: Tensor  # (T, Q, U) into the flattened bias with one entry more at its end: not seen
    home: Tensor  # (H W,)


@cache
def _grid_tiles(
    grid: tuple[int, int],
    kernels: tuple[int, int],
    dilations: tuple[int, int],
    tile: tuple[int, int],
    device: torch.device,
) -> _GridTiles:
    rows, columns = (axis_tiles(*of) for of in zip(grid, kernels, dilations, tile, strict=True))

    def crossed(down: np.ndarray, across: np.ndarray) -> np.ndarray:
        both = down[:, None, :, None] * grid[1] + across[None, :, None, :]
        return both.reshape(len(down) * len(across), -1)

    below = rows.offsets[:, None, :, None, :, None]
    right = columns.offsets[None, :, None, :, None, :]
    span = 2 * kernels[1] - 1
    entries = np.where((below >= 0) & (right >= 0), below * span + right, (2 * kernels[0] - 1) * span)
    tiles = len(rows.queries) * len(columns.queries)
    entries = entries.reshape(tiles, tile[0] * tile[1], -1)
    row_tile, row_place = np.divmod(rows.home, tile[0])
    column_tile, column_place = np.divmod(columns.home, tile[1])
    which = row_tile[:, None] * len(columns.queries) + column_tile
    place = row_place[:, None] * tile[1] + column_place
    home = (which * tile[0] * tile[1] + place).ravel()
    arrays = (crossed(rows.queries, columns.queries), crossed(rows.keys, columns.keys), entries, home)
    return _GridTiles(*(torch.from_numpy(array).to(device) for array in arrays))


def _tile_side(length: int, dilation: int) -> int:
    """The side that leaves the fewest places empty; of equals the largest."""
    size = -(-length // dilation)
    return min(size, min(TILES, key=lambda side: (-(-size // side) * side, -side)))


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
    tile = (_tile_side(height, dilations[0]), _tile_side(width, dilations[1]))
    if height * width <= DENSE_UP_TO and dilations == (1, 1):
        tile = (height, width)
    tables = _grid_tiles((height, width), kernels, dilations, tile, q.device)
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    if bias is None:
        bias = q.new_zeros(heads, 2 * kernels[0] - 1, 2 * kernels[1] - 1)
    flat = F.pad(bias.flatten(1).to(q.dtype), (0, 1), value=float("-inf"))

    def attend(q: Tensor, k: Tensor, v: Tensor, flat: Tensor, chunk: slice) -> Tensor:
        # Heads and tiles share an axis: fused kernels want four.
        mask = flat[:, tables.entries[chunk]].flatten(0, 1)[None]
        near, far = tables.queries[chunk], tables.keys[chunk]
        near_q, far_k, far_v = (
            x[:, :, places].flatten(1, 2) for x, places in ((q, near), (k, far), (v, far))
        )
        out = F.scaled_dot_product_attention(near_q, far_k, far_v, attn_mask=mask, scale=scale)
        return rearrange(out, "b (h t) q d -> b h (t q) d", h=heads)

    count, side = tables.queries.shape
    reach = tables.keys.shape[1]
    numbers = batch * (2 * reach * dim + 2 * side * dim + 2 * side * reach) + 3 * side * reach
    step = max(1, MEMORY // (heads * numbers * q.element_size()))
    pieces = []
    for start in range(0, count, step):
        chunk = slice(start, start + step)
        if torch.is_grad_enabled() and step < count:  # what a chunk gathers is made again going back
            pieces.append(checkpoint(attend, q, k, v, flat, chunk, use_reentrant=False))
        else:
            pieces.append(attend(q, k, v, flat, chunk))
    out = torch.cat(pieces, dim=2)[:, :, tables.home]
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
    axes = [
        _axis_entries(length, kernel, dilation, device)
        for length, kernel, dilation in zip((height, width), kernels, dilations, strict=True)
    ]
    below, right = axes

    def sees(batch: Tensor, head: Tensor, one: Tensor, other: Tensor) -> Tensor:
        down, across = below[one // width, other // width], right[one % width, other % width]
        return (down >= 0) & (across >= 0)

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, one: Tensor, other: Tensor) -> Tensor:
        if bias is None:
            return score
        down, across = below[one // width, other // width], right[one % width, other % width]
        return score + bias[head, down.clamp(min=0), across.clamp(min=0)]

    attention = torch.compile(flex_attention) if q.is_cuda else flex_attention
    block_mask = create_block_mask(sees, None, None, height * width, height * width, device=str(device))
    q, k, v = (x.flatten(2, 3).contiguous() for x in (q, k, v))
    out = attention(q, k, v, score_mod=add_bias, block_mask=block_mask, scale=scale)
    return out.unflatten(2, (height, width))


@cache
def _axis_entries(length: int, kernel: int, dilation: int, device: torch.device) -> Tensor:
    """(n, n) entry of the bias for each pair of positions, -1 where the first does not see the second."""
    seen, entries = neighbours(length, kernel, dilation)
    table = np.full((length, length), -1)
    np.put_along_axis(table, seen, entries, axis=1)
    return torch.from_numpy(table).to(device)


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
