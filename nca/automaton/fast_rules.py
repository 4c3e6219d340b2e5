"""Update rules on padded grids: one CA step forward, and its gradients, without autograd.

Without a ReLU, a CA step is linear between clamps: perception and both convolutions fold into one 3x3
convolution `channels -> channels`. With a ReLU, perception stays a depthwise convolution per kernel: folded
into the first convolution it would take 9 products instead of `filters`. With one mask value per cell, the
CPU computes everything after the perception only for the active cells, those that take the update.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.padded_grid import ActiveCells, CellIndex, PaddedGrid

Mask = Int8[Tensor, "batch height width mask_channel"]  # 1 where a cell takes the update
Rows = Float[Tensor, "row channel"]  # one cell per row

TAPS = 9  # cells of a 3x3 neighborhood
ROW_BLOCKS = 16  # maximum batch size of the images that `_as_image` makes of rows
# oneDNN's kernel gradient is slower by a third with 13 to 15 input channels than with 16.
FAST_CHANNELS = 16
SLOW_CHANNELS = range(13, 16)


def prepare_rule(model: Automaton) -> tuple[Callable[..., Rule], tuple[Tensor, ...]]:
    """Return a constructor of the rule and its weights, through which autograd reaches the model's."""
    if model.bias is None:
        return _LinearRule, (fold_kernel(model),)
    kernels, w0 = _reduce_kernels(model)
    return functools.partial(_ReluRule, kernels), (w0, model.bias, model.w1)


def fold_kernel(model: Automaton) -> Float[Tensor, "channel channel 3 3"]:
    """Return a linear rule's perception and convolutions folded into one kernel; w0 and w1 get gradients."""
    weight = (model.w1 @ model.w0).view(model.channels, model.channels, -1)
    return torch.einsum("ocf,fyx->ocyx", weight, model.kernels)


def _reduce_kernels(model: Automaton) -> tuple[Tensor, Tensor]:
    """Return at most 9 perception kernels, the identity first, and w0 with its inputs kernel-major."""
    kernels, w0 = model.kernels, model.w0.view(-1, model.channels, len(model.kernels))
    if len(kernels) > TAPS:
        taps = torch.eye(TAPS, dtype=kernels.dtype, device=kernels.device).roll(-(TAPS // 2), dims=0)
        w0 = w0 @ kernels.flatten(1) @ taps.T
        kernels = taps.view(TAPS, 3, 3)
    return kernels, w0.transpose(1, 2).flatten(1)


class Rule(ABC):
    """An update rule with fixed weights; it sums their gradients over all calls of `backward`."""

    def __init__(self) -> None:
        self._buffer: PaddedGrid | None = None

    @abstractmethod
    def forward(self, state: PaddedGrid, mask: Mask, out: PaddedGrid) -> None:
        """Compute one CA step from a wrapped state to the interior of `out`; its margin becomes undefined."""

    @abstractmethod
    def backward(
        self, state: PaddedGrid, mask: Mask, grad: Float[Tensor, "batch height width channel"]
    ) -> None:
        """Turn the gradient with respect to `state + mask * delta` into that of `state`, in place.

        `grad` is contiguous.
        """

    @abstractmethod
    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the weights' gradients, in the order of the constructor's arguments."""

    def _scatter(self, values: Tensor, active: ActiveCells | None, like: PaddedGrid) -> PaddedGrid:
        """Return a wrapped grid of the given values, valid until the next call.

        Args:
            values: One row per active cell with the unused rows 0, or a value for every cell.
            active: The active cells; None for all cells.
            like: A grid of the result's shape.
        """
        self._buffer = self._buffer or like.empty_like()
        if active is None:
            self._buffer.interior.copy_(values.view(like.interior.shape))
            self._buffer.wrap()
        else:
            torch.index_select(values, 0, active.row_of_cell, out=self._buffer.cells)
        return self._buffer


class _LinearRule(Rule):
    """A rule without ReLU: one 3x3 convolution."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self._kernel = _channels_last(kernel)
        # The state's gradient is a convolution with the kernel mirrored, inputs and outputs exchanged.
        self._mirrored = _channels_last(kernel.transpose(0, 1).flip(2, 3))
        n_added = FAST_CHANNELS - len(kernel) if len(kernel) in SLOW_CHANNELS else 0
        self._widened = _channels_last(F.pad(kernel, (0, 0, 0, 0, 0, n_added)))
        self._kernel_grad = torch.zeros_like(self._widened)
        self._wide_state: Tensor | None = None

    def forward(self, state: PaddedGrid, mask: Mask, out: PaddedGrid) -> None:
        delta = F.conv2d(state.image, self._kernel).permute(0, 2, 3, 1)
        _apply_update(state, mask, delta, out)

    def backward(self, state: PaddedGrid, mask: Mask, grad: Tensor) -> None:
        grad_delta = grad * mask.to(grad.dtype)
        image = self._widen(state)
        self._kernel_grad += _weight_grads(grad_delta.permute(0, 3, 1, 2), image, self._widened)[0]
        grad_image = self._scatter(grad_delta, None, state).image
        grad += F.conv2d(grad_image, self._mirrored).permute(0, 2, 3, 1)

    def weight_grads(self) -> tuple[Tensor, ...]:
        return (self._kernel_grad[:, : len(self._kernel)],)

    def _widen(self, state: PaddedGrid) -> Tensor:
        """Return the state's image with zero channels added, as many as the widened kernel takes."""
        n_channels = self._widened.shape[1]
        if n_channels == len(self._kernel):
            return state.image
        if self._wide_state is None:
            self._wide_state = state.padded.new_zeros(*state.padded.shape[:3], n_channels)
        self._wide_state[..., : len(self._kernel)] = state.padded
        return self._wide_state.permute(0, 3, 1, 2)


class _ReluRule(Rule):
    """A rule with ReLU: depthwise perception, a 1x1 convolution, ReLU, a 1x1 convolution."""

    def __init__(self, kernels: Tensor, w0: Tensor, bias: Tensor, w1: Tensor) -> None:
        super().__init__()
        self._n_channels = len(w1)
        depthwise = [kernel.expand(self._n_channels, 1, 3, 3) for kernel in kernels[1:]]
        self._depthwise = [_channels_last(kernel) for kernel in depthwise]
        self._mirrored = [_channels_last(kernel.flip(2, 3)) for kernel in depthwise]
        self._w0, self._w1, self._bias = w0[:, :, None, None], w1[:, :, None, None], bias
        self._grads = torch.zeros_like(self._w0), torch.zeros_like(bias), torch.zeros_like(self._w1)
        self._cell_index: CellIndex | None = None

    def forward(self, state: PaddedGrid, mask: Mask, out: PaddedGrid) -> None:
        active = self._find_active(state, mask)
        # One expression: perception and hidden features are freed before the next tensors are allocated.
        delta = _as_rows(F.conv2d(self._compute_hidden(state, active)[1], self._w1))
        if active is None:
            _apply_update(state, mask, delta.view(state.interior.shape), out)
        else:
            change = self._scatter(active.clear_unused(delta), active, state)
            torch.add(state.padded, change.padded, out=out.padded).clamp_(0.0, 1.0)

    def backward(self, state: PaddedGrid, mask: Mask, grad: Tensor) -> None:
        active = self._find_active(state, mask)
        if active is None:
            grad_delta = _as_image((grad * mask.to(grad.dtype)).flatten(0, 2))
        else:
            grad_delta = _as_image(active.clear_unused(grad.flatten(0, 2).index_select(0, active.index)))
        perception, hidden = self._compute_hidden(state, active)
        grad_w0, grad_bias, grad_w1 = self._grads
        grad_w1 += _weight_grads(grad_delta, hidden, self._w1)[0]
        grad_hidden = F.conv2d(grad_delta, self._w1.transpose(0, 1))
        torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
        part_w0, part_bias = _weight_grads(grad_hidden, perception, self._w0)
        grad_w0 += part_w0
        grad_bias += part_bias
        grad_perception = _as_rows(F.conv2d(grad_hidden, self._w0.transpose(0, 1)))
        grad_identity, *grad_others = grad_perception.split(self._n_channels, dim=1)
        grad += self._scatter(grad_identity, active, state).interior
        for grad_response, kernel in zip(grad_others, self._mirrored, strict=True):
            grad_image = self._scatter(grad_response, active, state).image
            grad += F.conv2d(grad_image, kernel, groups=self._n_channels).permute(0, 2, 3, 1)

    def weight_grads(self) -> tuple[Tensor, ...]:
        grad_w0, grad_bias, grad_w1 = self._grads
        return grad_w0[:, :, 0, 0], grad_bias, grad_w1[:, :, 0, 0]

    def _compute_hidden(self, state: PaddedGrid, active: ActiveCells | None) -> tuple[Tensor, Tensor]:
        """Return perception, kernel-major, and hidden features of the active cells, or of all, as images."""
        n_rows = state.interior.shape[:3].numel() if active is None else len(active.index)
        perception = state.padded.new_empty(n_rows, self._n_channels * (1 + len(self._depthwise)))
        identity, *others = perception.split(self._n_channels, dim=1)
        if active is None:
            identity.view(state.interior.shape).copy_(state.interior)
        else:
            torch.index_select(state.cells, 0, active.padded_index, out=identity)
        for part, kernel in zip(others, self._depthwise, strict=True):
            response = _as_rows(F.conv2d(state.image, kernel, groups=self._n_channels))
            if active is None:
                part.copy_(response)
            else:
                torch.index_select(response, 0, active.index, out=part)
        image = _as_image(perception)
        return image, F.conv2d(image, self._w0, self._bias).relu_()

    def _find_active(self, state: PaddedGrid, mask: Mask) -> ActiveCells | None:
        """Return the active cells; None, to compute all cells, with one mask value per channel or on a GPU.

        On a GPU, finding active cells would be a host sync.
        """
        if mask.device.type != "cpu" or mask.shape[-1] > 1:
            return None
        self._cell_index = self._cell_index or CellIndex(state)
        return self._cell_index.find_active(mask)


def _apply_update(state: PaddedGrid, mask: Mask, delta: Tensor, out: PaddedGrid) -> None:
    """Write `clamp(state + mask * delta, 0, 1)` to the interior of `out`."""
    torch.addcmul(state.interior, mask.to(delta.dtype), delta, out=out.interior)
    out.interior.clamp_(0.0, 1.0)


def _as_image(rows: Rows) -> Float[Tensor, "batch channel 1 width"]:
    """View rows as a batch of images of height 1.

    Matrix products are computed as 1x1 convolutions over them: on a CPU the fastest of the equivalent calls,
    and the only one that PyTorch passes to oneDNN even with a single thread.
    """
    return rows.view(math.gcd(len(rows), ROW_BLOCKS), 1, -1, rows.shape[1]).permute(0, 3, 1, 2)


def _as_rows(image: Float[Tensor, "batch channel height width"]) -> Rows:
    """View a channels-last image as rows."""
    return image.permute(0, 2, 3, 1).flatten(0, 2)


def _weight_grads(grad_output: Tensor, image: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a convolution's kernel and bias."""
    options = ([len(kernel)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True])
    _, grad_kernel, grad_bias = torch.ops.aten.convolution_backward(grad_output, image, kernel, *options)
    return grad_kernel, grad_bias


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
