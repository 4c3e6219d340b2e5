"""A training step as CUDA graphs: captured once per rollout length, then replayed with one launch.

Written by PyTorch's documented rules and never run on a GPU by its authors; tests replace the capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nca.automaton.model import State

# From a batch of states and a rollout's length to the final states and the loss.
Step = Callable[[State, int], tuple[State, Tensor]]
Launch = Callable[[], object]
# Records the device's work of a call, without doing it, and returns a function that does it.
Capture = Callable[[Launch], Launch]

# Steps taken without a graph before the first capture, in which libraries and the optimizer allocate buffers.
N_WARM_UP = 3


class StepGraphs:
    """A training step that is captured on the first call of each rollout length.

    Every other tensor that the step changes must stay at one memory address, and `capture` must know every
    generator that it draws from. The next call of the same length overwrites the returned tensors.

    Args:
        step: Called directly for the first `N_WARM_UP` calls.
        capture: See `capture_on_cuda`.
    """

    def __init__(self, step: Step, capture: Capture) -> None:
        self._step = step
        self._capture = capture
        self._n_calls = 0
        self._graphs: dict[int, tuple[Tensor, Tensor, Tensor, Launch]] = {}

    def __call__(self, states: State, ca_steps: int) -> tuple[State, Tensor]:
        """Return the final states and the loss, as `step` does."""
        self._n_calls += 1
        if self._n_calls <= N_WARM_UP:
            return self._step(states, ca_steps)
        if ca_steps not in self._graphs:
            self._graphs[ca_steps] = self._capture_step(states, ca_steps)
        static_states, final, loss, launch = self._graphs[ca_steps]
        static_states.copy_(states)
        launch()
        return final, loss

    def _capture_step(self, states: State, ca_steps: int) -> tuple[Tensor, Tensor, Tensor, Launch]:
        """Return the tensors that a graph reads and writes, and its launch."""
        static_states, final, loss = states.clone(), torch.empty_like(states), states.new_empty(())

        def launch() -> None:
            new_final, new_loss = self._step(static_states, ca_steps)
            final.copy_(new_final)
            loss.copy_(new_loss)

        return static_states, final, loss, self._capture(launch)


def capture_on_cuda(generators: Sequence[torch.Generator]) -> Capture:
    """Return a capture into CUDA graphs, which share one memory pool: only one of them runs at a time.

    Args:
        generators: CUDA generators that the captured calls draw from; each replay advances them like a call.

    Source: PyTorch, "CUDA semantics", section "CUDA Graphs".
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(launch: Launch) -> Launch:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, pool=pool):
            launch()
        return graph.replay

    return capture
