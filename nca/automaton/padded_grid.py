"""Grids whose edges meet, and the cells of them that take an update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Cells", "Numbering", "Torus"]

# oneDNN keeps its kernels by shape: cells that take an update are filled up to whole blocks.
CELLS_BLOCK = 512


class Torus:
    """A grid of values with a margin of one cell, channels-last, and the views of it that are needed.

    Args:
        padded: (batch, height + 2, width + 2, channel).
    """

    def __init__(self, padded: Tensor) -> None:
        self.padded = padded
        self.interior = padded[:, 1:-1, 1:-1]
        self.image = padded.permute(0, 3, 1, 2)
        self.cells = padded.flatten(0, 2)
        self._edges = (
            (padded[:, 0, 1:-1], padded[:, -2, 1:-1]),
            (padded[:, -1, 1:-1], padded[:, 1, 1:-1]),
            (padded[:, :, 0], padded[:, :, -2]),
            (padded[:, :, -1], padded[:, :, 1]),
        )

    def wrap(self) -> None:
        """Copy each edge of the interior to the margin on the other side."""
        for margin, edge in self._edges:
            margin.copy_(edge)


@dataclass(frozen=True)
class Cells:
    """The cells that take an update, as rows of a matrix; at least its last row belongs to no cell.

    Args:
        n_updated: How many.
        inner: Their numbers, counted without the margin; filled up with the first cell's.
        outer: Their numbers, counted with the margin; filled up likewise.
        rows: The row of every cell, the margin wrapped; the last row for those without an update.
    """

    n_updated: int
    inner: Tensor
    outer: Tensor
    rows: Tensor

    def clear(self, rows: Tensor) -> Tensor:
        """Set the rows that belong to no cell to 0, and return all."""
        rows[self.n_updated :].zero_()
        return rows


class Numbering:
    """Numbers of a grid's cells, by which those that take an update are found.

    Args:
        like: A grid of the shape.
    """

    def __init__(self, like: Torus) -> None:
        numbers = torch.arange(like.padded.shape[:3].numel()).view(*like.padded.shape[:3], 1)
        self._outer = numbers[:, 1:-1, 1:-1].flatten()
        self._count = torch.arange(len(self._outer))
        wrapped = Torus(torch.empty_like(numbers))
        wrapped.interior.copy_(self._count.view(wrapped.interior.shape))
        wrapped.wrap()
        self._wrapped = wrapped.padded.flatten()

    def find(self, coins: Tensor) -> Cells:
        """Return the cells whose coin is 1."""
        # Eight times as fast as torch.nonzero
        found = torch.from_numpy(np.flatnonzero(coins.numpy().view(np.bool_)))
        n_rows = (len(found) // CELLS_BLOCK + 1) * CELLS_BLOCK
        rows = torch.full_like(self._count, n_rows - 1).scatter_(0, found, self._count[: len(found)])
        inner = F.pad(found, (0, n_rows - len(found)))
        outer = self._outer.index_select(0, inner)
        return Cells(len(found), inner, outer, rows.index_select(0, self._wrapped))
