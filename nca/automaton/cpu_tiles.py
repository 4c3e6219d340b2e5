"""Tiles of matrix products whose sums stay in vector registers, as functions of compiled loops."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from nca.automaton.cpu_strips import FASTMATH, REGISTER_BYTES, intrinsic, splat

BYTES = ir.IntType(8).as_pointer()
INT = ir.IntType(64)


def make_tile(n_rows: int, n_registers: int, *, adds: bool) -> Any:
    """Return a function that computes a tile of a matrix product.

    `tile(a, i, b, j, n, out, o)` sets `n_rows` rows of `out`, of `n_registers` registers each, to the product
    of as many rows of `a` and `n` rows of `b`, or adds it to them. `i`, `j` and `o` are the indices of the
    first value of each; the last dimension of `b` and `out` is contiguous, `a` may be transposed.

    Args:
        n_rows: Of the tile; all sums, a row of `b` and a value of `a` should fit the registers.
        n_registers: Width of the tile.
        adds: Add the product instead of setting it.
    """

    @intrinsic
    def tile(_: Any, a: Any, i: Any, b: Any, j: Any, n: Any, out: Any, o: Any) -> Any:
        indices = [types.UniTuple(types.intp, array.ndim) for array in (a, b, out)]
        signature = types.void(a, indices[0], b, indices[1], types.intp, out, indices[2])

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds, size = signature.args, out.dtype.bitwidth // 8
            element = context.get_value_type(out.dtype)
            strip = ir.VectorType(element, REGISTER_BYTES // size)
            (a, a_row, a_step), (b, b_step, _), (out_, out_row, _) = (
                _place(context, builder, kinds[k], arguments[k], arguments[k + 1]) for k in (0, 2, 5)
            )
            places = [
                _move(builder, out_, builder.mul(out_row, INT(row)), INT(register * REGISTER_BYTES))
                for row in range(n_rows)
                for register in range(n_registers)
            ]
            places = [builder.bitcast(place, strip.as_pointer()) for place in places]
            zero = ir.Constant(strip, strip.count * [0.0])
            first = [builder.load(place, align=size) if adds else zero for place in places]
            rows = [builder.mul(a_row, INT(row)) for row in range(n_rows)]

            def step(a: Any, b: Any, sums: list[Any]) -> list[Any]:
                strips = [
                    builder.load(_cast(builder, b, INT(r * REGISTER_BYTES), strip), align=size)
                    for r in range(n_registers)
                ]
                results = []
                for number, total in enumerate(sums):
                    row, register = divmod(number, n_registers)
                    if register == 0:
                        factor = splat(builder, builder.load(_cast(builder, a, rows[row], element)), strip)
                    product = builder.fmul(factor, strips[register], flags=FASTMATH)
                    results.append(builder.fadd(total, product, flags=FASTMATH))
                return results

            sums = _loop(builder, arguments[4], ((a, a_step), (b, b_step)), first, step)
            for place, total in zip(places, sums, strict=True):
                builder.store(total, place, align=size)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> tuple[Any, Any, Any]:
    """Return a pointer to a value of an array, and the strides of its last two dimensions in bytes."""
    struct = context.make_array(kind)(context, builder, array)
    place = cgutils.unpack_tuple(builder, index)
    pointer = cgutils.get_item_pointer(context, builder, kind, struct, place, wraparound=False)
    *_, row, column = cgutils.unpack_tuple(builder, struct.strides)
    return builder.bitcast(pointer, BYTES), row, column


def _move(builder: Any, pointer: Any, *n_bytes: Any) -> Any:
    for each in n_bytes:
        pointer = builder.gep(pointer, [each])
    return pointer


def _cast(builder: Any, pointer: Any, n_bytes: Any, kind: Any) -> Any:
    return builder.bitcast(_move(builder, pointer, n_bytes), kind.as_pointer())


def _loop(builder: Any, n: Any, moving: Any, first: list[Any], step: Any) -> list[Any]:
    """Generate `n` > 0 steps that take pointers, which move by a stride each, and values to new values."""
    before, body = builder.block, builder.append_basic_block("step")
    after = builder.append_basic_block("after")
    builder.branch(body)
    builder.position_at_end(body)
    count = builder.phi(INT)
    pointers = [builder.phi(pointer.type) for pointer, _ in moving]
    values = [builder.phi(value.type) for value in first]
    results: list[Any] = step(*pointers, values)
    following = builder.add(count, INT(1))
    ends = [
        (count, INT(0), following),
        *((phi, p, _move(builder, phi, s)) for phi, (p, s) in zip(pointers, moving, strict=True)),
        *zip(values, first, results, strict=True),
    ]
    for phi, start, end in ends:
        phi.add_incoming(start, before)
        phi.add_incoming(end, body)
    builder.cbranch(builder.icmp_signed("<", following, n), body, after)
    builder.position_at_end(after)
    return results
