"""Compiled loops of the rule `srnca`, folded to one 3x3 convolution: one CA step, and its gradients.

States are channels-last. A strip of a cell's last channels reaches into the cells behind, so last strips
of cells are stored first. A block of rows of tiles is the unit of work for threads; each has its own sum of
weight gradients, so that the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nca.automaton.cpu_compiler import compiled, inlined
from nca.automaton.cpu_kernels import allocate, n_lanes
from nca.automaton.cpu_strips import clamp, fill, load, load_mask, pass_clamp, store
from nca.automaton.cpu_tiles import make_tile
from nca.automaton.cpu_winograd import (
    POSITIONS,
    TILE,
    TILE_ROWS,
    multiply_positions,
    sum_tile,
    transform_patches,
)

ROWS_PER_BLOCK = 8  # of tiles

narrow_tile = make_tile(TILE_ROWS, 1, adds=False)
wide_tile = make_tile(TILE_ROWS, 2, adds=False)


def count_blocks(shape: Sequence[int]) -> int:
    """Return the number of blocks of states (batch, height, width, channel)."""
    rows: int = shape[0] * -(-shape[1] // TILE)
    return -(-rows // ROWS_PER_BLOCK)


@inlined
def load_cell_mask(mask: Any, row: int, x: int, c: int, state: Any) -> Any:
    """Return the update mask of a cell's strip of channels; a mask per cell is that of every channel."""
    if mask.shape[2] == 1:
        return fill(state.dtype.type(mask[row, x, 0]))
    return load_mask(mask, (row, x, c), fill(state.dtype.type(0)))


@inlined
def strips_from_last(n_channels: int, lanes: int) -> Any:
    """Return the first channels of a cell's strips, the last first: it reaches into the cell behind."""
    return range((n_channels - 1) // lanes * lanes, -1, -lanes)


@compiled
def empty_tiles(n_columns: int, n_channels: int, state: Any) -> Any:
    """Return zeros for the positions of a row of tiles; planes a power of two apart would share few sets."""
    lanes = n_lanes(state)
    n_tiles = -(-n_columns // TILE_ROWS) * TILE_ROWS + 1
    tiles = allocate((POSITIONS, n_tiles, -(-n_channels // lanes) * lanes), state)
    tiles[:] = 0
    return tiles


@compiled
def forward(states: Any, panels: Any, masks: Any, outs: Any, clamps: bool, first: int, last: int) -> None:
    """Compute one CA step."""
    batch, height, width, channels = states.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    patches, products = empty_tiles(columns, channels, states), empty_tiles(columns, channels, states)
    for index in range(first * ROWS_PER_BLOCK, min(last * ROWS_PER_BLOCK, batch * rows)):
        b, row = index // rows, index % rows * TILE
        transform_patches(states[b], row, columns, True, patches, 0)
        multiply_positions(patches, panels, columns, products)
        state, mask, out = states[b], masks[b], outs[b]
        for x in range(0, width, TILE):
            for c in strips_from_last(channels, n_lanes(states)):
                deltas = sum_tile(products, x // TILE, c)
                update(state, mask, row, x, c, deltas[0], clamps, out)
                update(state, mask, row, x + 1, c, deltas[1], clamps, out)
                update(state, mask, row + 1, x, c, deltas[2], clamps, out)
                update(state, mask, row + 1, x + 1, c, deltas[3], clamps, out)


@inlined
def update(state: Any, mask: Any, row: int, x: int, c: int, delta: Any, clamps: bool, out: Any) -> None:
    """Set a strip of a cell's channels, if the cell exists, to its state and the masked delta."""
    if row < state.shape[0] and x < state.shape[1]:
        value = load(state, (row, x, c)) + load_cell_mask(mask, row, x, c, state) * delta
        store(out, (row, x, c), clamp(value) if clamps else value)


@inlined
def load_grad(grad: Any, clamped: Any, clamps: bool, row: int, x: int, c: int) -> Any:
    """Return a strip of the gradient of a state before its clamp."""
    strip = load(grad, (row, x, c))
    return pass_clamp(strip, load(clamped, (row, x, c))) if clamps else strip


@inlined
def add_grad(grad: Any, clamped: Any, row: int, x: int, c: int, summand: Any, clamps: bool, out: Any) -> None:
    """Set a strip of a cell's channels, if the cell exists, to a sum of gradients."""
    if row < grad.shape[0] and x < grad.shape[1]:
        store(out, (row, x, c), load_grad(grad, clamped, clamps, row, x, c) + summand)


@compiled
def spread_tiles(grads: Any, row: int, n: int, is_last: bool, out: Any) -> None:
    """Set `out` to the gradients of the products of `n` tiles from those of their outputs."""
    width, zero = grads.shape[1], fill(grads.dtype.type(0))
    for c in range(0, grads.shape[2], n_lanes(grads)):
        for t in range(n):
            x = TILE * t
            a, b, d, e = load(grads, (row, x, c)), zero, zero, zero
            if x + 1 < width:
                b = load(grads, (row, x + 1, c))
            if not is_last:
                d = load(grads, (row + 1, x, c))
                if x + 1 < width:
                    e = load(grads, (row + 1, x + 1, c))
            left, right = (a, a + d, a - d, zero - d), (b, b + e, b - e, zero - e)
            for i in range(4):
                store(out, (4 * i, t, c), left[i])
                store(out, (4 * i + 1, t, c), left[i] + right[i])
                store(out, (4 * i + 2, t, c), left[i] - right[i])
                store(out, (4 * i + 3, t, c), zero - right[i])


@compiled
def add_products(patches: Any, grads: Any, n: int, products: Any, out: Any) -> None:
    """Add to each position's matrix the product of its patches, transposed, and the gradients of products.

    The product of a row of tiles is computed in `products`; `out` sums them in double precision, because Adam
    takes steps of full size on gradients that nearly cancel.
    """
    transposed, lanes = patches.transpose(0, 2, 1), n_lanes(products)
    n_rows, width = products.shape[1:]
    wide = width % (2 * lanes) == 0
    for position in range(POSITIONS):
        for k in range(0, n_rows, TILE_ROWS):
            for c in range(0, width, 2 * lanes if wide else lanes):
                a, b, place = (position, k, 0), (position, 0, c), (position, k, c)
                if wide:
                    wide_tile(transposed, a, grads, b, n, products, place)
                else:
                    narrow_tile(transposed, a, grads, b, n, products, place)
        for k in range(n_rows):
            for c in range(width):
                out[position, k, c] += products[position, k, c]


@compiled
def mask_grads(grad: Any, clamped: Any, clamps: bool, mask: Any, row: int, out: Any) -> None:
    """Set rows of `out` to the gradients of deltas, from a row of the torus on."""
    height, width, channels = grad.shape
    for i in range(len(out)):
        y = (row + i) % height
        for x in range(width):
            for c in range(0, channels, n_lanes(grad)):
                strip = load_grad(grad, clamped, clamps, y, x, c)
                store(out, (i, x, c), strip * load_cell_mask(mask, y, x, c, grad))


@compiled
def backward(
    states: Any,
    mirrored: Any,
    masks: Any,
    clamped: Any,
    grads: Any,
    outs: Any,
    grad_panels: Any,
    clamps: bool,
    first: int,
    last: int,
) -> None:
    """Set `outs` to the gradients of the states; add to those of each position's matrix."""
    batch, height, width, channels = states.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    patches, products = empty_tiles(columns, channels, states), empty_tiles(columns, channels, states)
    sums = allocate(grad_panels.shape[1:], states)
    n_behind = n_lanes(states) // channels + 1  # cells that strips may reach into
    grad_deltas = allocate((TILE + 2, width + n_behind, channels), states)[:, :width]
    grad_deltas[:] = 0
    for index in range(first * ROWS_PER_BLOCK, min(last * ROWS_PER_BLOCK, batch * rows)):
        b, row = index // rows, index % rows * TILE
        n_kept = 0 if index == first * ROWS_PER_BLOCK or row == 0 else 2
        grad_deltas[:n_kept] = grad_deltas[TILE : TILE + n_kept]
        mask_grads(grads[b], clamped[b], clamps, masks[b], row - 1 + n_kept, grad_deltas[n_kept:])
        transform_patches(grad_deltas, 1, columns, True, patches, 0)
        multiply_positions(patches, mirrored, columns, products)
        grad, limits, out = grads[b], clamped[b], outs[b]
        for x in range(0, width, TILE):
            for c in strips_from_last(channels, n_lanes(states)):
                outputs = sum_tile(products, x // TILE, c)
                add_grad(grad, limits, row, x, c, outputs[0], clamps, out)
                add_grad(grad, limits, row, x + 1, c, outputs[1], clamps, out)
                add_grad(grad, limits, row + 1, x, c, outputs[2], clamps, out)
                add_grad(grad, limits, row + 1, x + 1, c, outputs[3], clamps, out)
        transform_patches(states[b], row, columns, True, patches, 0)
        spread_tiles(grad_deltas, 1, columns, row + 1 == height, products)
        add_products(patches, products, columns, sums, grad_panels[index // ROWS_PER_BLOCK])
