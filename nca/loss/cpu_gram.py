"""Gram matrices and their gradients by compiled loops, for the CPU.

Channels are last, and fill whole panels of `PANEL_REGISTERS` registers, at `TILE_ROWS` positions or more.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nca.automaton.cpu_compiler import compiled
from nca.automaton.cpu_kernels import allocate, n_lanes
from nca.automaton.cpu_strips import REGISTER_BYTES, load, store, transpose
from nca.automaton.cpu_threads import run_blocks
from nca.automaton.cpu_tiles import make_tile

Features = Float[Tensor, "batch position feature"]
Matrices = Float[Tensor, "batch feature feature"]

PANEL_REGISTERS = 2
TILE_ROWS = 8 if REGISTER_BYTES == 64 else 4  # a panel is as wide as some tiles are high
POSITIONS_AT_ONCE = 128  # two panels of them fit the first-level cache
MAX_BLOCKS = 32  # of an image: each has a matrix of sums

tile = make_tile(TILE_ROWS, PANEL_REGISTERS, adds=False)
adding_tile = make_tile(TILE_ROWS, PANEL_REGISTERS, adds=True)


def sum_products(features: Features) -> Matrices:
    """Return the sums over positions of the products of any two features.

    Half the products of a general matrix product; sums of blocks are added at the end, which rounds less.
    """
    batch, n_positions, n_features = features.shape
    size = POSITIONS_AT_ONCE * math.ceil(n_positions / (MAX_BLOCKS * POSITIONS_AT_ONCE))
    n_blocks = math.ceil(n_positions / size)
    sums = features.new_empty(batch * n_blocks, n_features, n_features)
    run_blocks(_multiply_by_transpose, len(sums), features.numpy(), sums.numpy(), size)
    out = features.new_empty(batch, n_features, n_features)
    n_rows = batch * n_features * sums.element_size() // REGISTER_BYTES
    run_blocks(_add_blocks, n_rows, sums.view(batch, n_blocks, *out.shape[1:]).numpy(), out.numpy())
    return out


def multiply(features: Features, matrices: Matrices) -> Features:
    """Return the products of features and a matrix for each image."""
    batch, n_positions, n_features = features.shape
    width = PANEL_REGISTERS * REGISTER_BYTES // features.element_size()
    panels = matrices.unflatten(2, (-1, width)).transpose(1, 2).contiguous()
    n_blocks = math.ceil(n_positions / POSITIONS_AT_ONCE)
    out = torch.empty_like(features)
    arrays = [tensor.numpy() for tensor in (features, panels, out)]
    run_blocks(_multiply_blocks, batch * n_blocks, *arrays, n_blocks)
    return out


@compiled
def _multiply_by_transpose(features: Any, sums: Any, size: int, first: int, last: int) -> None:
    """Set the upper triangles of `sums` to those of blocks of positions; whole panels on the diagonal."""
    n_positions, n_features = features.shape[1:]
    width = PANEL_REGISTERS * n_lanes(features)
    panels = allocate((n_features // width, POSITIONS_AT_ONCE, width), features)
    rows = panels.transpose(0, 2, 1)
    n_blocks = -(-n_positions // size)
    for block in range(first, last):
        image, start = block // n_blocks, block % n_blocks * size
        stop = min(start + size, n_positions)
        for begin in range(start, stop, POSITIONS_AT_ONCE):
            n = min(POSITIONS_AT_ONCE, stop - begin)
            _copy_panels(features[image], begin, n, panels)
            for panel in range(len(panels)):
                for row in range(0, (panel + 1) * width, TILE_ROWS):
                    place, a = (block, row, panel * width), (row // width, row % width, 0)
                    if begin == start:
                        tile(rows, a, panels, (panel, 0, 0), n, sums, place)
                    else:
                        adding_tile(rows, a, panels, (panel, 0, 0), n, sums, place)


@compiled
def _copy_panels(features: Any, begin: int, n: int, out: Any) -> None:
    """Set `out` to panels of the features of `n` positions."""
    width, lanes = out.shape[2], n_lanes(features)
    for position in range(n):
        for panel in range(len(out)):
            for c in range(0, width, lanes):
                store(out, (panel, position, c), load(features, (begin + position, panel * width + c)))


@compiled
def _add_blocks(sums: Any, out: Any, first: int, last: int) -> None:
    """Set rows of squares of `out` to the sums over blocks, and the columns below the diagonal to them."""
    n_blocks, n_features = sums.shape[1:3]
    side = n_lanes(sums)
    n_squares = n_features // side
    for number in range(first, last):
        image, top = number // n_squares, number % n_squares * side
        for left in range(top, n_features, side):
            for row in range(top, top + side):
                total = load(sums, (image, 0, row, left))
                for block in range(1, n_blocks):
                    total = total + load(sums, (image, block, row, left))
                store(out, (image, row, left), total)
            if left > top:
                transpose(out, (image, top, left), out, (image, left, top))


@compiled
def _multiply_blocks(features: Any, panels: Any, out: Any, n_blocks: int, first: int, last: int) -> None:
    """Set blocks of positions of `out` to the products of features and each image's panels of columns."""
    n_positions, n_features = features.shape[1:]
    n_panels, width = panels.shape[1], panels.shape[3]
    for block in range(first, last):
        image, start = block // n_blocks, block % n_blocks * POSITIONS_AT_ONCE
        stop = min(start + POSITIONS_AT_ONCE, n_positions)
        for panel in range(n_panels):
            for position in range(start, stop, TILE_ROWS):
                row = min(position, n_positions - TILE_ROWS)  # the last tile may meet the one before
                place, b = (image, row, panel * width), (image, panel, 0, 0)
                tile(features, (image, row, 0), panels, b, n_features, out, place)
