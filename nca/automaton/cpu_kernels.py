"""Compiled loops of the fast rollouts on a CPU: one CA step, and its gradients.

Grids are planar, (batch, channel, cell), so that every inner loop runs along contiguous cells. A block of
rows goes through perception, products and activation before the next one, so that its features stay in the
cache. Blocks are also the units of work for threads; each has its own sum of weight gradients, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import numpy as np
import torch

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

FASTMATH = {"contract", "reassoc", "nsz"}  # NaN and infinity keep their meaning
BLOCK_CELLS = 512  # of a block, at least one row: its features fit the second-level cache
ROW_PADDING = 16  # rows a power of two apart would share few sets of the cache


def compiled(function: Kernel) -> Kernel:
    """Compile a function at its first call, and keep the machine code on disk if there is a folder for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH}
    try:
        kernel: Kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache
        kernel = numba.njit(**options)(function)
    return kernel


def count_blocks(shape: tuple[int, int, int, int]) -> int:
    """Return the number of blocks of a grid (batch, channels, height, width)."""
    batch, _, height, width = shape
    return batch * -(-height // max(1, BLOCK_CELLS // width))


def run_blocks(kernel: Callable[..., None], n_blocks: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, first, last)` for all blocks, in as many threads as PyTorch uses."""
    n_threads = min(torch.get_num_threads(), n_blocks)
    if n_threads == 1:
        kernel(*arguments, 0, n_blocks)
        return
    ends = [n_blocks * index // n_threads for index in range(n_threads + 1)]
    list(_threads(os.getpid(), n_threads).map(functools.partial(kernel, *arguments), ends, ends[1:]))


@functools.lru_cache(maxsize=1)
def _threads(process: int, n_threads: int) -> ThreadPoolExecutor:
    """Return the threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix=f"rollout of {process}")


@compiled
def correlate_row(plane: Any, kernel: Any, row: int, out: Any) -> None:
    """Add one row of a plane's correlation with a 3x3 kernel, on the torus, to `out`."""
    width = len(out)
    height = len(plane) // width
    upper, lower = (row - 1) % height, (row + 1) % height
    top = plane[upper * width : (upper + 1) * width]
    middle = plane[row * width : (row + 1) * width]
    bottom = plane[lower * width : (lower + 1) * width]
    k00, k01, k02 = kernel[0, 0], kernel[0, 1], kernel[0, 2]
    k10, k11, k12 = kernel[1, 0], kernel[1, 1], kernel[1, 2]
    k20, k21, k22 = kernel[2, 0], kernel[2, 1], kernel[2, 2]
    for x in range(1, width - 1):
        out[x] += (
            (k00 * top[x - 1] + k01 * top[x] + k02 * top[x + 1])
            + (k10 * middle[x - 1] + k11 * middle[x] + k12 * middle[x + 1])
            + (k20 * bottom[x - 1] + k21 * bottom[x] + k22 * bottom[x + 1])
        )
    for x in (0, width - 1):
        left, right = (x - 1) % width, (x + 1) % width
        out[x] += (
            (k00 * top[left] + k01 * top[x] + k02 * top[right])
            + (k10 * middle[left] + k11 * middle[x] + k12 * middle[right])
            + (k20 * bottom[left] + k21 * bottom[x] + k22 * bottom[right])
        )


@compiled
def multiply_add(weight: Any, rows: Any, n: int, out: Any) -> None:
    """Add the product `weight @ rows[:, :n]` to `out[:, :n]`, two by four rows at a time."""
    n_outputs, n_inputs = weight.shape
    for k in range(0, n_inputs - 3, 4):
        row0, row1, row2, row3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        for o in range(0, n_outputs - 1, 2):
            a0, a1, a2, a3 = weight[o, k], weight[o, k + 1], weight[o, k + 2], weight[o, k + 3]
            b0, b1, b2, b3 = (
                weight[o + 1, k],
                weight[o + 1, k + 1],
                weight[o + 1, k + 2],
                weight[o + 1, k + 3],
            )
            total_a, total_b = out[o], out[o + 1]
            for x in range(n):
                total_a[x] += a0 * row0[x] + a1 * row1[x] + a2 * row2[x] + a3 * row3[x]
                total_b[x] += b0 * row0[x] + b1 * row1[x] + b2 * row2[x] + b3 * row3[x]
    for o in range(n_outputs):  # what is left over
        first = n_inputs - n_inputs % 4 if o < n_outputs - n_outputs % 2 else 0
        for k in range(first, n_inputs):
            add_scaled(rows[k], weight[o, k], n, out[o])


@compiled
def add_scaled(values: Any, factor: Any, n: int, out: Any) -> None:
    """Add `factor * values[:n]` to `out[:n]`."""
    for x in range(n):
        out[x] += factor * values[x]


@compiled
def outer_add(grads: Any, rows: Any, n: int, out: Any) -> None:
    """Add the product `grads[:, :n] @ rows[:, :n].T` to `out`, two by four rows at a time."""
    n_outputs, n_inputs = len(grads), len(rows)
    for o in range(0, n_outputs - 1, 2):
        grad_a, grad_b = grads[o], grads[o + 1]
        for k in range(0, n_inputs - 3, 4):
            row0, row1, row2, row3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = out.dtype.type(0)
            for x in range(n):
                a0 += grad_a[x] * row0[x]
                a1 += grad_a[x] * row1[x]
                a2 += grad_a[x] * row2[x]
                a3 += grad_a[x] * row3[x]
                b0 += grad_b[x] * row0[x]
                b1 += grad_b[x] * row1[x]
                b2 += grad_b[x] * row2[x]
                b3 += grad_b[x] * row3[x]
            add_four(out[o], k, a0, a1, a2, a3)
            add_four(out[o + 1], k, b0, b1, b2, b3)
    for o in range(n_outputs):  # what is left over
        first = n_inputs - n_inputs % 4 if o < n_outputs - n_outputs % 2 else 0
        for k in range(first, n_inputs):
            out[o, k] += dot(grads[o], rows[k], n)


@compiled
def add_four(out: Any, k: int, v0: Any, v1: Any, v2: Any, v3: Any) -> None:
    """Add four values to `out` from index `k` on."""
    out[k] += v0
    out[k + 1] += v1
    out[k + 2] += v2
    out[k + 3] += v3


@compiled
def dot(one: Any, other: Any, n: int) -> Any:
    """Return the dot product of the first `n` values of two rows."""
    total = one.dtype.type(0)
    for x in range(n):
        total += one[x] * other[x]
    return total


@compiled
def fill_rows(values: Any, n: int, out: Any) -> None:
    """Set each of the rows `out[:, :n]` to its value."""
    for o in range(len(values)):
        row, value = out[o], values[o]
        for x in range(n):
            row[x] = value


@compiled
def add_row_sums(rows: Any, n: int, out: Any) -> None:
    """Add the sum of each of the rows `rows[:, :n]` to `out`."""
    for o in range(len(rows)):
        row, total = rows[o], out.dtype.type(0)
        for x in range(n):
            total += row[x]
        out[o] += total


@compiled
def add_product(values: Any, factors: Any, out: Any) -> None:
    """Add `values * factors` to `out`."""
    for j in range(len(values)):
        out[j] += values[j] * factors[j]


@compiled
def bounds(block: int, shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """Return a block's index in the batch, its first cell, and the cell after its last."""
    _, _, height, width = shape
    n_rows = max(1, BLOCK_CELLS // width)
    per_grid = -(-height // n_rows)
    start = block % per_grid * n_rows
    return block // per_grid, start * width, min(start + n_rows, height) * width


@compiled
def add_correlation(planes: Any, kernels: Any, out: Any, shape: Any, first: int, last: int) -> None:
    """Add the correlation of every plane with its kernel; each plane of `out` has as many planes in a row."""
    width, per_channel = shape[3], planes.shape[1] // shape[1]
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        for k in range(planes.shape[1]):
            for cell in range(start, stop, width):
                row = out[b, k // per_channel, cell : cell + width]
                correlate_row(planes[b, k], kernels[k], cell // width, row)


# The rule `munca`: y = [state, filtered state], delta = weight @ [y, abs(y)] + bias.


@compiled
def munca_features(state: Any, kernels: Any, cell: int, out: Any) -> None:
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
def munca_forward(
    state: Any, kernels: Any, weight: Any, bias: Any, mask: Any, out: Any, shape: Any, first: int, last: int
) -> None:
    """Compute one CA step."""
    _, channels, _, width = shape
    features = np.empty((4 * channels, width), state.dtype)
    delta, taken = np.empty((channels, width), state.dtype), np.empty(width, state.dtype)
    for block in range(first, last):
        b, start, stop = bounds(block, shape)
        for cell in range(start, stop, width):
            munca_features(state[b], kernels, cell, features)
            fill_rows(bias, width, delta)
            multiply_add(weight, features, width, delta)
            for c in range(channels):
                read_mask(mask[b], cell, c, taken)
                out[b, c, cell : cell + width] = state[b, c, cell : cell + width]
                add_product(delta[c], taken, out[b, c, cell : cell + width])


@compiled
def munca_backward(
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
            munca_features(state[b], kernels, cell, features)
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


# The rule `distill`: delta = w1 @ relu(w0 @ perception + bias), for the active cells alone: those that take
# the update. With a mask per channel, all cells are active.


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
def distill_forward(
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
def distill_backward(
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
