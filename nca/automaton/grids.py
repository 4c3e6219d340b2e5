"""Layouts of states for the fast rollouts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

SLACK_BYTES = 64  # compiled loops read and write whole vector registers


class PaddedGrid:
    """A periodic grid of values, channels-last, with a margin of one cell; its attributes are views."""

    memory_format = torch.channels_last

    def __init__(self, padded: Shaped[Tensor, "batch padded_height padded_width channel"]) -> None:
        self.padded = padded
        self.interior = padded[:, 1:-1, 1:-1]
        self.image = padded.permute(0, 3, 1, 2)
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

    @classmethod
    def copy(cls, values: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch _ _ channel"]:
        """Return a copy of values in the layout of an interior, without a margin."""
        return values.clone(memory_format=cls.memory_format).permute(0, 2, 3, 1)

    @classmethod
    def empty(cls, like: Float[Tensor, "batch channel height width"]) -> PaddedGrid:
        """Return an uninitialized grid for states like `like`."""
        batch, channels, height, width = like.shape
        return cls(like.new_empty(batch, height + 2, width + 2, channels))


class PlanarGrid:
    """A periodic grid of values, a plane per channel, without a margin; its attributes are views."""

    memory_format = torch.contiguous_format

    def __init__(self, planes: Float[Tensor, "batch channel height width"]) -> None:
        self.planes = planes
        self.interior = planes.permute(0, 2, 3, 1)
        self.cells = planes.flatten(2)
        batch, channels, height, width = planes.shape
        self.shape = (batch, channels, height, width)

    def wrap(self) -> None:
        """Do nothing: there is no margin."""

    @classmethod
    def empty(cls, like: Float[Tensor, "batch channel height width"]) -> PlanarGrid:
        """Return an uninitialized grid for states like `like`."""
        return cls(torch.empty_like(like, memory_format=torch.contiguous_format))

    @classmethod
    def copy(cls, values: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch _ _ channel"]:
        """Return a copy of values in the layout of an interior."""
        return values.clone(memory_format=cls.memory_format).permute(0, 2, 3, 1)


class CellGrid:
    """A periodic grid of values, channels-last, with `SLACK_BYTES` behind each row; `interior` is a view."""

    memory_format = torch.channels_last

    def __init__(self, cells: Float[Tensor, "batch height width channel"]) -> None:
        self.interior = cells

    def wrap(self) -> None:
        """Do nothing: there is no margin."""

    @classmethod
    def empty(cls, like: Float[Tensor, "batch channel height width"]) -> CellGrid:
        """Return an uninitialized grid for states like `like`."""
        batch, channels, height, width = like.shape
        n_values = width * channels
        rows = like.new_empty(batch, height, n_values + SLACK_BYTES // like.element_size())
        return cls(rows[..., :n_values].unflatten(2, (width, channels)))

    @classmethod
    def copy(cls, values: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch _ _ channel"]:
        """Return the interior of a grid of such values."""
        interior = cls.empty(values).interior
        return interior.copy_(values.permute(0, 2, 3, 1))


Grid = PaddedGrid | PlanarGrid | CellGrid
