"""A training step as CUDA graphs: captured once per rollout length, then replayed with one launch.

Written by PyTorch's documented rules and never run on a GPU by its authors; the bookkeeping is tested with
a stand-in for the capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nca.automaton.model import State

__all__ = ["StepGraphs", "capture_on_cuda"]

# From a batch of states and a rollout's length to the final states and the loss.
Step = Callable[[State, int], tuple[State, Tensor]]
Launch = Callable[[], object]
# Records what a call does on the device, without doing it, and returns what does it.
Capture = Callable[[Launch], Launch]

# Steps taken as they are before the first capture: libraries and the optimizer make their buffers in them.
N_WARM_UP = 3


@dataclass(frozen=True)
class _Captured:
    """Places in memory that a graph reads and writes, and what launches it."""

    states: Tensor
    final: Tensor
    loss: Tensor
    launch: Launch


class StepGraphs:
    """A training step that is captured on the first call of each rollout length.

    The step must keep all else that it changes where it is in memory, and draw from generators that
    `capture` knows. What a call returns is overwritten by the next one of the same length.

    Args:
        step: Called as it is for the first `N_WARM_UP` calls.
        capture: See `capture_on_cuda`.
    """

    def __init__(self, step: Step, capture: Capture) -> None:
        self._step = step
        self._capture = capture
        self._n_calls = 0
        self._captured: dict[int, _Captured] = {}

    def __call__(self, states: State, ca_steps: int) -> tuple[State, Tensor]:
        """Return the final states and the loss, as `step` does."""
        self._n_calls += 1
        if self._n_calls <= N_WARM_UP:
            return self._step(states, ca_steps)
        if ca_steps not in self._captured:
            self._captured[ca_steps] = self._record(states, ca_steps)
        captured = self._captured[ca_steps]
        captured.states.copy_(states)
        captured.launch()
        return captured.final, captured.loss

    def _record(self, states: State, ca_steps: int) -> _Captured:
        given, final, loss = states.clone(), torch.empty_like(states), states.new_empty(())

        def launch() -> None:
            found, found_loss = self._step(given, ca_steps)
            final.copy_(found)
            loss.copy_(found_loss)

        return _Captured(given, final, loss, self._capture(launch))


def capture_on_cuda(generators: Sequence[torch.Generator]) -> Capture:
    """Return a capture into CUDA graphs, which share one memory pool: only one of them runs at a time.

    Args:
        generators: CUDA generators that the captured calls draw from; a replay draws what a call would have.

    Source: PyTorch, "CUDA semantics", section "CUDA Graphs".
    """
    pool: list[Any] = []

    def capture(launch: Launch) -> Launch:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        if not pool:
            pool.append(torch.cuda.graph_pool_handle())
        with torch.cuda.graph(graph, pool=pool[0]):
            launch()
        return graph.replay

    return capture
