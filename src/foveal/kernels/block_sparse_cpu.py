"""Block-sparse linear layers on the CPU: a Numba kernel around a product of vectors held in registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from foveal.kernels.threads import on_threads

VECTOR = 8  # numbers; two such vectors for each of six rows fill the sixteen registers of AVX2 but for three
ROWS = 6
TOGETHER = 768  # inputs of kept tiles that stay near while a group of rows passes
GROUP = 192  # rows of x that stay near while all tiles pass
UNROLLED = 4


def multiply_on_cpu(
    x: Tensor, tiles: Tensor, starts: Tensor, columns: Tensor, bias: Tensor | None, outputs: int
) -> Tensor:
    """Checked 32-bit tensors, as `block_sparse_linear` takes them."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    rows, (_, width, height) = len(starts) - 1, tiles.shape
    first = np.zeros(rows * height, np.float32)
    if bias is not None:
        first[:outputs] = bias.detach().float().numpy()
    y = np.empty((len(flat), rows * height), np.float32)
    arrays = (
        flat.detach().numpy().reshape(-1),
        tiles.detach().contiguous().numpy().reshape(-1),
        starts.numpy(),
        columns.numpy(),
    )
    _check(*arrays[2:], inputs=x.shape[-1], width=width)
    sizes = (x.shape[-1], height, width, max(1, TOGETHER // width))
    on_threads(
        lambda some: _multiply(some, *arrays, first, y.reshape(-1), *sizes),
        _groups(len(flat), torch.get_num_threads()),
    )
    found = torch.from_numpy(y)
    return (found if outputs == found.shape[1] else found[:, :outputs].contiguous()).view(
        *x.shape[:-1], outputs
    )


def _check(starts: np.ndarray, columns: np.ndarray, *, inputs: int, width: int) -> None:
    """Compiled code would read beyond its arrays."""
    across = -(-inputs // width)
    if len(columns) and not (columns.min() >= 0 and columns.max() < across):
        raise ValueError(f"columns up to {columns.max()}; {inputs} inputs have {across} tiles {width} wide")
    if starts[0] != 0 or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        raise ValueError(f"starts must rise from 0 to the number of tiles, {len(columns)}")


@lru_cache(maxsize=64)
def _groups(count: int, threads: int) -> np.ndarray:
    """(M, 2): first and last of some rows, as many for each thread."""
    share = -(-count // max(1, threads * -(-count // (threads * GROUP))))
    size = max(ROWS, -(-share // ROWS) * ROWS)
    begins = np.arange(0, count, size)
    return np.stack([begins, np.minimum(begins + size, count)], axis=1)


def _product(rows: int, vectors: int) -> Callable[..., None]:
    """A product that adds the tiles' share to `vectors` vectors of outputs of `rows` rows, held in registers.

    Written for LLVM itself: as loops over arrays the sums would be stored and loaded again at every input.
    """

    # fmt: off
    @intrinsic
    def product(  # type: ignore[no-untyped-def]
        _typing, y, at, wide, old, of, stride, x, x_at, inputs,
        tiles, skip, columns, begin, end, height, width
    ):
        given = (
            y, at, wide, old, of, stride, x, x_at, inputs, tiles, skip, columns, begin, end, height, width
        )
        # fmt: on

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _write_product(rows, vectors, context, builder, signature, values)
            return context.get_dummy_value()

        return types.void(*given), generate

    return product  # type: ignore[no-any-return]


def _write_product(rows: int, vectors: int, context: Any, builder: Any, signature: Any, values: Any) -> None:
    whole, index = ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(ir.FloatType(), VECTOR)
    nothing, everywhere = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(index, VECTOR), None)
    y, old, x, tiles, columns = (
        context.make_array(signature.args[k])(context, builder, values[k]).data for k in (0, 3, 6, 9, 11)
    )
    _, at, wide, _, of, stride, _, x_at, inputs, _, skip, _, begin, end, height, width = values
    add_product = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{VECTOR}f32"
    )

    def number(value: int) -> Any:
        return ir.Constant(whole, value)

    def address(start: Any, offset: Any) -> Any:
        return builder.gep(start, [offset])

    def vector_at(start: Any, k: int) -> Any:
        return builder.bitcast(address(start, number(VECTOR * k)), vector.as_pointer())

    def load(start: Any, k: int) -> Any:
        found = builder.load(vector_at(start, k))
        found.align = 4
        return found

    outputs = [address(y, builder.add(at, builder.mul(wide, number(row)))) for row in range(rows)]
    before = [address(old, builder.add(of, builder.mul(stride, number(row)))) for row in range(rows)]
    sums = [[cgutils.alloca_once_value(builder, load(start, k)) for k in range(vectors)] for start in before]
    with cgutils.for_range_slice(builder, begin, end, number(1), intp=whole) as (tile, _):
        column = builder.mul(builder.load(address(columns, tile)), width)
        left = builder.sub(inputs, column)
        count = builder.select(builder.icmp_signed("<", left, width), left, width)
        weights = address(tiles, builder.add(builder.mul(tile, builder.mul(height, width)), skip))
        rows_of_x = [
            address(x, builder.add(builder.add(x_at, column), builder.mul(inputs, number(row))))
            for row in range(rows)
        ]

        def add(k: Any) -> None:
            here = address(weights, builder.mul(k, height))
            loaded = [load(here, v) for v in range(vectors)]
            for row in range(rows):
                one = builder.insert_element(
                    nothing, builder.load(address(rows_of_x[row], k)), ir.Constant(index, 0)
                )
                spread = builder.shuffle_vector(one, nothing, everywhere)
                for v in range(vectors):
                    builder.store(
                        builder.call(add_product, [spread, loaded[v], builder.load(sums[row][v])]),
                        sums[row][v],
                    )

        rounds = builder.udiv(count, number(UNROLLED))
        with cgutils.for_range(builder, rounds, intp=whole) as loop:
            base = builder.mul(loop.index, number(UNROLLED))
            for step in range(UNROLLED):
                add(builder.add(base, number(step)))
        done = builder.mul(rounds, number(UNROLLED))
        with cgutils.for_range_slice(builder, done, count, number(1), intp=whole) as (k, _):
            add(k)
    for row in range(rows):
        for v in range(vectors):
            stored = builder.store(builder.load(sums[row][v]), vector_at(outputs[row], v))
            stored.align = 4


_six_of_two, _one_of_two = _product(ROWS, 2), _product(1, 2)
_six_of_one, _one_of_one = _product(ROWS, 1), _product(1, 1)


# fmt: off
@njit(nogil=True, cache=True, error_model="numpy")
def _multiply(groups, x, tiles, starts, columns, bias, y, inputs, height, width, together):  # type: ignore[no-untyped-def]
    wide = (len(starts) - 1) * height
    sizes = (wide, inputs, height, width)
    for g in range(len(groups)):
        rows = (groups[g, 0], groups[g, 1])
        for r in range(len(starts) - 1):
            begin, end = starts[r], min(starts[r] + together, starts[r + 1])
            _add_tiles(rows, r * height, bias, 0, x, tiles, columns, begin, end, y, sizes)
            while end < starts[r + 1]:
                begin, end = end, min(end + together, starts[r + 1])
                _add_tiles(rows, r * height, y, wide, x, tiles, columns, begin, end, y, sizes)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_tiles(rows, place, old, stride, x, tiles, columns, begin, end, y, sizes):  # type: ignore[no-untyped-def]
    """y = old + what the tiles give, for a range of rows and the outputs from `place` of a row of tiles."""
    wide, inputs, height, width = sizes
    for h in range(0, height, 2 * VECTOR):
        double = h + 2 * VECTOR <= height
        t = rows[0]
        while t < rows[1]:
            six = t + ROWS <= rows[1]
            at, of, from_x = t * wide + place + h, t * stride + place + h, t * inputs
            if six and double:
                _six_of_two(y, at, wide, old, of, stride, x, from_x, inputs,
                            tiles, h, columns, begin, end, height, width)
            elif six:
                _six_of_one(y, at, wide, old, of, stride, x, from_x, inputs,
                            tiles, h, columns, begin, end, height, width)
            elif double:
                _one_of_two(y, at, wide, old, of, stride, x, from_x, inputs,
                            tiles, h, columns, begin, end, height, width)
            else:
                _one_of_one(y, at, wide, old, of, stride, x, from_x, inputs,
                            tiles, h, columns, begin, end, height, width)
            t += ROWS if six else 1
# fmt: on
