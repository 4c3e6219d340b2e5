"""Compiled loops of 3x3 convolutions by Winograd's minimal filtering, channels-last.

A tile of 2x2 outputs takes 16 products instead of 36: its patch of 4x4 inputs is transformed to 16 positions,
each position has a matrix of its own, and the products are transformed back.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: F(2x2, 3x3) with
the points 0, 1, -1 and infinity. Larger tiles save more products but round worse: with F(4x4, 3x3) training
sometimes missed the recorded trajectory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.automaton.cpu_compiler import compiled, inlined
from nca.automaton.cpu_kernels import allocate, n_lanes
from nca.automaton.cpu_strips import REGISTER_BYTES, fill, load, store, transpose
from nca.automaton.cpu_tiles import make_tile

TILE = 2  # outputs per side of a tile
POSITIONS = (TILE + 2) ** 2  # of a patch
TILE_ROWS = 6
KERNEL_TRANSFORM = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
ROW_PADDING = 16  # values: rows a power of two apart would share few sets of the cache

narrow_tile = make_tile(TILE_ROWS, 1, adds=False)
wide_tile = make_tile(TILE_ROWS, 2, adds=False)


def make_panels(weight: Float[Tensor, "output input 3 3"], n_registers: int) -> Float[Tensor, "16 _ input _"]:
    """Return a kernel's matrix of each position, in panels of columns that are `n_registers` wide."""
    width = n_registers * REGISTER_BYTES // weight.element_size()
    positions = torch.einsum("oik,pk->pio", weight.flatten(2), _kernel_transform(weight.dtype))
    positions = F.pad(positions, (0, -len(weight) % width))
    panels: Tensor = positions.unflatten(2, (-1, width)).transpose(1, 2).contiguous()
    return panels


def sum_panels(grads: Float[Tensor, "16 input output"]) -> Float[Tensor, "output input 3 3"]:
    """Return the gradient of a kernel from those of each position's matrix."""
    grad = torch.einsum("pio,pk->oik", grads, _kernel_transform(grads.dtype))
    kernel: Tensor = grad.unflatten(2, (3, 3))
    return kernel


def _kernel_transform(dtype: torch.dtype) -> Float[Tensor, "16 9"]:
    matrix = torch.tensor(KERNEL_TRANSFORM, dtype=torch.float64)
    transform: Tensor = torch.kron(matrix, matrix)
    return transform.to(dtype)


@compiled
def mirror(panels: Any, out: Any, first: int, last: int) -> None:
    """Set positions of `out` to the panels of the mirrored kernel, inputs and outputs exchanged."""
    n_panels, n_inputs, width = panels.shape[1:]
    side = n_lanes(panels)
    for position in range(first, last):
        row, column = position // 4, position % 4
        mirrored = 4 * (row if 0 < row < 3 else 3 - row) + (column if 0 < column < 3 else 3 - column)
        for panel in range(n_panels):
            for i in range(0, n_inputs, side):
                for o in range(0, width, side):
                    place = (mirrored, i // width, panel * width + o, i % width)
                    transpose(panels, (position, panel, i, o), out, place)


@inlined
def load_cell(image: Any, row: int, x: int, c: int) -> Any:
    """Return a strip of a cell's channels, which may reach behind it; 0 for a row or column below 0."""
    if row < 0 or x < 0:
        return fill(image.dtype.type(0))
    return load(image, (row, x, c))


@inlined
def index_in(index: int, size: int, wraps: bool) -> int:
    """Return an index on a torus if it wraps; else, -1 for one outside of `size`."""
    if 0 <= index < size:
        return index
    return index % size if wraps else -1


@inlined
def transform_column(image: Any, rows: tuple[int, int, int, int], x: int, c: int, wraps: bool) -> Any:
    """Return the transform of four cells of a column."""
    x = index_in(x, image.shape[1], wraps)
    a, b = load_cell(image, rows[0], x, c), load_cell(image, rows[1], x, c)
    d, e = load_cell(image, rows[2], x, c), load_cell(image, rows[3], x, c)
    return a - d, b + d, d - b, b - e


@compiled
def transform_patches(image: Any, row: int, n: int, wraps: bool, out: Any, first: int) -> None:
    """Set `out[:, first : first + n]` to the transformed patches of `n` tiles; `row` is the first one's."""
    height = image.shape[0]
    above, here = index_in(row - 1, height, wraps), index_in(row, height, wraps)
    below, last_ = index_in(row + 1, height, wraps), index_in(row + 2, height, wraps)
    rows = above, here, below, last_
    for c in range(0, image.shape[2], n_lanes(image)):
        left = transform_column(image, rows, -1, c, wraps)
        center = transform_column(image, rows, 0, c, wraps)
        for t in range(n):
            right = transform_column(image, rows, TILE * t + 1, c, wraps)
            last = transform_column(image, rows, TILE * t + 2, c, wraps)
            place = first + t
            for i in range(4):
                store(out, (4 * i, place, c), left[i] - right[i])
                store(out, (4 * i + 1, place, c), center[i] + right[i])
                store(out, (4 * i + 2, place, c), right[i] - center[i])
                store(out, (4 * i + 3, place, c), center[i] - last[i])
            left, center = right, last


@compiled
def multiply_positions(patches: Any, panels: Any, n: int, out: Any) -> None:
    """Set `out[:, :n]` to the products of each position's matrices, `panels` of columns."""
    n_panels, n_inputs, width = panels.shape[1:]
    for position in range(POSITIONS):
        for panel in range(n_panels):
            for t in range(0, n, TILE_ROWS):
                place = (position, t, panel * width)
                a, b = (position, t, 0), (position, panel, 0, 0)
                if width == n_lanes(out):
                    narrow_tile(patches, a, panels, b, n_inputs, out, place)
                else:
                    wide_tile(patches, a, panels, b, n_inputs, out, place)


@inlined
def sum_column(products: Any, x: int, t: int, c: int) -> Any:
    """Return the transform of a column of products to that of a tile."""
    a, b = load(products, (x, t, c)), load(products, (4 + x, t, c))
    d, e = load(products, (8 + x, t, c)), load(products, (12 + x, t, c))
    return a + d + b, b - d - e


@inlined
def sum_tile(products: Any, t: int, c: int) -> Any:
    """Return the four outputs of a tile, row by row."""
    a, b = sum_column(products, 0, t, c), sum_column(products, 1, t, c)
    d, e = sum_column(products, 2, t, c), sum_column(products, 3, t, c)
    return a[0] + d[0] + b[0], b[0] - d[0] - e[0], a[1] + d[1] + b[1], b[1] - d[1] - e[1]


@compiled
def convolve(images: Any, panels: Any, bias: Any, out: Any, n_rows: int, first: int, last: int) -> None:
    """Set `out` to the convolution of images with zero padding, for blocks of `n_rows` rows of tiles."""
    batch, height, width, channels = out.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    n_tiles = -(-n_rows * columns // TILE_ROWS) * TILE_ROWS
    patches = allocate((POSITIONS, n_tiles, images.shape[3] + ROW_PADDING), images)
    products = allocate((POSITIONS, n_tiles, channels + ROW_PADDING), images)
    for block in range(first, last):
        start, stop = block * n_rows, min((block + 1) * n_rows, batch * rows)
        for row in range(start, stop):
            image = images[row // rows]
            transform_patches(image, row % rows * TILE, columns, False, patches, (row - start) * columns)
        multiply_positions(patches, panels, (stop - start) * columns, products)
        for row in range(start, stop):
            write_tiles(products, (row - start) * columns, bias, out[row // rows], row % rows * TILE)


@compiled
def write_tiles(products: Any, first: int, bias: Any, out: Any, row: int) -> None:
    """Set two rows of `out` to the outputs of their tiles."""
    height, width, channels = out.shape
    for c in range(0, channels, n_lanes(out)):
        offset = load(bias, (c,))
        for x in range(0, width, TILE):
            a, b, d, e = sum_tile(products, first + x // TILE, c)
            store(out, (row, x, c), a + offset)
            if x + 1 < width:
                store(out, (row, x + 1, c), b + offset)
            if row + 1 < height:
                store(out, (row + 1, x, c), d + offset)
                if x + 1 < width:
                    store(out, (row + 1, x + 1, c), e + offset)
