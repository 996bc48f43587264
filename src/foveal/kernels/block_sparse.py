"""Linear layers of which only some tiles of the weight are kept (LPViT, arXiv 2407.02068).

A weight (O, I) is cut into tiles of h x w, those at the right and lower edge filled up with zeros. The kept
ones lie row of tiles by row of tiles, each turned over (inputs first), so that a vector of neighbouring
outputs is one load beside one input: inputs and outputs stay where they lie, nothing is gathered.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from foveal.kernels.fallback import compiled_module
from foveal.settings import unknown_name

BACKENDS = ("auto", "compiled", "reference")
NARROWEST = 8  # outputs of a tile are whole vectors of so many numbers in the compiled form


def block_sparse_linear(
    x: Tensor,
    tiles: Tensor,
    starts: Tensor,
    columns: Tensor,
    bias: Tensor | None = None,
    *,
    outputs: int,
    backend: str = "auto",
) -> Tensor:
    """y = x W^T + bias, where W has the given tiles and is 0 elsewhere.

    The compiled form has no gradients; where they are wanted, and in exports, a whole weight is put together
    and torch's own linear layer runs, so explainers meet that.

    Args:
        x: (..., I).
        tiles: (N, w, h) of `tiles_of`.
        starts: (R + 1,) int64, row of tiles r has the tiles from starts[r] to before starts[r + 1].
        columns: (N,) int64, the column of tiles of each.
        bias: (O,).
        outputs: O, above (R - 1) h to R h.
        backend: "compiled" (CPU, 32 bits, h a multiple of 8, no gradients), "reference" (plain torch), or the
            one that fits.

    Returns:
        (..., O).

    Raises:
        ValueError: shapes or an index that do not fit, an unknown backend, or "compiled" for what it does not
            take.
    """
    if tiles.ndim != 3 or columns.shape != tiles.shape[:1] or starts.ndim != 1 or x.ndim < 1:
        raise ValueError(
            f"tiles of shape {tuple(tiles.shape)}, columns {tuple(columns.shape)}, starts "
            f"{tuple(starts.shape)}; allowed: (N, w, h), (N,) and (R + 1,)"
        )
    rows, height = len(starts) - 1, tiles.shape[2]
    if -(-outputs // height) != rows or (bias is not None and bias.shape != (outputs,)):
        raise ValueError(
            f"{outputs} outputs, bias {None if bias is None else tuple(bias.shape)}, {rows} rows of tiles "
            f"{height} high; allowed: a bias of as many as outputs, which the rows just hold"
        )
    if backend not in BACKENDS:
        raise ValueError(unknown_name("backend", backend, BACKENDS))
    learns = torch.is_grad_enabled() and (
        x.requires_grad or tiles.requires_grad or (bias is not None and bias.requires_grad)
    )
    same = x.dtype is torch.float32 and tiles.dtype is torch.float32 and x.is_cpu
    compiles = same and height % NARROWEST == 0 and not learns
    if backend == "auto":
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        backend = "compiled" if compiles and not traced else "reference"
    if backend == "reference":
        weight = dense_of(tiles, starts, columns, (outputs, x.shape[-1]))
        return F.linear(x, weight, bias)
    if not compiles:
        raise ValueError(
            f"backend='compiled' takes 32 bits on the CPU, tiles whose height is a multiple of {NARROWEST}, "
            f"and no gradients; got {x.dtype} and {tiles.dtype} on {x.device}, {height} high"
            f"{', gradients' if learns else ''}"
        )
    return torch.ops.foveal.block_sparse_linear(x, tiles, starts, columns, bias, outputs)  # type: ignore[no-any-return]


def tiles_of(weight: Tensor, kept: Tensor, block: tuple[int, int]) -> Tensor:
    """The kept tiles (N, w, h) of a weight (O, I), row of tiles by row of tiles.

    Args:
        weight: (O, I).
        kept: (R, C) bool, of `tile_grid`'s shape.
        block: h outputs and w inputs of a tile.
    """
    return in_tiles(weight, block)[kept].mT.contiguous()


def tile_grid(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles of a weight; those at the edges may be smaller than `block`."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def in_tiles(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """A matrix (O, I) as tiles (R, C, h, w), with zeros beyond its edges."""
    (rows, columns), (height, width) = tile_grid(tuple(matrix.shape), block), block  # type: ignore[arg-type]
    padded = F.pad(matrix, (0, columns * width - matrix.shape[1], 0, rows * height - matrix.shape[0]))
    return rearrange(padded, "(r h) (c w) -> r c h w", h=height, w=width)


def from_tiles(tiles: Tensor, shape: tuple[int, int]) -> Tensor:
    """Tiles (R, C, h, w) as the matrix (O, I) of that shape."""
    whole = rearrange(tiles, "r c h w -> (r h) (c w)")
    return whole[: shape[0], : shape[1]]


def dense_of(tiles: Tensor, starts: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """The weight (O, I) that has the tiles (N, w, h) and is 0 elsewhere; with gradients."""
    width, height = tiles.shape[1:]
    across = -(-shape[1] // width)
    places = rows_of(starts, len(columns)) * across + columns
    flat = tiles.new_zeros((len(starts) - 1) * across, height, width).index_copy(0, places, tiles.mT)
    return from_tiles(flat.unflatten(0, (len(starts) - 1, across)), shape)


def rows_of(starts: Tensor, count: int) -> Tensor:
    """The row of tiles (N,) of each of `count` tiles."""
    tile = torch.arange(count, device=starts.device)
    return (tile[:, None] >= starts[None, 1:]).sum(dim=1)


def _on_cpu(
    x: Tensor, tiles: Tensor, starts: Tensor, columns: Tensor, bias: Tensor | None, outputs: int
) -> Tensor:
    compiled = compiled_module("block_sparse_cpu")
    if compiled is None:
        return F.linear(x, dense_of(tiles, starts, columns, (outputs, x.shape[-1])), bias)
    return compiled.multiply_on_cpu(x, tiles, starts, columns, bias, outputs)  # type: ignore[no-any-return]


# An operation of its own, so that torch's counter of operations sees it.
_library = torch.library.Library("foveal", "FRAGMENT")
_library.define(
    "block_sparse_linear(Tensor x, Tensor tiles, Tensor starts, Tensor columns, Tensor? bias, int outputs) "
    "-> Tensor"
)
_library.impl("block_sparse_linear", _on_cpu, "CPU")


@register_flop_formula(torch.ops.foveal.block_sparse_linear)  # type: ignore[untyped-decorator]
def _operations(x: Any, tiles: Any, *_rest: Any, **_options: Any) -> int:
    """2 for each weight of a tile and row of inputs, as of a matrix product."""
    return 2 * math.prod(x[:-1]) * math.prod(tiles)
