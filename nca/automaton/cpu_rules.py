"""The rules `distill` and `munca` by compiled loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nca.automaton import cpu_distill, cpu_munca
from nca.automaton.cpu_kernels import add_correlation, count_blocks, run_blocks
from nca.automaton.fast_rules import Gradient, Mask, Rule
from nca.automaton.grids import PlanarGrid


class _CpuRule(Rule):
    """A rule of compiled loops. Weights and gradients are arrays that share memory with tensors."""

    grid = PlanarGrid

    def __init__(self, kernels: Tensor, weights: Sequence[Tensor]) -> None:
        self._weights = [weight.detach().contiguous() for weight in weights]
        self._kernels = kernels.to(self._weights[0].dtype).contiguous()
        self._grads: list[Tensor] = []  # per block

    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the gradients of the weights."""
        if not self._grads:  # of a rollout of no CA steps
            return tuple(torch.zeros_like(weight) for weight in self._weights)
        return tuple(grad.sum(0) for grad in self._grads)

    def _block_grads(self, n_blocks: int) -> list[Tensor]:
        if not self._grads:
            self._grads = [weight.new_zeros(n_blocks, *weight.shape) for weight in self._weights]
        return self._grads


class CpuDistillRule(_CpuRule):
    """The rule `distill`."""

    def __init__(self, kernels: Tensor, w0: Tensor, bias: Tensor, w1: Tensor) -> None:
        super().__init__(kernels, (w0, bias, w1))
        self._transposed = [w0.detach().T.contiguous(), w1.detach().T.contiguous()]
        # A response's gradient reaches the state through the mirrored kernel.
        self._mirrored = self._kernels[1:].flip(1, 2).repeat(len(w1), 1, 1)

    def forward(self, state: PlanarGrid, mask: Mask, out: PlanarGrid) -> None:
        """Compute one CA step."""
        arrays = _arrays(state.cells, self._kernels, *self._weights, mask.flatten(1, 2), out.cells)
        run_blocks(cpu_distill.forward, count_blocks(state.shape), *arrays, state.shape)

    def backward(self, state: PlanarGrid, mask: Mask, grad: Gradient) -> None:
        """Turn the gradient of the next state into that of `state`."""
        n_blocks, (w0, bias, _) = count_blocks(state.shape), self._weights
        batch, channels, height, width = state.shape
        grad_cells = grad.permute(0, 3, 1, 2).flatten(2)
        grad_responses = grad_cells.new_empty(batch, len(self._mirrored), height * width)
        arrays = _arrays(
            *(state.cells, self._kernels, w0, self._transposed[0], bias, self._transposed[1]),
            *(mask.flatten(1, 2), grad_cells, grad_responses, *self._block_grads(n_blocks)),
        )
        run_blocks(cpu_distill.backward, n_blocks, *arrays, state.shape)
        arrays = _arrays(grad_responses, self._mirrored, grad_cells)
        run_blocks(add_correlation, n_blocks, *arrays, state.shape)


class CpuMuncaRule(_CpuRule):
    """The rule `munca`."""

    def __init__(self, kernels: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__(kernels, (weight, bias))
        self._transposed = weight.detach().T.contiguous()
        self._mirrored = self._kernels.flip(1, 2).contiguous()

    def forward(self, state: PlanarGrid, mask: Mask, out: PlanarGrid) -> None:
        """Compute one CA step."""
        arrays = _arrays(state.cells, self._kernels, *self._weights, mask.flatten(1, 2), out.cells)
        run_blocks(cpu_munca.forward, count_blocks(state.shape), *arrays, state.shape)

    def backward(self, state: PlanarGrid, mask: Mask, grad: Gradient) -> None:
        """Turn the gradient of the next state into that of `state`."""
        n_blocks = count_blocks(state.shape)
        grad_cells = grad.permute(0, 3, 1, 2).flatten(2)
        grad_filtered = torch.empty_like(grad_cells)
        arrays = _arrays(
            *(state.cells, self._kernels, self._weights[0], self._transposed, mask.flatten(1, 2)),
            *(grad_cells, grad_filtered, *self._block_grads(n_blocks)),
        )
        run_blocks(cpu_munca.backward, n_blocks, *arrays, state.shape)
        arrays = _arrays(grad_filtered, self._mirrored, grad_cells)
        run_blocks(add_correlation, n_blocks, *arrays, state.shape)


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.numpy() for tensor in tensors]
