"""Compiled loops of the rule `distill`: one CA step, and its gradients.

`delta = w1 @ relu(w0 @ perception + bias)`, for the active cells alone: those that take the update. With a
mask per channel, all cells are active.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nca.automaton.cpu_kernels import (
    BLOCK_CELLS,
    ROW_PADDING,
    add_row_sums,
    bounds,
    compiled,
    correlate_row,
    fill_rows,
    multiply_add,
    outer_add,
)


@compiled
def find_active(mask: Any, active: Any) -> int:
    """List the active cells of a block; return their number."""
    n, is_per_cell = 0, mask.shape[1] == 1
    for cell in range(len(mask)):
        active[n] = cell
        n += mask[cell, 0] if is_per_cell else 1
    return n


@compiled
def gather(values: Any, active: Any, n: int, out: Any) -> None:
    """Set `out[:n]` to the values of the active cells."""
    for j in range(n):
        out[j] = values[active[j]]


@compiled
def scatter(values: Any, active: Any, n: int, out: Any) -> None:
    """Add the values of the active cells to `out`."""
    for j in range(n):
        out[active[j]] += values[j]


@compiled
def apply_channel_mask(values: Any, mask: Any) -> None:
    """Multiply the values of a block by its mask, if that has a value per channel."""
    if mask.shape[1] > 1:
        for c in range(len(values)):
            for j in range(len(mask)):
                values[c, j] *= mask[j, c]


@compiled
def perceive(state: Any, kernels: Any, cells: Any, active: Any, n: int, out: Any) -> None:
    """Set `out`, channel-major, to the perception of the active cells; the first kernel is the identity."""
    start, stop, width = cells
    n_kernels, responses = len(kernels), np.empty(stop - start, state.dtype)
    for c in range(len(state)):
        gather(state[c, start:stop], active, n, out[c * n_kernels])
        for f in range(1, n_kernels):
            responses[:] = 0
            for cell in range(start, stop, width):
                correlate_row(
                    state[c], kernels[f], cell // width, responses[cell - start : cell - start + width]
                )
            gather(responses, active, n, out[c * n_kernels + f])


@compiled
def compute_hidden(weight: Any, bias: Any, perception: Any, n: int, out: Any) -> None:
    """Set `out` to `relu(weight @ perception + bias)`; NaN stays NaN."""
    fill_rows(bias, n, out)
    multiply_add(weight, perception, n, out)
    for o in range(len(out)):
        row = out[o]
        for j in range(n):
            row[j] = 0 * row[j] if row[j] < 0 else row[j]


@compiled
def forward(
    state: Any,
    kernels: Any,
    w0: Any,
    bias: Any,
    w1: Any,
    mask: Any,
    out: Any,
    shape: Any,
    first: int,
    last: int,
) -> None:
    """Compute one CA step."""
    _, channels, _, width = shape
    n_cells = max(width, BLOCK_CELLS) + ROW_PADDING
    active, zeros = np.empty(n_cells, np.int64), np.zeros(channels, state.dtype)
    perception = np.empty((w0.shape[1], n_cells), state.dtype)
    hidden = np.empty((len(w0), n_cells), state.dtype)
    delta = np.empty((channels, n_cells), state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        n = find_active(mask[b, start:stop], active)
        perceive(state[b], kernels, (start, stop, width), active, n, perception)
        compute_hidden(w0, bias, perception, n, hidden)
        fill_rows(zeros, n, delta)
        multiply_add(w1, hidden, n, delta)
        apply_channel_mask(delta, mask[b, start:stop])
        for c in range(channels):
            out[b, c, start:stop] = state[b, c, start:stop]
            scatter(delta[c], active, n, out[b, c, start:stop])


@compiled
def backward(
    state: Any,
    kernels: Any,
    w0: Any,
    w0_transposed: Any,
    bias: Any,
    w1_transposed: Any,
    mask: Any,
    grad: Any,
    grad_responses: Any,
    grad_w0: Any,
    grad_bias: Any,
    grad_w1: Any,
    shape: Any,
    first: int,
    last: int,
) -> None:
    """Add to `grad` what reaches the state past the identity kernel; set the gradients of other responses."""
    _, channels, _, width = shape
    n_cells, n_kernels = max(width, BLOCK_CELLS) + ROW_PADDING, len(kernels)
    active, zeros = np.empty(n_cells, np.int64), np.zeros(max(w0.shape), state.dtype)
    perception = np.empty((w0.shape[1], n_cells), state.dtype)
    grad_perception = np.empty((w0.shape[1], n_cells), state.dtype)
    hidden = np.empty((len(w0), n_cells), state.dtype)
    grad_hidden = np.empty((len(w0), n_cells), state.dtype)
    grad_delta = np.empty((channels, n_cells), state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        n = find_active(mask[b, start:stop], active)
        perceive(state[b], kernels, (start, stop, width), active, n, perception)
        compute_hidden(w0, bias, perception, n, hidden)
        for c in range(channels):
            gather(grad[b, c, start:stop], active, n, grad_delta[c])
        apply_channel_mask(grad_delta, mask[b, start:stop])
        outer_add(grad_delta, hidden, n, grad_w1[block])
        fill_rows(zeros[: len(w0)], n, grad_hidden)
        multiply_add(w1_transposed, grad_delta, n, grad_hidden)
        pass_relu(grad_hidden, hidden, n)
        add_row_sums(grad_hidden, n, grad_bias[block])
        outer_add(grad_hidden, perception, n, grad_w0[block])
        fill_rows(zeros[: w0.shape[1]], n, grad_perception)
        multiply_add(w0_transposed, grad_hidden, n, grad_perception)
        for k in range(channels * n_kernels):
            c, f = k // n_kernels, k % n_kernels
            target = grad[b, c, start:stop]
            if f > 0:
                target = grad_responses[b, c * (n_kernels - 1) + f - 1, start:stop]
                target[:] = 0
            scatter(grad_perception[k], active, n, target)


@compiled
def pass_relu(grads: Any, hidden: Any, n: int) -> None:
    """Set the gradients of hidden features that are not above 0 to 0."""
    for o in range(len(grads)):
        grad, values = grads[o], hidden[o]
        for j in range(n):
            grad[j] = grad[j] if values[j] > 0 else 0 * grad[j]
