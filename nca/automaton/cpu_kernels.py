"""Compiled loops that the fast rollouts on a CPU have in common.

Grids are planar, (batch, channel, cell), so that every inner loop runs along contiguous cells. A block of
rows goes through perception, products and activation before the next one, so that its features stay in the
cache. Blocks are also the units of work for threads; each has its own sum of weight gradients, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nca.automaton.cpu_compiler import compiled
from nca.automaton.cpu_strips import (
    REGISTER_BYTES,
    add_scaled,
    add_sums,
    add_up,
    fill,
    fill_pair,
    load,
    load_pair,
    rectify,
    store,
)
from nca.automaton.model import NORM_EPSILON

BLOCK_CELLS = 512  # of a block, at least one row: its features fit the second-level cache
# More than a strip and a margin; and rows a power of two apart would share few sets of the cache.
ROW_PADDING = 48


def count_blocks(shape: tuple[int, int, int, int]) -> int:
    """Return the number of blocks of a grid (batch, channels, height, width)."""
    batch, _, height, width = shape
    return batch * -(-height // max(1, BLOCK_CELLS // width))


@compiled
def n_lanes(rows: Any) -> int:
    """Return the number of cells in a strip of one register."""
    n_cells: int = REGISTER_BYTES // rows.itemsize
    return n_cells


@compiled
def allocate(shape: Any, like: Any) -> Any:
    """Return memory, not set, for values of a type; a register is loaded from one line of the cache."""
    size = 1
    for n in shape:
        size *= n
    memory = np.empty(size + n_lanes(like), like.dtype)
    first = -memory.ctypes.data % REGISTER_BYTES // memory.itemsize
    return memory[first : first + size].reshape(shape)


@compiled
def copy(values: Any, out: Any) -> None:
    """Set `out` to values, which an assignment of slices does six times as slowly."""
    for x in range(len(out)):
        out[x] = values[x]


@compiled
def pad_rows(planes: Any, c: int, width: int, rows: tuple[int, int], out: Any, k: int) -> None:
    """Set `out[k]` to rows of a plane on the torus, with a margin of one cell on every side."""
    first, last = rows
    n_cells, lanes = planes.shape[1], n_lanes(out)
    for row in range(first - 1, last + 1):
        cell, index = row * width, row - first + 1
        cell += n_cells if row < 0 else -n_cells if cell == n_cells else 0
        if width < lanes:
            copy(planes[c, cell : cell + width], out[k, index, 1 : width + 1])
        else:
            for start in range(0, width, lanes):
                x = min(start, width - lanes)
                store(out, (k, index, x + 1), load(planes, (c, cell + x)))
        out[k, index, 0], out[k, index, width + 1] = planes[c, cell + width - 1], planes[c, cell]


@compiled
def correlate(padded: Any, kernels: Any, width: int, n_rows: int, out: Any, o: int) -> None:
    """Set the row `out[o]` to the sum of the correlations of padded planes with their kernels.

    Strips go down the rows, each of which adds to the sums of three. The last strip of a row overlaps the one
    before, or reaches into the next row, which is computed after it, or the padding.
    """
    zero, lanes = out.dtype.type(0), 2 * n_lanes(out)
    for start in range(0, width, lanes):
        x = max(0, min(start, width - lanes))
        ending = here = fill_pair(zero)
        for row in range(n_rows + 2):
            following = fill_pair(zero)
            for k in range(len(kernels)):
                for j in range(3):
                    strip = load_pair(padded, (k, row, x + j))
                    ending = add_scaled(ending, kernels[k, 2, j], strip)
                    here = add_scaled(here, kernels[k, 1, j], strip)
                    following = add_scaled(following, kernels[k, 0, j], strip)
            if row > 1:
                store(out, (o, (row - 2) * width + x), ending)
            ending, here = here, following


@compiled
def multiply(weight: Any, bias: Any, rows: Any, n: int, out: Any, rectifies: bool = False) -> None:
    """Set `out[:, :n]` to `weight @ rows[:, :n] + bias`; columns up to the end of the last strip change too.

    Six rows of the product, of a strip of two registers each, are in registers at a time. Negative values
    become 0 if it rectifies; NaN stays NaN.
    """
    n_outputs, n_inputs = weight.shape
    for x in range(0, n, 2 * n_lanes(out)):
        for tile in range(0, n_outputs - 5, 6):
            multiply_six(weight, bias, rows, tile, x, out, rectifies)
        if n_outputs % 6 and n_outputs > 6:  # the last tile overlaps the one before
            multiply_six(weight, bias, rows, n_outputs - 6, x, out, rectifies)
        for o in range(n_outputs if n_outputs < 6 else 0):
            total = fill_pair(bias[o])
            for k in range(n_inputs):
                total = add_scaled(total, weight[o, k], load_pair(rows, (k, x)))
            store(out, (o, x), rectify(total) if rectifies else total)


@compiled
def multiply_six(weight: Any, bias: Any, rows: Any, o: int, x: int, out: Any, rectifies: bool) -> None:
    """Set a strip of six rows of `weight @ rows + bias`."""
    a, b, c = fill_pair(bias[o]), fill_pair(bias[o + 1]), fill_pair(bias[o + 2])
    d, e, f = fill_pair(bias[o + 3]), fill_pair(bias[o + 4]), fill_pair(bias[o + 5])
    for k in range(weight.shape[1]):
        row = load_pair(rows, (k, x))
        a = add_scaled(a, weight[o, k], row)
        b = add_scaled(b, weight[o + 1, k], row)
        c = add_scaled(c, weight[o + 2, k], row)
        d = add_scaled(d, weight[o + 3, k], row)
        e = add_scaled(e, weight[o + 4, k], row)
        f = add_scaled(f, weight[o + 5, k], row)
    if rectifies:
        a, b, c, d, e, f = rectify(a), rectify(b), rectify(c), rectify(d), rectify(e), rectify(f)
    store(out, (o, x), a)
    store(out, (o + 1, x), b)
    store(out, (o + 2, x), c)
    store(out, (o + 3, x), d)
    store(out, (o + 4, x), e)
    store(out, (o + 5, x), f)


@compiled
def clear_padding(rows: Any, n: int) -> None:
    """Set the columns from `n` to the end of the last strip of two registers to 0."""
    lanes = 2 * n_lanes(rows)
    rows[:, n : -(-n // lanes) * lanes] = 0


@compiled
def outer_add(grads: Any, rows: Any, n: int, out: Any) -> None:
    """Add `grads[:, :n] @ rows[:, :n].T` to `out`; padding is 0 in one factor and finite in the other."""
    n_outputs, n_inputs = len(grads), len(rows)
    for k in range(0, n_inputs - 3, 4):
        for o in range(0, n_outputs - 2, 3):
            outer_tile(grads, rows, o, k, n, out)
    for o in range(n_outputs):  # the remaining values
        first = n_inputs - n_inputs % 4 if o < n_outputs - n_outputs % 3 else 0
        for k in range(first, n_inputs):
            total = fill(out.dtype.type(0))
            for x in range(0, n, n_lanes(out)):
                total = add_scaled(total, load(grads, (o, x)), load(rows, (k, x)))
            out[o, k] += add_up(total)


@compiled
def outer_tile(grads: Any, rows: Any, o: int, k: int, n: int, out: Any) -> None:
    """Add three by four values of the product of `outer_add`."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = fill(out.dtype.type(0))
    for x in range(0, n, n_lanes(out)):
        a, b, c = load(grads, (o, x)), load(grads, (o + 1, x)), load(grads, (o + 2, x))
        row = load(rows, (k, x))
        a0, b0, c0 = add_scaled(a0, a, row), add_scaled(b0, b, row), add_scaled(c0, c, row)
        row = load(rows, (k + 1, x))
        a1, b1, c1 = add_scaled(a1, a, row), add_scaled(b1, b, row), add_scaled(c1, c, row)
        row = load(rows, (k + 2, x))
        a2, b2, c2 = add_scaled(a2, a, row), add_scaled(b2, b, row), add_scaled(c2, c, row)
        row = load(rows, (k + 3, x))
        a3, b3, c3 = add_scaled(a3, a, row), add_scaled(b3, b, row), add_scaled(c3, c, row)
    add_sums(out, (o, k), a0, a1, a2, a3)
    add_sums(out, (o + 1, k), b0, b1, b2, b3)
    add_sums(out, (o + 2, k), c0, c1, c2, c3)


@compiled
def add_row_sums(rows: Any, n: int, out: Any) -> None:
    """Add the sum of each of the rows `rows[:, :n]` to `out`; up to the end of the last strip they are 0."""
    for o in range(len(rows)):
        total = fill(out.dtype.type(0))
        for x in range(0, n, n_lanes(rows)):
            total = total + load(rows, (o, x))
        out[o] += add_up(total)


@compiled
def bounds(block: int, shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """Return a block's index in the batch, its first cell, and the cell after its last."""
    _, _, height, width = shape
    n_rows = max(1, BLOCK_CELLS // width)
    per_grid = -(-height // n_rows)
    start = block % per_grid * n_rows
    return block // per_grid, start * width, min(start + n_rows, height) * width


@compiled
def add_correlation(
    planes: Any, kernels: Any, out: Any, shape: Any, padded: Any, sums: Any, first: int, last: int
) -> None:
    """Add the correlation of every plane with its kernel; each plane of `out` has as many planes in a row.

    Args:
        planes: (batch, plane, cell).
        kernels: One for each plane.
        out: (batch, channel, cell).
        shape: Of the grid.
        padded: Memory for a plane's share of a block with its margin, as many as a channel has planes.
        sums: Memory for a row of a block's cells.
        first: Block.
        last: The block after the last.
    """
    _, channels, _, width = shape
    n_kernels = planes.shape[1] // channels
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        n_rows = (stop - start) // width
        for c in range(channels):
            for f in range(n_kernels):
                pad_rows(planes[b], c * n_kernels + f, width, (start // width, stop // width), padded, f)
            correlate(padded, kernels[c * n_kernels : (c + 1) * n_kernels], width, n_rows, sums, 0)
            row = out[b, c, start:stop]
            for x in range(len(row)):
                row[x] += sums[0, x]


@compiled
def clamp_block(planes: Any, start: int, stop: int) -> None:
    """Clamp a block of a state, (channel, cell), to [0, 1]; NaN stays NaN."""
    for c in range(len(planes)):
        row = planes[c, start:stop]
        for x in range(len(row)):
            row[x] = 0 if row[x] < 0 else 1 if row[x] > 1 else row[x]


@compiled
def add_up_squares(grad: Any, squares: Any, shape: Any, first: int, last: int) -> None:
    """Set `squares` of each block to the sum of its gradients' squares; the sums of channels are double."""
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        whole = stop - (stop - start) % n_lanes(grad)
        squares[block] = 0
        for c in range(grad.shape[1]):
            total = fill(grad.dtype.type(0))
            for x in range(start, whole, n_lanes(grad)):
                strip = load(grad, (b, c, x))
                total = add_scaled(total, strip, strip)
            squares[block] += add_up(total)
            for x in range(whole, stop):
                squares[block] += grad[b, c, x] * grad[b, c, x]


@compiled
def prepare_gradient(
    grad: Any, next_state: Any, squares: Any, block: int, shape: Any, clamps: bool, normalizes: bool
) -> None:
    """Turn a block of the gradient of the next state into that of the CA step's result.

    It is divided by the norm of its image's gradient, from the squares of all its blocks, and set to 0 where
    a clamp was active.
    """
    b, start, stop = bounds(block, shape)
    factor = grad.dtype.type(1)
    if normalizes:
        per_image = len(squares) // len(grad)
        total = squares[b * per_image : (b + 1) * per_image].sum()
        factor = grad.dtype.type(1 / (np.sqrt(total) + NORM_EPSILON))
    for c in range(grad.shape[1]):
        row, values = grad[b, c, start:stop], next_state[b, c, start:stop]
        if normalizes:
            for x in range(len(row)):
                row[x] *= factor
        if clamps:
            for x in range(len(row)):
                row[x] = 0 if values[x] <= 0 or values[x] >= 1 else row[x]
