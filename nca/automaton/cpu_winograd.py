"""Compiled loops of 3x3 convolutions by Winograd's minimal filtering, channels-last.

A tile of 2x2 outputs takes 16 products instead of 36: its patch of 4x4 inputs is transformed to 16 positions,
each position has a matrix of its own, and the products are transformed back.

Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: F(2x2, 3x3) with
the points 0, 1, -1 and infinity. Larger tiles save more products but round worse: with F(4x4, 3x3) training
sometimes missed the recorded trajectory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nca.automaton.cpu_kernels import compiled, n_lanes
from nca.automaton.cpu_strips import fill, load, store, transpose
from nca.automaton.cpu_tiles import make_tile

TILE = 2  # outputs per side of a tile
POSITIONS = (TILE + 2) ** 2  # of a patch
PANEL_REGISTERS = 2
TILE_ROWS = 6
ROW_PADDING = 16  # values: rows a power of two apart would share few sets of the cache

product_tile = make_tile(TILE_ROWS, PANEL_REGISTERS, adds=False)


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


@compiled
def load_cell(image: Any, row: int, x: int, c: int) -> Any:
    """Return a strip of channels of a cell of `image`; 0 outside of it."""
    if row < 0 or x < 0 or row >= image.shape[0] or x >= image.shape[1]:
        return fill(image.dtype.type(0))
    return load(image, (row, x, c))


@compiled
def transform_column(image: Any, row: int, x: int, c: int) -> Any:
    """Return the transform of four cells below each other, from `row` on."""
    a, b = load_cell(image, row, x, c), load_cell(image, row + 1, x, c)
    d, e = load_cell(image, row + 2, x, c), load_cell(image, row + 3, x, c)
    return a - d, b + d, d - b, b - e


@compiled
def transform_patches(image: Any, row: int, n: int, out: Any, first: int) -> None:
    """Set `out[:, first : first + n]` to the transformed patches of `n` tiles; `row` is the first one's."""
    for c in range(0, image.shape[2], n_lanes(image)):
        left, center = transform_column(image, row - 1, -1, c), transform_column(image, row - 1, 0, c)
        for t in range(n):
            right = transform_column(image, row - 1, TILE * t + 1, c)
            last = transform_column(image, row - 1, TILE * t + 2, c)
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
                product_tile(patches, (position, t, 0), panels, (position, panel, 0, 0), n_inputs, out, place)


@compiled
def sum_column(products: Any, x: int, t: int, c: int) -> Any:
    """Return the transform of a column of products to that of a tile."""
    a, b = load(products, (x, t, c)), load(products, (4 + x, t, c))
    d, e = load(products, (8 + x, t, c)), load(products, (12 + x, t, c))
    return a + b + d, b - d - e


@compiled
def sum_tile(products: Any, t: int, c: int) -> Any:
    """Return the four outputs of a tile, row by row."""
    a, b = sum_column(products, 0, t, c), sum_column(products, 1, t, c)
    d, e = sum_column(products, 2, t, c), sum_column(products, 3, t, c)
    return a[0] + b[0] + d[0], b[0] - d[0] - e[0], a[1] + b[1] + d[1], b[1] - d[1] - e[1]


@compiled
def convolve(images: Any, panels: Any, bias: Any, out: Any, n_rows: int, first: int, last: int) -> None:
    """Set `out` to the convolution of images with zero padding, for blocks of `n_rows` rows of tiles."""
    batch, height, width, channels = out.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    n_tiles = -(-n_rows * columns // TILE_ROWS) * TILE_ROWS
    patches = np.empty((POSITIONS, n_tiles, images.shape[3] + ROW_PADDING), images.dtype)
    products = np.empty((POSITIONS, n_tiles, channels + ROW_PADDING), images.dtype)
    for block in range(first, last):
        start, stop = block * n_rows, min((block + 1) * n_rows, batch * rows)
        for row in range(start, stop):
            image = images[row // rows]
            transform_patches(image, row % rows * TILE, columns, patches, (row - start) * columns)
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
