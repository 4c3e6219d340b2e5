"""Projections, and the comparison of sorted values, by compiled loops, for the CPU.

A float's bits and its index go into one integer, so that NumPy, which sorts these with vector instructions,
sorts indices: ten times as fast as `torch.sort`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nca.automaton.cpu_compiler import compiled
from nca.automaton.cpu_kernels import (
    BLOCK_CELLS,
    ROW_PADDING,
    allocate,
    clear_padding,
    copy,
    multiply,
)
from nca.automaton.cpu_threads import run_blocks

INDEX_BITS = 32
ROWS_AT_ONCE = 8  # their integers stay in the cache


class Projection(torch.autograd.Function):
    """Projections of features on directions, which get no gradients: their matrix product."""

    @staticmethod
    def forward(
        ctx: Any, directions: Float[Tensor, "direction feature"], features: Float[Tensor, "batch feature _"]
    ) -> Float[Tensor, "batch direction _"]:
        """Return the projections."""
        ctx.save_for_backward(directions)
        return _project(directions.contiguous(), features.detach().contiguous())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor]:
        """Return the gradient of the features."""
        (directions,) = ctx.saved_tensors
        return None, _project(directions.T.contiguous(), grad_output.detach().contiguous())


def _project(matrix: Tensor, features: Tensor) -> Tensor:
    out = features.new_empty(len(features), len(matrix), features.shape[2])
    n_blocks = len(features) * -(-features.shape[2] // BLOCK_CELLS)
    arrays = [tensor.numpy() for tensor in (matrix, matrix.new_zeros(len(matrix)), features, out)]
    run_blocks(_multiply_blocks, n_blocks, *arrays)
    return out


@compiled
def _multiply_blocks(matrix: Any, zeros: Any, features: Any, out: Any, first: int, last: int) -> None:
    """Set blocks of positions of `out` to the products of a matrix and the features of each image.

    Rows are copied next to each other: a power of two apart, they would share few sets of the cache.
    """
    n_positions = features.shape[2]
    per_image = -(-n_positions // BLOCK_CELLS)
    rows = allocate((features.shape[1], BLOCK_CELLS + ROW_PADDING), features)
    products = allocate((len(matrix), BLOCK_CELLS + ROW_PADDING), features)
    for block in range(first, last):
        image, start = block // per_image, block % per_image * BLOCK_CELLS
        n = min(BLOCK_CELLS, n_positions - start)
        for k in range(len(rows)):
            copy(features[image, k, start : start + n], rows[k, :n])
        clear_padding(rows, n)
        multiply(matrix, zeros, rows, n, products)
        for o in range(len(matrix)):
            copy(products[o, :n], out[image, o, start : start + n])


class SortedDifference(torch.autograd.Function):
    """The mean difference of sorted values and expected ones, absolute or squared, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Float[Tensor, "batch row position"],
        expected: Float[Tensor, "1 row position"],
        is_squared: bool,
    ) -> Float[Tensor, ""]:
        """Return the mean over all values; equal values keep their order, and NaN is sorted by its bits."""
        rows = values.detach().reshape(-1, values.shape[-1]).contiguous()
        grads, totals = torch.empty_like(rows), np.empty(len(rows))
        goal = expected.detach().reshape(-1, values.shape[-1]).contiguous()
        run_blocks(_compare, len(rows), rows.numpy(), goal.numpy(), is_squared, grads.numpy(), totals)
        ctx.grads = grads.view(values.shape)
        return rows.new_tensor(totals.sum() / rows.numel())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the values."""
        return ctx.grads * (grad_output / ctx.grads.numel()), None, None


def sort_indices(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return integers in the order of values along the last dimension; their lower half is an index."""
    keys = np.empty(values.shape, np.int64)
    set_keys(values.view(np.int32), keys)
    keys.sort(axis=-1)
    return keys


@compiled
def set_keys(bits: Any, keys: Any) -> None:
    """Set integers that are ordered as floats of such bits, and hold their index."""
    for r in range(len(keys)):
        for i in range(keys.shape[1]):
            ordered = bits[r, i] ^ ((bits[r, i] >> 31) & np.int32(2**31 - 1))
            keys[r, i] = np.int64(ordered) << INDEX_BITS | i


@compiled
def compare_sorted(
    rows: Any, keys: Any, expected: Any, first: int, is_squared: bool, grads: Any, totals: Any
) -> None:
    """Set the sums of the differences of rows, and what each value adds to the gradient."""
    for r in range(len(keys)):
        row, goal, grad, total = rows[first + r], expected[(first + r) % len(expected)], grads[first + r], 0.0
        for j in range(len(row)):
            i = keys[r, j] & (2**INDEX_BITS - 1)
            difference = row[i] - goal[j]
            if is_squared:
                total += np.float64(difference) * np.float64(difference)
                grad[i] = 2 * difference
            else:
                total += abs(difference)
                grad[i] = 1 if difference > 0 else -1 if difference < 0 else 0 * difference
        totals[first + r] = total


def _compare(
    rows: NDArray[np.float32],
    expected: NDArray[np.float32],
    is_squared: bool,
    grads: NDArray[np.float32],
    totals: NDArray[np.float64],
    first: int,
    last: int,
) -> None:
    for start in range(first, last, ROWS_AT_ONCE):
        keys = sort_indices(rows[start : min(start + ROWS_AT_ONCE, last)])
        compare_sorted(rows, keys, expected, start, is_squared, grads, totals)
