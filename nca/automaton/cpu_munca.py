"""Compiled loops of the rule `munca`: CA steps, and their gradients.

`y = [state, filtered state]`, `delta = weight @ [y, abs(y)] + bias`.
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
def compute_features(state: Any, kernels: Any, cells: Any, padded: Any, out: Any) -> None:
    """Set `out` to the features `[y, abs(y)]` of a block."""
    start, stop, width = cells
    channels, n, n_rows = len(state), stop - start, (stop - start) // width
    for c in range(channels):
        copy(state[c, start:stop], out[c, :n])
        pad_rows(state, c, width, (start // width, stop // width), padded, 0)
        correlate(padded, kernels[c : c + 1], width, n_rows, out, channels + c)
    for k in range(2 * channels):
        values, magnitudes = out[k], out[2 * channels + k]
        for x in range(n):
            magnitudes[x] = abs(values[x])
    clear_padding(out, n)


@compiled
def add_masked(values: Any, mask: Any, channel: int, out: Any) -> None:
    """Add values of a channel to `out` where its mask is 1; a mask per cell is that of every channel."""
    index = channel if mask.shape[1] > 1 else 0
    for x in range(len(out)):
        out[x] += values[x] * mask[x, index]


@compiled
def roll(
    states: Any,
    kernels: Any,
    weight: Any,
    bias: Any,
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
    features = allocate((4 * channels, n_cells), states)
    delta = allocate((channels, n_cells), states)
    for step in range(len(masks)):
        state, mask, out = states[step], masks[step], states[step + 1]
        for block in range(first, last):
            b, start, stop = bounds(block, shape)
            compute_features(state[b], kernels, (start, stop, width), padded, features)
            multiply(weight, bias, features, stop - start, delta)
            for c in range(channels):
                copy(state[b, c, start:stop], out[b, c, start:stop])
                add_masked(delta[c], mask[b, start:stop], c, out[b, c, start:stop])
            if clamps:
                clamp_block(out[b], start, stop)
        meet(team)


@compiled
def unroll(
    states: Any,
    kernels: Any,
    mirrored: Any,
    weight: Any,
    transposed: Any,
    masks: Any,
    grad: Any,
    grad_filtered: Any,
    squares: Any,
    grad_weight: Any,
    grad_bias: Any,
    clamps: bool,
    normalizes: bool,
    shape: Any,
    team: Any,
    first: int,
    last: int,
) -> None:
    """Turn the gradient of the last state into that of the first, and add to those of the weights."""
    _, channels, _, width = shape
    n_cells = max(width, BLOCK_CELLS) + ROW_PADDING
    padded = allocate((1, max(1, BLOCK_CELLS // width) + 2, width + ROW_PADDING), states)
    features = allocate((4 * channels, n_cells), states)
    grads = allocate((4 * channels, n_cells), states)
    grad_delta = allocate((channels, n_cells), states)
    zeros = np.zeros(4 * channels, states.dtype)
    for step in range(len(masks) - 1, -1, -1):
        state, mask = states[step], masks[step]
        if normalizes:
            add_up_squares(grad, squares, shape, first, last)
            meet(team)
        for block in range(first, last):
            b, start, stop = bounds(block, shape)
            n = stop - start
            prepare_gradient(grad, states[step + 1], squares, block, shape, clamps, normalizes)
            compute_features(state[b], kernels, (start, stop, width), padded, features)
            grad_delta[:] = 0
            for c in range(channels):
                add_masked(grad[b, c, start:stop], mask[b, start:stop], c, grad_delta[c, :n])
            outer_add(grad_delta, features, n, grad_weight[block])
            add_row_sums(grad_delta, n, grad_bias[block])
            multiply(transposed, zeros, grad_delta, n, grads)
            add_signed(grads, features, n)
            for c in range(channels):
                target = grad[b, c, start:stop]
                for x in range(n):
                    target[x] += grads[c, x]
                copy(grads[channels + c, :n], grad_filtered[b, c, start:stop])
        meet(team)
        add_correlation(grad_filtered, mirrored, grad, shape, padded, features, first, last)
        meet(team)


@compiled
def add_signed(grads: Any, features: Any, n: int) -> None:
    """Add the gradients of `abs(y)`, times the sign of y, to those of y."""
    half, zero, one = len(grads) // 2, grads.dtype.type(0), grads.dtype.type(1)
    for k in range(half):
        total, grad, values = grads[k], grads[half + k], features[k]
        for x in range(n):
            sign = one if values[x] > 0 else -one if values[x] < 0 else zero
            total[x] += sign * grad[x]
