"""Compiled loops of the rule `munca`: one CA step, and its gradients.

`y = [state, filtered state]`, `delta = weight @ [y, abs(y)] + bias`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nca.automaton.cpu_kernels import (
    add_product,
    add_row_sums,
    bounds,
    compiled,
    correlate_row,
    fill_rows,
    multiply_add,
    outer_add,
)


@compiled
def compute_features(state: Any, kernels: Any, cell: int, out: Any) -> None:
    """Set `out` to the features `[y, abs(y)]` of the row that begins at `cell`."""
    channels, width = len(state), out.shape[1]
    for c in range(channels):
        out[c] = state[c, cell : cell + width]
        out[channels + c] = 0
        correlate_row(state[c], kernels[c], cell // width, out[channels + c])
    for k in range(2 * channels):
        values, magnitudes = out[k], out[2 * channels + k]
        for x in range(width):
            magnitudes[x] = abs(values[x])


@compiled
def read_mask(mask: Any, cell: int, channel: int, out: Any) -> None:
    """Set `out` to the mask of a channel from `cell` on; with a mask per cell, the first channel's is all."""
    if channel == 0 or mask.shape[1] > 1:
        for x in range(len(out)):
            out[x] = mask[cell + x, channel]


@compiled
def forward(
    state: Any, kernels: Any, weight: Any, bias: Any, mask: Any, out: Any, shape: Any, first: int, last: int
) -> None:
    """Compute one CA step."""
    _, channels, _, width = shape
    features = np.empty((4 * channels, width), state.dtype)
    delta, taken = np.empty((channels, width), state.dtype), np.empty(width, state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        for cell in range(start, stop, width):
            compute_features(state[b], kernels, cell, features)
            fill_rows(bias, width, delta)
            multiply_add(weight, features, width, delta)
            for c in range(channels):
                read_mask(mask[b], cell, c, taken)
                out[b, c, cell : cell + width] = state[b, c, cell : cell + width]
                add_product(delta[c], taken, out[b, c, cell : cell + width])


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
    features = np.empty((4 * channels, width), state.dtype)
    grads = np.empty((4 * channels, width), state.dtype)
    grad_delta = np.empty((channels, width), state.dtype)
    zeros, ones = np.zeros(4 * channels, state.dtype), np.ones(width, state.dtype)
    taken = np.empty(width, state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        for cell in range(start, stop, width):
            compute_features(state[b], kernels, cell, features)
            fill_rows(zeros[:channels], width, grad_delta)
            for c in range(channels):
                read_mask(mask[b], cell, c, taken)
                add_product(grad[b, c, cell : cell + width], taken, grad_delta[c])
            outer_add(grad_delta, features, width, grad_weight[block])
            add_row_sums(grad_delta, width, grad_bias[block])
            fill_rows(zeros, width, grads)
            multiply_add(transposed, grad_delta, width, grads)
            add_signed(grads, features)
            for c in range(channels):
                add_product(grads[c], ones, grad[b, c, cell : cell + width])
                grad_filtered[b, c, cell : cell + width] = grads[channels + c]


@compiled
def add_signed(grads: Any, features: Any) -> None:
    """Add the gradients of `abs(y)`, times the sign of y, to those of y."""
    half = len(grads) // 2
    for k in range(half):
        total, grad, values = grads[k], grads[half + k], features[k]
        for x in range(len(values)):
            total[x] += grad[x] if values[x] > 0 else -grad[x] if values[x] < 0 else 0 * grad[x]
