"""Strips of consecutive cells in vector registers, as values of compiled loops.

A loop that keeps several strips in local variables keeps them in registers, which loops over single cells
do not: they are as fast as a library's products for the small matrices of an update rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

# Of PyTorch's names for the vector instructions of a CPU.
REGISTER_BYTES = {"AVX512": 64, "AVX2": 32}.get(torch.backends.cpu.get_cpu_capability(), 16)
# NaN and infinity keep their meaning, and sums their order: "reassoc" gave code that was just compiled other
# sums than the same code out of the cache.
FASTMATH = ("contract", "nsz")
INDEX = ir.IntType(32)


def intrinsic(define: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of compiled loops from one that returns its signature and a generator of LLVM code."""
    function: Callable[..., Any] = extending.intrinsic(define)
    return function


class Strip(types.Type):
    """The type of a strip that fills one register, or two."""

    def __init__(self, dtype: Any, n_registers: int) -> None:
        self.dtype, self.n_registers = dtype, n_registers
        super().__init__(f"Strip({dtype}, {n_registers})")


@extending.register_model(Strip)
class _StripModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, strip: Strip) -> None:
        element = manager.lookup(strip.dtype).get_value_type()
        n_cells = strip.n_registers * REGISTER_BYTES * 8 // strip.dtype.bitwidth
        super().__init__(manager, strip, ir.VectorType(element, n_cells))  # type: ignore[no-untyped-call]


def _make_load(n_registers: int) -> Any:
    @intrinsic
    def load(_: Any, array: Any, index: Any) -> Any:
        """Return the strip that begins at an index of an array and goes along its last dimension."""
        strip = Strip(array.dtype, n_registers)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], arguments, context.get_value_type(strip))
            return builder.load(pointer, align=array.dtype.bitwidth // 8)

        return strip(array, types.UniTuple(types.intp, array.ndim)), generate

    return load


def _make_fill(n_registers: int) -> Any:
    @intrinsic
    def fill(_: Any, value: Any) -> Any:
        """Return a strip of one value."""
        strip = Strip(value, n_registers)

        def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            return splat(builder, arguments[0], context.get_value_type(strip))

        return strip(value), generate

    return fill


load, fill = _make_load(1), _make_fill(1)
load_pair, fill_pair = _make_load(2), _make_fill(2)


@intrinsic
def store(_: Any, array: Any, index: Any, strip: Any) -> Any:
    """Set the strip that begins at an index of an array and goes along its last dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *place, value = arguments
        pointer = _pointer(context, builder, signature.args[0], place, value.type)
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.UniTuple(types.intp, array.ndim), strip), generate


@intrinsic
def add_scaled(_: Any, total: Any, factor: Any, strip: Any) -> Any:
    """Return `total + factor * strip`; the factor is a number or a strip."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        total, factor, strip = arguments
        if factor.type != strip.type:
            factor = splat(builder, factor, strip.type)
        return builder.fadd(total, builder.fmul(factor, strip, flags=FASTMATH), flags=FASTMATH)

    return total(total, factor, strip), generate


@intrinsic
def add_up(_: Any, strip: Any) -> Any:
    """Return the sum of a strip's values."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        while value.type.count > 1:
            half = value.type.count // 2
            parts = [_part(builder, value, first, half) for first in (0, half)]
            value = builder.fadd(*parts, flags=FASTMATH)
        return builder.extract_element(value, INDEX(0))

    return strip.dtype(strip), generate


@intrinsic
def add_sums(_: Any, array: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Add the sums of four strips' values to four values of an array, from an index on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *place, a, b, c, d = arguments
        n = a.type.count
        first, second = _fold(builder, a, b, n), _fold(builder, c, d, n)
        sums = _fold(builder, first, second, n // 2) if n > 2 else _join(builder, first, second, [0, 1, 2, 3])
        while sums.type.count > 4:
            size = sums.type.count // 4
            kept = [i for i in range(sums.type.count) if i % size < size // 2]
            parts = [_join(builder, sums, sums, [i + shift for i in kept]) for shift in (0, size // 2)]
            sums = builder.fadd(*parts, flags=FASTMATH)
        pointer = _pointer(context, builder, signature.args[0], place, sums.type)
        align = array.dtype.bitwidth // 8
        total = builder.fadd(builder.load(pointer, align=align), sums, flags=FASTMATH)
        builder.store(total, pointer, align=align)
        return context.get_dummy_value()

    return types.void(array, types.UniTuple(types.intp, array.ndim), a, b, c, d), generate


def _fold(builder: Any, a: Any, b: Any, size: int) -> Any:
    """Add the halves of each group of `size` values, of two vectors; the groups of the second come last."""
    kept = [i for i in range(2 * a.type.count) if i % size < size // 2]
    parts = [_join(builder, a, b, [i + shift for i in kept]) for shift in (0, size // 2)]
    return builder.fadd(*parts, flags=FASTMATH)


def _join(builder: Any, a: Any, b: Any, indices: list[int]) -> Any:
    """Generate the vector of these values of two."""
    return builder.shuffle_vector(a, b, _indices(indices))


@infer_global(operator.add)
@infer_global(operator.mul)
@infer_global(operator.sub)
class _Arithmetic(AbstractTemplate):
    def generic(self, arguments: Any, _: Any) -> Any:
        """Return the signature of an operation on two strips."""
        a, b = arguments
        return signature(a, a, b) if isinstance(a, Strip) and a == b else None


@extending.lower_builtin(operator.add, Strip, Strip)  # type: ignore[untyped-decorator]
def _add(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    return builder.fadd(*arguments, flags=FASTMATH)


@extending.lower_builtin(operator.sub, Strip, Strip)  # type: ignore[untyped-decorator]
def _subtract(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    return builder.fsub(*arguments, flags=FASTMATH)


@extending.lower_builtin(operator.mul, Strip, Strip)  # type: ignore[untyped-decorator]
def _multiply(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    return builder.fmul(*arguments, flags=FASTMATH)


@intrinsic
def load_mask(_: Any, mask: Any, index: Any, strip: Any) -> Any:
    """Return a strip like `strip` of the values of a mask from an index on, along its last dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(strip)
        bytes_ = ir.VectorType(ir.IntType(8), kind.count)
        pointer = _pointer(context, builder, signature.args[0], arguments, bytes_)
        return builder.sitofp(builder.load(pointer, align=1), kind)

    return strip(mask, types.UniTuple(types.intp, mask.ndim), strip), generate


@intrinsic
def rectify(_: Any, strip: Any) -> Any:
    """Return a strip with 0 for its negative values; NaN stays NaN."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        zero = ir.Constant(value.type, value.type.count * [0.0])
        return builder.select(builder.fcmp_ordered("<", value, zero), zero, value)

    return strip(strip), generate


@intrinsic
def clamp(_: Any, strip: Any) -> Any:
    """Return a strip clamped to [0, 1]; NaN stays NaN."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        for order, limit in (("<", 0.0), (">", 1.0)):
            bound = ir.Constant(value.type, value.type.count * [limit])
            value = builder.select(builder.fcmp_ordered(order, value, bound), bound, value)
        return value

    return strip(strip), generate


@intrinsic
def pass_clamp(_: Any, grad: Any, clamped: Any) -> Any:
    """Return the gradient of a value from that of its clamped one: 0 where that is at a limit."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        grad, clamped = arguments
        zero, one = (ir.Constant(grad.type, grad.type.count * [limit]) for limit in (0.0, 1.0))
        for order, limit in (("<=", zero), (">=", one)):
            grad = builder.select(builder.fcmp_ordered(order, clamped, limit), zero, grad)
        return grad

    return grad(grad, clamped), generate


@intrinsic
def transpose(_: Any, array: Any, index: Any, out: Any, place: Any) -> Any:
    """Set a square of `out` to the transpose of one of `array`, as many values a side as a strip has.

    Both begin at an index and lie in the last two dimensions.
    """
    kind = Strip(array.dtype, 1)
    indices = [types.UniTuple(types.intp, each.ndim) for each in (array, out)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        strip, size = context.get_value_type(kind), array.dtype.bitwidth // 8
        source, result = (
            _row_pointers(context, builder, signature.args[k], arguments[k : k + 2], strip) for k in (0, 2)
        )
        rows = [builder.load(pointer, align=size) for pointer in source]
        distance = strip.count // 2
        while distance:  # exchanges the off-diagonal squares of this side
            for i in range(strip.count):
                if not i & distance:
                    pair = rows[i], rows[i + distance]
                    kept = [j if not j & distance else j - distance + strip.count for j in range(strip.count)]
                    rows[i] = builder.shuffle_vector(*pair, _indices(kept))
                    rows[i + distance] = builder.shuffle_vector(*pair, _indices([j + distance for j in kept]))
            distance //= 2
        for row, pointer in zip(rows, result, strict=True):
            builder.store(row, pointer, align=size)
        return context.get_dummy_value()

    return types.void(array, indices[0], out, indices[1]), generate


def _row_pointers(context: Any, builder: Any, kind: Any, place: Any, strip: Any) -> list[Any]:
    """Generate pointers to strips below each other, as many as a strip has values."""
    struct = context.make_array(kind)(context, builder, place[0])
    index = cgutils.unpack_tuple(builder, place[1])
    pointers = []
    for _ in range(strip.count):
        first = cgutils.get_item_pointer(context, builder, kind, struct, index, wraparound=False)
        pointers.append(builder.bitcast(first, strip.as_pointer()))
        index[-2] = builder.add(index[-2], index[-2].type(1))
    return pointers


def _pointer(context: Any, builder: Any, array_type: Any, place: Any, strip: Any) -> Any:
    array = context.make_array(array_type)(context, builder, place[0])
    index = cgutils.unpack_tuple(builder, place[1])
    first = cgutils.get_item_pointer(context, builder, array_type, array, index, wraparound=False)
    return builder.bitcast(first, strip.as_pointer())


def splat(builder: Any, value: Any, strip: Any) -> Any:
    """Generate a vector of one value."""
    undefined = ir.Constant(strip, ir.Undefined)
    single = builder.insert_element(undefined, value, INDEX(0))
    return builder.shuffle_vector(single, undefined, _indices(strip.count * [0]))


def _part(builder: Any, value: Any, first: int, count: int) -> Any:
    undefined = ir.Constant(value.type, ir.Undefined)
    return builder.shuffle_vector(value, undefined, _indices(list(range(first, first + count))))


def _indices(values: list[int]) -> Any:
    return ir.Constant(ir.VectorType(INDEX, len(values)), values)
