"""Layouts of states for the fast rollouts, and the tape that keeps them."""

from __future__ import annotations

from collections.abc import Sequence

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
    def stack(
        cls, like: Float[Tensor, "batch channel height width"], n: int
    ) -> tuple[Tensor, list[PaddedGrid]]:
        """Return uninitialized memory for `n` states like `like`, and the grids in it."""
        batch, channels, height, width = like.shape
        memory = like.new_empty(n, batch, height + 2, width + 2, channels)
        return memory, [cls(padded) for padded in memory]


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
    def stack(
        cls, like: Float[Tensor, "batch channel height width"], n: int
    ) -> tuple[Tensor, list[PlanarGrid]]:
        """Return uninitialized memory for `n` states like `like`, and the grids in it."""
        memory = like.new_empty(n, *like.shape)
        return memory, [cls(planes) for planes in memory]

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
    def stack(
        cls, like: Float[Tensor, "batch channel height width"], n: int
    ) -> tuple[Tensor, list[CellGrid]]:
        """Return uninitialized memory for `n` states like `like`, and the grids in it."""
        batch, channels, height, width = like.shape
        n_values = width * channels
        memory = like.new_empty(n, batch, height, n_values + SLACK_BYTES // like.element_size())
        return memory, [cls(rows[..., :n_values].unflatten(2, (width, channels))) for rows in memory]

    @classmethod
    def copy(cls, values: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch _ _ channel"]:
        """Return the interior of a grid of such values."""
        interior = cls.stack(values, 1)[1][0].interior
        return interior.copy_(values.permute(0, 2, 3, 1))


Grid = PaddedGrid | PlanarGrid | CellGrid


class Tape:
    """Buffers for the states and masks of up to `n_steps` consecutive CA steps.

    Attributes:
        states: `n_steps + 1` grids.
        memory: Of all states, (state, batch, ...).
        masks: (CA step, batch, height, width, mask channel), int8, 1 where a cell takes the update.
    """

    def __init__(
        self,
        state: Float[Tensor, "batch channel height width"],
        n_steps: int,
        mask_channels: int,
        grid: type[Grid],
    ) -> None:
        batch, _, height, width = state.shape
        self.states: Sequence[Grid]
        self.memory, self.states = grid.stack(state, n_steps + 1)
        n_values = n_steps * batch * height * width * mask_channels
        masks = state.new_empty(n_values + SLACK_BYTES, dtype=torch.int8)
        self.masks = masks[:n_values].view(n_steps, batch, height, width, mask_channels)
        self._key = (state.shape, state.dtype, state.device, mask_channels, grid)

    def fits(
        self,
        state: Float[Tensor, "batch channel height width"],
        n_steps: int,
        mask_channels: int,
        grid: type[Grid],
    ) -> bool:
        """Return whether the tape can hold `n_steps` CA steps of such a state."""
        key = (state.shape, state.dtype, state.device, mask_channels, grid)
        return self._key == key and len(self.masks) >= n_steps
