"""Periodic grids stored with a margin, and index tables of the cells that take an update."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int8, Int64, Shaped
from torch import Tensor

# oneDNN caches its kernels by shape: the number of rows is rounded up to whole blocks.
ROWS_PER_BLOCK = 512


class PaddedGrid:
    """A periodic grid of values, channels-last, with a margin of one cell; its attributes are views."""

    def __init__(self, padded: Shaped[Tensor, "batch padded_height padded_width channel"]) -> None:
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
        """Copy each edge of the interior to the margin on the opposite side."""
        for margin, edge in self._edges:
            margin.copy_(edge)

    def empty_like(self) -> PaddedGrid:
        """Return an uninitialized grid of the same shape and type."""
        return PaddedGrid(torch.empty_like(self.padded))


@dataclass(frozen=True)
class ActiveCells:
    """The cells that take an update, as rows of a matrix; its remaining rows, at least one, are unused."""

    n_active: int
    index: Int64[Tensor, " row"]  # each row's cell in the grid without its margin; cell 0 for unused rows
    padded_index: Int64[Tensor, " row"]  # the same in the grid with its margin
    row_of_cell: Int64[Tensor, " padded_cell"]  # margin included and wrapped; the last row if inactive

    def clear_unused(self, rows: Shaped[Tensor, "row channel"]) -> Shaped[Tensor, "row channel"]:
        """Set the unused rows to 0 in place; return all rows."""
        rows[self.n_active :].zero_()
        return rows


class CellIndex:
    """Index tables that turn an update mask into row indices, for grids of one shape on the CPU."""

    def __init__(self, like: PaddedGrid) -> None:
        cells = torch.arange(like.padded.shape[:3].numel()).view(*like.padded.shape[:3], 1)
        self._padded_index = cells[:, 1:-1, 1:-1].flatten()
        self._index = torch.arange(len(self._padded_index))
        wrapped = PaddedGrid(torch.empty_like(cells))
        wrapped.interior.copy_(self._index.view(wrapped.interior.shape))
        wrapped.wrap()
        self._wrapped_index = wrapped.cells.flatten()

    def find_active(self, mask: Int8[Tensor, "batch height width 1"]) -> ActiveCells:
        """Return the cells where the mask is 1."""
        # np.flatnonzero is eight times as fast as torch.nonzero.
        active = torch.from_numpy(np.flatnonzero(mask.numpy().view(np.bool_)))
        n_rows = (len(active) // ROWS_PER_BLOCK + 1) * ROWS_PER_BLOCK
        rows = torch.full_like(self._index, n_rows - 1).scatter_(0, active, self._index[: len(active)])
        index = F.pad(active, (0, n_rows - len(active)))
        padded_index = self._padded_index.index_select(0, index)
        return ActiveCells(len(active), index, padded_index, rows.index_select(0, self._wrapped_index))
