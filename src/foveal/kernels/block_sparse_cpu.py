"""Block-sparse linear layers on the CPU: a Numba kernel around a product of vectors held in registers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from foveal.kernels.denormals import flush_denormals, restore_denormals
from foveal.kernels.team import on_team

VECTOR = 8  # numbers; two such vectors for each of six rows fill the sixteen registers of AVX2 but for three
ROWS = 6
TOGETHER = 768  # inputs of kept tiles that stay near while a group of rows passes
GROUP = 192  # rows of x that stay near while all tiles pass
UNROLLED = 4
SMALL = 1_000_000  # products that one thread has done before another one is awake
_NUMBERS = 16  # of a job


def multiply_on_cpu(
    x: Tensor, tiles: Tensor, starts: Tensor, columns: Tensor, bias: Tensor | None, outputs: int
) -> Tensor:
    """Checked 32-bit tensors, as `block_sparse_linear` takes them."""
    inputs, rows, (count, width, height) = x.shape[-1], len(starts) - 1, tiles.shape
    wide = rows * height
    # Names hold what the job has only addresses of.
    flat, tiles = x.reshape(-1, inputs).contiguous(), tiles.contiguous()
    starts, columns = starts.long().contiguous(), columns.long().contiguous()
    if bias is None or outputs != wide or bias.dtype != torch.float32:
        first = x.new_zeros(wide)
        if bias is not None:
            first[:outputs] = bias
    else:
        first = bias.contiguous()
    y = x.new_empty(len(flat), wide)
    threads = 1 if len(flat) * tiles.numel() < SMALL else torch.get_num_threads()
    job = (ctypes.c_int64 * _NUMBERS)(
        0, 0, len(flat), _size(len(flat), threads), rows, count, inputs, height, width,
        max(1, TOGETHER // width), flat.data_ptr(), tiles.data_ptr(), starts.data_ptr(),
        columns.data_ptr(), first.data_ptr(), y.data_ptr(),
    )  # fmt: skip
    on_team(_multiply, job, threads)
    if job[1]:
        raise ValueError(
            f"starts must rise from 0 to the number of tiles, {count}, and columns be below "
            f"{-(-inputs // width)}, the tiles {width} wide of {inputs} inputs"
        )
    return (y if outputs == wide else y[:, :outputs].contiguous()).view(*x.shape[:-1], outputs)


def _size(count: int, threads: int) -> int:
    """Rows of a group: as many groups for each thread, of which the rows stay near."""
    share = -(-count // max(1, threads * -(-count // (threads * GROUP))))
    return max(ROWS, -(-share // ROWS) * ROWS)


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


@intrinsic
def _pointer(_typing, address):  # type: ignore[no-untyped-def]
    """An address as what `carray` takes."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def _take(_typing, numbers):  # type: ignore[no-untyped-def]
    """The first of some 64-bit numbers, which grows by one; no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(numbers), generate


@njit(nogil=True, cache=True, error_model="numpy")
def _fits(starts, columns, across):  # type: ignore[no-untyped-def]
    """Whether all tiles lie within the weight; else the product would read beyond its arrays."""
    if starts[0] != 0 or starts[-1] != len(columns):
        return False
    for r in range(len(starts) - 1):
        if starts[r + 1] < starts[r]:
            return False
    for column in columns:  # noqa: SIM110, Numba has no `all`
        if column < 0 or column >= across:
            return False
    return True


# fmt: off
@njit(nogil=True, cache=True, error_model="numpy")
def _add_tiles(rows, place, old, stride, x, tiles, columns, begin, end, y, sizes):  # type: ignore[no-untyped-def]
    """y = old + what the tiles give, for a range of rows and the outputs from `place` of a row of tiles."""
    wide, inputs, height, width = sizes
    for h in range(0, height, 2 * VECTOR):
        double = h + 2 * VECTOR <= height
        t = rows[0]
        while t < rows[1]:
            if t + ROWS > rows[1] and stride == 0 and rows[1] - rows[0] >= ROWS:
                t = rows[1] - ROWS  # the last six once more: nothing was added to them that would count twice
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


@cfunc(types.void(types.voidptr), cache=True, error_model="numpy")
def _multiply(address):  # type: ignore[no-untyped-def]
    """Groups of rows, one after the other, until none is left; the job's first number counts them."""
    job = carray(address, _NUMBERS, np.int64)
    count, size, rows, inputs, height, width = job[2], job[3], job[4], job[6], job[7], job[8]
    wide = rows * height
    starts = carray(_pointer(job[12]), rows + 1, np.int64)  # type: ignore[call-arg]
    columns = carray(_pointer(job[13]), job[5], np.int64)
    if not _fits(starts, columns, (inputs + width - 1) // width):
        job[1] = 1
        return
    x = carray(_pointer(job[10]), count * inputs, np.float32)
    tiles = carray(_pointer(job[11]), job[5] * height * width, np.float32)
    bias = carray(_pointer(job[14]), wide, np.float32)
    y = carray(_pointer(job[15]), count * wide, np.float32)
    sizes = (wide, inputs, height, width)
    before = flush_denormals()
    while True:
        first = _take(job) * size  # type: ignore[call-arg]
        if first >= count:
            break
        some = (first, min(first + size, count))
        for r in range(rows):
            begin, end = starts[r], min(starts[r] + job[9], starts[r + 1])
            _add_tiles(some, r * height, bias, 0, x, tiles, columns, begin, end, y, sizes)
            while end < starts[r + 1]:
                begin, end = end, min(end + job[9], starts[r + 1])
                _add_tiles(some, r * height, y, wide, x, tiles, columns, begin, end, y, sizes)
    restore_denormals(before)
