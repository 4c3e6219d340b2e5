"""The pool of states that training samples from and commits to."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nca.automaton.model import Automaton, State, erase_disc
from nca.automaton.seeding import Streams

DAMAGE_RADIUS = (0.1, 0.3)  # of a damaged disc, least and most, in sides of the grid


class Pool:
    """States of all ages, so that the automaton learns to keep a texture as well as to grow it.

    Args:
        n_states: Rows of the pool.
        model: Draws the seed states, on its device.
        size: Height and width in pixels, a multiple of 16.
        streams: Uses `pool` (which rows, and what is damaged) and `seed_states` (fresh states).

    Source: Mordvintsev et al. 2020, "Growing Neural Cellular Automata", experiment 2.
    """

    states: Float[Tensor, "row channel height width"]

    def __init__(self, n_states: int, model: Automaton, size: int, streams: Streams) -> None:
        self._model, self._size, self._streams = model, size, streams
        self.states = model.draw_seed_states(n_states, size, streams["seed_states"])

    def draw_rows(self, batch_size: int) -> list[int]:
        """Draw row numbers uniformly with replacement, on the host."""
        n_rows = self.states.shape[0]
        rows: list[int] = torch.randint(n_rows, (batch_size,), generator=self._streams["pool"]).tolist()
        return rows

    def sample(self, rows: list[int]) -> State:
        """Return the states of `rows`, a copy."""
        return torch.stack([self.states[row] for row in rows])

    def draw_seed_state(self) -> State:
        """Draw one fresh seed state, (1, channels, height, width)."""
        return self._model.draw_seed_states(1, self._size, self._streams["seed_states"])

    def damage(self, states: State) -> State:
        """Return a copy of states in which a disc of random place and radius is 0."""
        row, column, share = torch.rand(3, generator=self._streams["pool"]).tolist()
        smallest, largest = DAMAGE_RADIUS
        center = (int(row * self._size), int(column * self._size))
        return erase_disc(states, smallest + share * (largest - smallest), center)

    def commit(self, rows: list[int], states: State, keep: Bool[Tensor, ""]) -> None:
        """Write states back to `rows`, in order, so that a row drawn twice keeps its last state.

        Args:
            rows: Row numbers, one for each state.
            states: Final states of the rollout.
            keep: If false, nothing is written; on the device, so that no host sync is needed.
        """
        for row, state in zip(rows, states, strict=True):
            self.states[row] = torch.where(keep, state, self.states[row])
