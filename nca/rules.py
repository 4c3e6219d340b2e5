"""Update rules by hand on grids that lie channels-last: a CA step, and the gradients through it.

Without a ReLU a CA step is linear between clamps: perception and both convolutions fold to one 3x3
convolution `channels -> channels`. With a ReLU the perception stays apart, a depthwise convolution for each
kernel: folded into the first convolution it takes 9 products where `filters` do. With one coin per cell, all
that follows it is done on the CPU for the cells that take the update alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.model import Automaton

__all__ = ["Rule", "Torus", "fold_kernel", "prepare_rule"]

TAPS = 9  # cells of a 3x3 neighborhood
# oneDNN keeps its kernels by shape: cells that take an update are filled up to whole blocks.
CELLS_BLOCK = 512
ROW_BLOCKS = 16  # rows of a matrix are taken as a batch of so many images, where they divide
# oneDNN's kernel gradient is slower by a third with 13 to 15 input channels than with 16.
FAST_CHANNELS = 16
SLOW_CHANNELS = range(13, 16)


def prepare_rule(model: Automaton) -> tuple[Callable[..., Rule], tuple[Tensor, ...]]:
    """Return what makes the rule of weights, and those weights; gradients flow on to the model's own."""
    if model.bias is None:
        return LinearRule, (fold_kernel(model),)
    kernels, w0 = _few_kernels(model)
    return functools.partial(ReluRule, kernels), (w0, model.bias, model.w1)


def fold_kernel(model: Automaton) -> Float[Tensor, "channel channel 3 3"]:
    """Return a linear rule's perception and convolutions as one kernel; gradients flow to w0 and w1."""
    weight = (model.w1 @ model.w0).view(model.channels, model.channels, -1)
    return torch.einsum("ocf,fyx->ocyx", weight, model.kernels)


def _few_kernels(model: Automaton) -> tuple[Tensor, Tensor]:
    """Return perception kernels, at most 9 and the identity first, and w0 with its inputs kernel-major."""
    kernels, w0 = model.kernels, model.w0.view(-1, model.channels, len(model.kernels))
    if len(kernels) > TAPS:
        taps = torch.eye(TAPS, dtype=kernels.dtype, device=kernels.device).roll(-(TAPS // 2), dims=0)
        w0 = w0 @ kernels.flatten(1) @ taps.T
        kernels = taps.view(TAPS, 3, 3)
    return kernels, w0.transpose(1, 2).flatten(1)


class Torus:
    """A grid of values with a margin of one cell, channels-last, and the views of it that are needed.

    Args:
        padded: (batch, height + 2, width + 2, channel).
    """

    def __init__(self, padded: Tensor) -> None:
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
        """Copy each edge of the interior to the margin on the other side."""
        for margin, edge in self._edges:
            margin.copy_(edge)


@runtime_checkable  # tests check annotations
class Rule(Protocol):
    """An update rule and the gradients by its weights so far."""

    def advance(self, state: Torus, coins: Tensor, following: Torus) -> None:
        """Write the state after a CA step to the interior of `following`.

        Args:
            state: Before it, its margin wrapped.
            coins: 1 where a cell takes the update, (batch, height, width, coin).
            following: Overwritten.
        """

    def pull_back(self, state: Torus, coins: Tensor, gradient: Torus) -> None:
        """Turn the gradient by what the clamp let through into that by the state; add those by weights.

        Args:
            state: As in `advance`.
            coins: As in `advance`.
            gradient: Changed in its interior; its margin is 0 and stays so.
        """

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients by the weights."""


class LinearRule:
    """One 3x3 convolution."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = _channels_last(kernel)
        # Gradients are convolved with the kernel mirrored, inputs and outputs exchanged.
        self._mirrored = _channels_last(kernel.transpose(0, 1).flip(2, 3))
        n_channels = kernel.shape[1]
        self._n_added = FAST_CHANNELS - n_channels if n_channels in SLOW_CHANNELS else 0
        self._widened = _channels_last(F.pad(kernel, (0, 0, 0, 0, 0, self._n_added)))
        self._gradient = torch.zeros_like(self._widened)
        self._spread: Torus | None = None

    def advance(self, state: Torus, coins: Tensor, following: Torus) -> None:
        delta = F.conv2d(state.image, self._kernel).permute(0, 2, 3, 1)
        _update(state, coins, delta, following)

    def pull_back(self, state: Torus, coins: Tensor, gradient: Torus) -> None:
        by_delta = gradient.interior * coins.to(gradient.padded.dtype)
        images = F.pad(state.padded, (0, self._n_added)) if self._n_added else state.padded
        self._gradient += _kernel_gradient(
            by_delta.permute(0, 3, 1, 2), images.permute(0, 3, 1, 2), self._widened
        )
        if self._spread is None:
            self._spread = Torus(torch.empty_like(gradient.padded))
        self._spread.interior.copy_(by_delta)
        self._spread.wrap()
        gradient.interior.add_(F.conv2d(self._spread.image, self._mirrored).permute(0, 2, 3, 1))

    def gradients(self) -> tuple[Tensor, ...]:
        return (self._gradient[:, : self._kernel.shape[1]],)


@dataclass(frozen=True)
class _Cells:
    """The numbers of some cells that take an update, filled up with cells that stay without effect.

    Args:
        inner: Counted without the margin; filled up with the first cell.
        outer: Counted with the margin; filled up with its first cell, whose gradient is 0.
    """

    inner: Tensor
    outer: Tensor


class ReluRule:
    """Depthwise perception, a 1x1 convolution, ReLU, a 1x1 convolution."""

    def __init__(self, kernels: Tensor, w0: Tensor, bias: Tensor, w1: Tensor) -> None:
        self._n_channels = len(w1)
        depthwise = [kernel.expand(self._n_channels, 1, 3, 3) for kernel in kernels[1:]]
        self._depthwise = [_channels_last(kernel) for kernel in depthwise]
        self._mirrored = [_channels_last(kernel.flip(2, 3)) for kernel in depthwise]
        self._weights = w0, bias, w1
        self._gradients = torch.zeros_like(w0), torch.zeros_like(bias), torch.zeros_like(w1)
        self._numbers: Tensor | None = None
        self._by_response: Torus | None = None

    def advance(self, state: Torus, coins: Tensor, following: Torus) -> None:
        cells = self._updated(state, coins)
        perception = self._perceive(state, cells)
        delta = _conv1x1(self._hide(perception), self._weights[2])
        if cells is None:
            _update(state, coins, delta.view(state.interior.shape), following)
        else:
            following.padded.copy_(state.padded)
            delta.add_(perception[:, : self._n_channels]).clamp_(0.0, 1.0)
            following.cells.index_copy_(0, cells.outer, delta)

    def pull_back(self, state: Torus, coins: Tensor, gradient: Torus) -> None:
        w0, _, w1 = self._weights
        w0_gradient, bias_gradient, w1_gradient = self._gradients
        cells = self._updated(state, coins)
        if cells is None:
            by_delta = (gradient.interior * coins.to(gradient.padded.dtype)).flatten(0, 2)
        else:
            by_delta = gradient.cells.index_select(0, cells.outer)
        perception = self._perceive(state, cells)
        hidden = self._hide(perception)
        w1_gradient += _weight_gradient(by_delta, hidden, w1)
        by_hidden = _conv1x1(by_delta, w1.T)
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)
        bias_gradient += by_hidden.sum(dim=0)
        w0_gradient += _weight_gradient(by_hidden, perception, w0)
        own, *others = _conv1x1(by_hidden, w0.T).split(self._n_channels, dim=1)
        if cells is None:
            gradient.interior.add_(own.view(gradient.interior.shape))
        else:
            gradient.cells.index_copy_(0, cells.outer, by_delta.add_(own))
        self._spread(others, cells, gradient)

    def gradients(self) -> tuple[Tensor, ...]:
        return self._gradients

    def _perceive(self, state: Torus, cells: _Cells | None) -> Tensor:
        """Return the perception of the cells, kernel-major, (cell, kernel * channel)."""
        n_cells = state.interior.shape[:3].numel() if cells is None else len(cells.inner)
        perception = state.padded.new_empty(n_cells, self._n_channels * (1 + len(self._depthwise)))
        own, *others = perception.split(self._n_channels, dim=1)
        if cells is None:
            own.view(state.interior.shape).copy_(state.interior)
        else:
            torch.index_select(state.cells, 0, cells.outer, out=own)
        for part, kernel in zip(others, self._depthwise, strict=True):
            image = F.conv2d(state.image, kernel, groups=self._n_channels)
            response = image.permute(0, 2, 3, 1).flatten(0, 2)
            if cells is None:
                part.copy_(response)
            else:
                torch.index_select(response, 0, cells.inner, out=part)
        return perception

    def _hide(self, perception: Tensor) -> Tensor:
        """Return the rectified hidden features, (cell, hidden)."""
        w0, bias, _ = self._weights
        return _conv1x1(perception, w0, bias).relu_()

    def _spread(self, by_responses: Sequence[Tensor], cells: _Cells | None, gradient: Torus) -> None:
        """Add the gradient by the responses to each kernel but the first, as one by the state."""
        if self._by_response is None:
            self._by_response = Torus(torch.zeros_like(gradient.padded))
        spread = self._by_response
        if cells is not None:
            spread.padded.zero_()  # the same cells are written for every kernel
        for part, kernel in zip(by_responses, self._mirrored, strict=True):
            if cells is None:
                spread.interior.copy_(part.view(spread.interior.shape))
            else:
                spread.cells.index_copy_(0, cells.outer, part)
            spread.wrap()
            by_state = F.conv2d(spread.image, kernel, groups=self._n_channels)
            gradient.interior.add_(by_state.permute(0, 2, 3, 1))

    def _updated(self, state: Torus, coins: Tensor) -> _Cells | None:
        """Return the cells that take the update; None for all, whose coins are still to be applied.

        To find them on another device than the CPU is a host sync, so there all are taken.
        """
        if coins.device.type != "cpu" or coins.shape[-1] > 1:
            return None
        if self._numbers is None:
            numbers = torch.arange(len(state.cells)).view(state.padded.shape[:3])
            self._numbers = numbers[:, 1:-1, 1:-1].flatten()
        inner = coins.flatten().nonzero()[:, 0]
        n_added = -len(inner) % CELLS_BLOCK
        outer = self._numbers.index_select(0, inner)
        return _Cells(F.pad(inner, (0, n_added)), F.pad(outer, (0, n_added)))


def _update(state: Torus, coins: Tensor, delta: Tensor, following: Torus) -> None:
    """Write the state changed where a coin is 1."""
    torch.addcmul(state.interior, coins.to(delta.dtype), delta, out=following.interior)
    following.interior.clamp_(0.0, 1.0)


def _conv1x1(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows @ weight.T + bias.

    Taken as a convolution over a batch of images of height 1: the fastest of the equal ways on a CPU, and one
    that PyTorch gives to oneDNN with a single thread too.
    """
    outputs = F.conv2d(_as_images(rows), weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).reshape(len(rows), len(weight))


def _weight_gradient(by_outputs: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of `_conv1x1` by its weight."""
    gradient = _kernel_gradient(_as_images(by_outputs), _as_images(rows), weight[:, :, None, None])
    return gradient[:, :, 0, 0]


def _as_images(rows: Tensor) -> Tensor:
    """View rows as a batch of images of height 1, (batch, channel, 1, width)."""
    return rows.view(math.gcd(len(rows), ROW_BLOCKS), 1, -1, rows.shape[1]).permute(0, 3, 1, 2)


def _kernel_gradient(by_outputs: Tensor, images: Tensor, kernel: Tensor) -> Tensor:
    """Return the gradient of a convolution by its kernel."""
    options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    gradient: Tensor = torch.ops.aten.convolution_backward(by_outputs, images, kernel, *options)[1]
    return gradient


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
