"""The update rules by compiled loops."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nca.automaton import cpu_distill, cpu_linear, cpu_munca
from nca.automaton.cpu_kernels import count_blocks
from nca.automaton.cpu_strips import REGISTER_BYTES
from nca.automaton.cpu_threads import run_blocks, run_together
from nca.automaton.cpu_winograd import POSITIONS, TILE_ROWS, make_panels, sum_panels
from nca.automaton.fast_rules import Gradient, Mask, Rule, SingleStepRule
from nca.automaton.grids import CellGrid, PlanarGrid, Tape


class CpuLinearRule(SingleStepRule):
    """The rule `srnca`: one 3x3 convolution, by Winograd's algorithm."""

    grid = CellGrid

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = kernel.detach()
        n_strips = -(-len(kernel) * kernel.element_size() // REGISTER_BYTES)
        n_registers = 1 + (n_strips % 2 == 0)  # of a panel
        self._panels = make_panels(self._kernel, n_registers)
        # The state's gradient is a convolution with the kernel mirrored, inputs and outputs exchanged.
        self._mirrored = make_panels(self._kernel.transpose(0, 1).flip(2, 3), n_registers)
        self._grads: Tensor | None = None  # of each position's matrix, per block
        self._spare: Tensor | None = None  # memory for a gradient

    def forward(self, state: CellGrid, mask: Mask, out: CellGrid, *, clamp: bool) -> None:
        """Compute one CA step."""
        arrays = _arrays(state.interior, self._panels, mask, out.interior)
        run_blocks(cpu_linear.forward, cpu_linear.count_blocks(state.interior.shape), *arrays, clamp)

    def backward(self, state: CellGrid, mask: Mask, grad: Gradient, clamped: CellGrid | None) -> Gradient:
        """Return the gradient of `state`."""
        n_blocks, out = cpu_linear.count_blocks(state.interior.shape), self._spare
        if out is None:
            out = self.grid.stack(grad.permute(0, 3, 1, 2), 1)[1][0].interior
        if self._grads is None:
            n_rows, width = -(-len(self._kernel) // TILE_ROWS) * TILE_ROWS, self._panels[0, :, 0].numel()
            self._grads = torch.zeros(n_blocks, POSITIONS, n_rows, width, dtype=torch.float64)
        next_state = state if clamped is None else clamped
        tensors = (state.interior, self._mirrored, mask, next_state.interior, grad, out, self._grads)
        run_blocks(cpu_linear.backward, n_blocks, *_arrays(*tensors), clamped is not None)
        self._spare = grad
        return out

    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the gradient of the kernel."""
        if self._grads is None:  # of a rollout of no CA steps
            return (torch.zeros_like(self._kernel),)
        n_channels = len(self._kernel)
        return (sum_panels(self._grads.sum(0)[:, :n_channels, :n_channels]).to(self._kernel.dtype),)


class _PlanarRule(Rule):
    """A rule of compiled loops over CA steps. Weights and gradients share their memory with tensors.

    Args:
        kernels: Of the perception.
        mirrored: A kernel for each plane of responses, through which its gradient reaches the state.
        weights: The weights.
    """

    grid = PlanarGrid
    _roll: Callable[..., None]
    _unroll: Callable[..., None]

    def __init__(self, kernels: Tensor, mirrored: Tensor, weights: Sequence[Tensor]) -> None:
        self._weights = [weight.detach().contiguous() for weight in weights]
        dtype = self._weights[0].dtype
        self._kernels, self._mirrored = kernels.to(dtype).contiguous(), mirrored.to(dtype).contiguous()
        self._grads: list[Tensor] = []  # per block

    def roll(self, tape: Tape, n_steps: int, *, clamp: bool) -> None:
        """Compute `n_steps` CA steps from the first state on a tape, with the masks on it."""
        states, masks, shape = _on(tape, n_steps)
        arrays = _arrays(states, self._kernels, *self._weights, masks)
        run_together(type(self)._roll, count_blocks(shape), *arrays, clamp, shape)

    def unroll(self, tape: Tape, n_steps: int, grad: Gradient, *, clamp: bool, normalize: bool) -> Gradient:
        """Return the gradient with respect to the first state on a tape."""
        states, masks, shape = _on(tape, n_steps)
        n_blocks = count_blocks(shape)
        if not self._grads:
            self._grads = [weight.new_zeros(n_blocks, *weight.shape) for weight in self._weights]
        cells = grad.permute(0, 3, 1, 2).flatten(2)
        responses = cells.new_empty(len(cells), len(self._mirrored), cells.shape[2])
        squares = torch.empty(n_blocks, dtype=torch.float64)
        arrays = _arrays(
            *(states, self._kernels, self._mirrored, *self._backward_weights(), masks),
            *(cells, responses, squares, *self._grads),
        )
        run_together(type(self)._unroll, n_blocks, *arrays, clamp, normalize, shape)
        return grad

    @abstractmethod
    def _backward_weights(self) -> Sequence[Tensor]:
        """Return what the backward pass multiplies by."""

    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the gradients of the weights."""
        if not self._grads:  # of a rollout of no CA steps
            return tuple(torch.zeros_like(weight) for weight in self._weights)
        return tuple(grad.sum(0) for grad in self._grads)


class CpuDistillRule(_PlanarRule):
    """The rule `distill`."""

    _roll, _unroll = cpu_distill.roll, cpu_distill.unroll

    def __init__(self, kernels: Tensor, w0: Tensor, bias: Tensor, w1: Tensor) -> None:
        super().__init__(kernels, kernels[1:].flip(1, 2).repeat(len(w1), 1, 1), (w0, bias, w1))

    def _backward_weights(self) -> Sequence[Tensor]:
        w0, bias, w1 = self._weights
        return w0, w0.T.contiguous(), bias, w1.T.contiguous()


class CpuMuncaRule(_PlanarRule):
    """The rule `munca`."""

    _roll, _unroll = cpu_munca.roll, cpu_munca.unroll

    def __init__(self, kernels: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__(kernels, kernels.flip(1, 2), (weight, bias))

    def _backward_weights(self) -> Sequence[Tensor]:
        weight, _ = self._weights
        return weight, weight.T.contiguous()


def _on(tape: Tape, n_steps: int) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
    """Return the states on a tape and the masks of its first CA steps, by cell, and the shape of a state."""
    batch, channels, height, width = tape.memory.shape[1:]
    masks = tape.masks[:n_steps].flatten(2, 3)
    return tape.memory.flatten(3), masks, (batch, channels, height, width)


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.numpy() for tensor in tensors]
