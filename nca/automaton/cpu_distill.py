"""Compiled loops of the rule `distill`: CA steps, and their gradients.

`delta = w1 @ relu(w0 @ perception + bias)`, for the active cells alone: those that take the update. With a
mask per channel, all cells are active.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nca.automaton.cpu_compiler import compiled
from nca.automaton.cpu_kernels import (
    BLOCK_CELLS,
    ROW_PADDING,
    add_correlation,
    add_row_sums,
    add_up_squares,
    allocate,
    bounds,
    clamp_block,
    clear_padding,
    copy,
    correlate,
    multiply,
    outer_add,
    pad_rows,
    prepare_gradient,
)
from nca.automaton.cpu_threads import meet


@compiled
def find_active(mask: Any, active: Any) -> int:
    """List the active cells of a block; return their number."""
    n, is_per_cell = 0, mask.shape[1] == 1
    for cell in range(len(mask)):
        active[n] = cell
        n += mask[cell, 0] if is_per_cell else 1
    return n


@compiled
def compact(values: Any, active: Any, n: int) -> None:
    """Move the values of the active cells of a block to the front."""
    if n < len(values):
        for j in range(n):
            values[j] = values[active[j]]


@compiled
def add_active(values: Any, active: Any, n: int, out: Any) -> None:
    """Add values of the active cells of a block to `out`."""
    if n < len(out):
        for j in range(n):
            out[active[j]] += values[j]
    else:
        for j in range(n):
            out[j] += values[j]


@compiled
def set_active(values: Any, active: Any, n: int, out: Any) -> None:
    """Set `out` to the values of the active cells of a block, and 0 elsewhere."""
    if n < len(out):
        out[:] = 0
        for j in range(n):
            out[active[j]] = values[j]
    else:
        copy(values[:n], out)


@compiled
def apply_channel_mask(values: Any, mask: Any) -> None:
    """Multiply the values of a block by its mask, if that has a value per channel."""
    if mask.shape[1] > 1:
        for c in range(len(values)):
            for j in range(len(mask)):
                values[c, j] *= mask[j, c]


@compiled
def perceive(state: Any, kernels: Any, cells: Any, active: Any, n: int, padded: Any, out: Any) -> None:
    """Set `out`, channel-major, to the perception of the active cells; the first kernel is the identity."""
    start, stop, width = cells
    n_kernels, n_rows = len(kernels), (stop - start) // width
    for c in range(len(state)):
        pad_rows(state, c, width, (start // width, stop // width), padded, 0)
        copy(state[c, start:stop], out[c * n_kernels, : stop - start])
        for f in range(1, n_kernels):
            correlate(padded, kernels[f : f + 1], width, n_rows, out, c * n_kernels + f)
        for k in range(c * n_kernels, (c + 1) * n_kernels):
            compact(out[k, : stop - start], active, n)
    clear_padding(out, n)


@compiled
def roll(
    states: Any,
    kernels: Any,
    w0: Any,
    bias: Any,
    w1: Any,
    masks: Any,
    clamps: bool,
    shape: Any,
    team: Any,
    first: int,
    last: int,
) -> None:
    """Compute a CA step for each mask, from the first state to the ones behind it."""
    _, channels, _, width = shape
    n_cells = max(width, BLOCK_CELLS) + ROW_PADDING
    padded = allocate((1, max(1, BLOCK_CELLS // width) + 2, width + ROW_PADDING), states)
    active, zeros = np.empty(n_cells, np.int64), np.zeros(channels, states.dtype)
    perception = allocate((w0.shape[1], n_cells), states)
    hidden = allocate((len(w0), n_cells), states)
    delta = allocate((channels, n_cells), states)
    for step in range(len(masks)):
        state, mask, out = states[step], masks[step], states[step + 1]
        for block in range(first, last):
            b, start, stop = bounds(block, shape)
            n = find_active(mask[b, start:stop], active)
            perceive(state[b], kernels, (start, stop, width), active, n, padded, perception)
            multiply(w0, bias, perception, n, hidden, True)
            multiply(w1, zeros, hidden, n, delta)
            apply_channel_mask(delta, mask[b, start:stop])
            for c in range(channels):
                copy(state[b, c, start:stop], out[b, c, start:stop])
                add_active(delta[c], active, n, out[b, c, start:stop])
            if clamps:
                clamp_block(out[b], start, stop)
        meet(team)


@compiled
def unroll(
    states: Any,
    kernels: Any,
    mirrored: Any,
    w0: Any,
    w0_transposed: Any,
    bias: Any,
    w1_transposed: Any,
    masks: Any,
    grad: Any,
    grad_responses: Any,
    squares: Any,
    grad_w0: Any,
    grad_bias: Any,
    grad_w1: Any,
    clamps: bool,
    normalizes: bool,
    shape: Any,
    team: Any,
    first: int,
    last: int,
) -> None:
    """Turn the gradient of the last state into that of the first, and add to those of the weights."""
    _, channels, _, width = shape
    n_cells, n_kernels = max(width, BLOCK_CELLS) + ROW_PADDING, len(kernels)
    padded_shape = max(1, n_kernels - 1), max(1, BLOCK_CELLS // width) + 2, width + ROW_PADDING
    padded = allocate(padded_shape, states)
    active, zeros = np.empty(n_cells, np.int64), np.zeros(max(w0.shape), states.dtype)
    perception = allocate((w0.shape[1], n_cells), states)
    hidden = allocate((len(w0), n_cells), states)
    grad_perception, grad_hidden = allocate(perception.shape, states), allocate(hidden.shape, states)
    grad_delta = allocate((channels, n_cells), states)
    for step in range(len(masks) - 1, -1, -1):
        state, mask = states[step], masks[step]
        if normalizes:
            add_up_squares(grad, squares, shape, first, last)
            meet(team)
        for block in range(first, last):
            b, start, stop = bounds(block, shape)
            prepare_gradient(grad, states[step + 1], squares, block, shape, clamps, normalizes)
            n = find_active(mask[b, start:stop], active)
            perceive(state[b], kernels, (start, stop, width), active, n, padded, perception)
            multiply(w0, bias, perception, n, hidden, True)
            for c in range(channels):
                copy(grad[b, c, start:stop], grad_delta[c, : stop - start])
                compact(grad_delta[c, : stop - start], active, n)
            clear_padding(grad_delta, n)
            apply_channel_mask(grad_delta, mask[b, start:stop])
            outer_add(grad_delta, hidden, n, grad_w1[block])
            multiply(w1_transposed, zeros, grad_delta, n, grad_hidden)
            pass_relu(grad_hidden, hidden, n)
            add_row_sums(grad_hidden, n, grad_bias[block])
            outer_add(grad_hidden, perception, n, grad_w0[block])
            multiply(w0_transposed, zeros, grad_hidden, n, grad_perception)
            for k in range(channels * n_kernels):
                c, f = k // n_kernels, k % n_kernels
                if f == 0:
                    add_active(grad_perception[k], active, n, grad[b, c, start:stop])
                else:
                    target = grad_responses[b, c * (n_kernels - 1) + f - 1, start:stop]
                    set_active(grad_perception[k], active, n, target)
        meet(team)
        add_correlation(grad_responses, mirrored, grad, shape, padded, perception, first, last)
        meet(team)


@compiled
def pass_relu(grads: Any, hidden: Any, n: int) -> None:
    """Set the gradients of hidden features that are not above 0 to 0."""
    for o in range(len(grads)):
        grad, values = grads[o], hidden[o]
        for j in range(n):
            grad[j] = grad[j] if values[j] > 0 else 0 * grad[j]
