"""Compiled loops that the fast rollouts on a CPU have in common.

Grids are planar, (batch, channel, cell), so that every inner loop runs along contiguous cells. A block of
rows goes through perception, products and activation before the next one, so that its features stay in the
cache. Blocks are also the units of work for threads; each has its own sum of weight gradients, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numba
import torch

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

FASTMATH = {"contract", "reassoc", "nsz"}  # NaN and infinity keep their meaning
BLOCK_CELLS = 512  # of a block, at least one row: its features fit the second-level cache
ROW_PADDING = 16  # rows a power of two apart would share few sets of the cache


def compiled(function: Kernel) -> Kernel:
    """Compile a function at its first call, and keep the machine code on disk if there is a folder for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH}
    config: Any = numba.config
    before = config.CACHE_DIR
    folder = cache_folder(before)
    config.CACHE_DIR = folder or before
    try:
        kernel: Kernel = numba.njit(cache=folder is not None, **options)(function)
    finally:
        config.CACHE_DIR = before
    return kernel


@functools.cache
def cache_folder(given: str) -> str | None:
    """Return a folder for machine code of these sources alone: Numba's cache knows no imported functions.

    Args:
        given: The value of NUMBA_CACHE_DIR; empty for a folder in the user's cache.

    Returns:
        The folder; None if it cannot be written.
    """
    sources = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("cpu_*.py")))
    base = given or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "nca-sweep"
    folder = Path(base) / hashlib.sha256(sources).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a full or read-only disk, or no home folder
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


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
