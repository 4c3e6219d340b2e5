"""The update rules by compiled loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nca.automaton import cpu_distill, cpu_linear, cpu_munca
from nca.automaton.cpu_kernels import add_correlation, count_blocks, run_blocks
from nca.automaton.cpu_strips import REGISTER_BYTES
from nca.automaton.cpu_winograd import POSITIONS, TILE_ROWS, make_panels, sum_panels
from nca.automaton.fast_rules import Gradient, Mask, Rule, clamp_if, pass_clamp
from nca.automaton.grids import CellGrid, PlanarGrid


class CpuLinearRule(Rule):
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
            out = self.grid.empty(grad.permute(0, 3, 1, 2)).interior
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

    def forward(self, state: PlanarGrid, mask: Mask, out: PlanarGrid, *, clamp: bool) -> None:
        """Compute one CA step."""
        arrays = _arrays(state.cells, self._kernels, *self._weights, mask.flatten(1, 2), out.cells)
        run_blocks(cpu_distill.forward, count_blocks(state.shape), *arrays, state.shape)
        clamp_if(out, clamp)

    def backward(self, state: PlanarGrid, mask: Mask, grad: Gradient, clamped: PlanarGrid | None) -> Gradient:
        """Return the gradient of `state`."""
        pass_clamp(grad, clamped)
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
        return grad


class CpuMuncaRule(_CpuRule):
    """The rule `munca`."""

    def __init__(self, kernels: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__(kernels, (weight, bias))
        self._transposed = weight.detach().T.contiguous()
        self._mirrored = self._kernels.flip(1, 2).contiguous()

    def forward(self, state: PlanarGrid, mask: Mask, out: PlanarGrid, *, clamp: bool) -> None:
        """Compute one CA step."""
        arrays = _arrays(state.cells, self._kernels, *self._weights, mask.flatten(1, 2), out.cells)
        run_blocks(cpu_munca.forward, count_blocks(state.shape), *arrays, state.shape)
        clamp_if(out, clamp)

    def backward(self, state: PlanarGrid, mask: Mask, grad: Gradient, clamped: PlanarGrid | None) -> Gradient:
        """Return the gradient of `state`."""
        pass_clamp(grad, clamped)
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
        return grad


def _arrays(*tensors: Tensor) -> list[NDArray[Any]]:
    return [tensor.numpy() for tensor in tensors]
