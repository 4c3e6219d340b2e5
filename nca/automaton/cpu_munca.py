"""Compiled loops of the rule `munca`: one CA step, and its gradients.

`y = [state, filtered state]`, `delta = weight @ [y, abs(y)] + bias`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nca.automaton.cpu_kernels import (
    BLOCK_CELLS,
    ROW_PADDING,
    add_row_sums,
    bounds,
    clear_padding,
    compiled,
    correlate,
    multiply,
    outer_add,
    pad_rows,
)


@compiled
def compute_features(state: Any, kernels: Any, cells: Any, padded: Any, out: Any) -> None:
    """Set `out` to the features `[y, abs(y)]` of a block."""
    start, stop, width = cells
    channels, n, n_rows = len(state), stop - start, (stop - start) // width
    for c in range(channels):
        out[c, :n] = state[c, start:stop]
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
def forward(
    state: Any, kernels: Any, weight: Any, bias: Any, mask: Any, out: Any, shape: Any, first: int, last: int
) -> None:
    """Compute one CA step."""
    _, channels, _, width = shape
    n_cells = max(width, BLOCK_CELLS) + ROW_PADDING
    padded = np.empty((1, max(1, BLOCK_CELLS // width) + 2, width + ROW_PADDING), state.dtype)
    features = np.empty((4 * channels, n_cells), state.dtype)
    delta = np.empty((channels, n_cells), state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        compute_features(state[b], kernels, (start, stop, width), padded, features)
        multiply(weight, bias, features, stop - start, delta)
        for c in range(channels):
            out[b, c, start:stop] = state[b, c, start:stop]
            add_masked(delta[c], mask[b, start:stop], c, out[b, c, start:stop])


@compiled
def backward(
    state: Any,
    kernels: Any,
    weight: Any,
    transposed: Any,
    mask: Any,
    grad: Any,
    grad_filtered: Any,
    grad_weight: Any,
    grad_bias: Any,
    shape: Any,
    first: int,
    last: int,
) -> None:
    """Add to `grad` what reaches the state past the filters; set the gradient of the filtered state."""
    _, channels, _, width = shape
    n_cells = max(width, BLOCK_CELLS) + ROW_PADDING
    padded = np.empty((1, max(1, BLOCK_CELLS // width) + 2, width + ROW_PADDING), state.dtype)
    features = np.empty((4 * channels, n_cells), state.dtype)
    grads = np.empty((4 * channels, n_cells), state.dtype)
    grad_delta = np.empty((channels, n_cells), state.dtype)
    zeros = np.zeros(4 * channels, state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        n = stop - start
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
            grad_filtered[b, c, start:stop] = grads[channels + c, :n]


@compiled
def add_signed(grads: Any, features: Any, n: int) -> None:
    """Add the gradients of `abs(y)`, times the sign of y, to those of y."""
    half = len(grads) // 2
    for k in range(half):
        total, grad, values = grads[k], grads[half + k], features[k]
        for x in range(n):
            total[x] += grad[x] if values[x] > 0 else -grad[x] if values[x] < 0 else 0 * grad[x]
