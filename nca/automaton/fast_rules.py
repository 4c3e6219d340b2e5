"""Update rules by hand on grids that lie channels-last: a CA step, and the gradients through it.

Without a ReLU a CA step is linear between clamps: perception and both convolutions fold to one 3x3
convolution `channels -> channels`. With a ReLU the perception stays apart, a depthwise convolution for each
kernel: folded into the first convolution it takes 9 products where `filters` do. With one coin per cell, all
that follows it is done on the CPU for the cells that take the update alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.padded_grid import Cells, Numbering, Torus

__all__ = ["Rule", "fold_kernel", "prepare_rule"]

TAPS = 9  # cells of a 3x3 neighborhood
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

    def pull_back(self, state: Torus, coins: Tensor, gradient: Tensor) -> None:
        """Turn the gradient by what the clamp let through into that by the state; add those by weights.

        Args:
            state: As in `advance`.
            coins: As in `advance`.
            gradient: (batch, height, width, channel), contiguous; changed in place.
        """

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients by the weights."""


class LinearRule:
    """One 3x3 convolution."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = _channels_last(kernel)
        # Gradients are convolved with the kernel mirrored, inputs and outputs exchanged.
        self._mirrored = _channels_last(kernel.transpose(0, 1).flip(2, 3))
        n_added = FAST_CHANNELS - len(kernel) if len(kernel) in SLOW_CHANNELS else 0
        self._widened = _channels_last(F.pad(kernel, (0, 0, 0, 0, 0, n_added)))
        self._gradient = torch.zeros_like(self._widened)
        self._images: Tensor | None = None
        self._spread: Torus | None = None

    def advance(self, state: Torus, coins: Tensor, following: Torus) -> None:
        delta = F.conv2d(state.image, self._kernel).permute(0, 2, 3, 1)
        _update(state, coins, delta, following)

    def pull_back(self, state: Torus, coins: Tensor, gradient: Tensor) -> None:
        by_delta = gradient * coins.to(gradient.dtype)
        by_outputs = by_delta.permute(0, 3, 1, 2)
        self._gradient += _weight_gradients(by_outputs, self._widen(state), self._widened)[0]
        if self._spread is None:
            self._spread = Torus(torch.empty_like(state.padded))
        self._spread.interior.copy_(by_delta)
        self._spread.wrap()
        gradient += F.conv2d(self._spread.image, self._mirrored).permute(0, 2, 3, 1)

    def gradients(self) -> tuple[Tensor, ...]:
        return (self._gradient[:, : len(self._kernel)],)

    def _widen(self, state: Torus) -> Tensor:
        """Return the state as images with as many channels as the widened kernel takes, those added 0."""
        n_channels = self._widened.shape[1]
        if n_channels == len(self._kernel):
            return state.image
        if self._images is None:
            self._images = state.padded.new_zeros(*state.padded.shape[:3], n_channels)
        self._images[..., : len(self._kernel)] = state.padded
        return self._images.permute(0, 3, 1, 2)


class ReluRule:
    """Depthwise perception, a 1x1 convolution, ReLU, a 1x1 convolution."""

    def __init__(self, kernels: Tensor, w0: Tensor, bias: Tensor, w1: Tensor) -> None:
        self._n_channels = len(w1)
        depthwise = [kernel.expand(self._n_channels, 1, 3, 3) for kernel in kernels[1:]]
        self._depthwise = [_channels_last(kernel) for kernel in depthwise]
        self._mirrored = [_channels_last(kernel.flip(2, 3)) for kernel in depthwise]
        self._w0, self._w1, self._bias = w0[:, :, None, None], w1[:, :, None, None], bias
        self._w0_back, self._w1_back = self._w0.transpose(0, 1), self._w1.transpose(0, 1)
        self._gradients = torch.zeros_like(self._w0), torch.zeros_like(bias), torch.zeros_like(self._w1)
        self._numbering: Numbering | None = None
        self._spread: Torus | None = None

    def advance(self, state: Torus, coins: Tensor, following: Torus) -> None:
        cells = self._updated(state, coins)
        delta = _as_rows(F.conv2d(self._hide(self._perceive(state, cells)), self._w1))
        if cells is None:
            _update(state, coins, delta.view(state.interior.shape), following)
        else:
            change = self._lay_out(cells.clear(delta), cells, state)
            torch.add(state.padded, change.padded, out=following.padded).clamp_(0.0, 1.0)

    def pull_back(self, state: Torus, coins: Tensor, gradient: Tensor) -> None:
        w0_gradient, bias_gradient, w1_gradient = self._gradients
        cells = self._updated(state, coins)
        if cells is None:
            by_delta = _as_images((gradient * coins.to(gradient.dtype)).flatten(0, 2))
        else:
            taken = gradient.flatten(0, 2).index_select(0, cells.inner)
            by_delta = _as_images(cells.clear(taken))
        perception = self._perceive(state, cells)
        hidden = self._hide(perception)
        w1_gradient += _weight_gradients(by_delta, hidden, self._w1)[0]
        by_hidden = F.conv2d(by_delta, self._w1_back)
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)
        by_w0, by_bias = _weight_gradients(by_hidden, perception, self._w0)
        w0_gradient += by_w0
        bias_gradient += by_bias
        by_perception = _as_rows(F.conv2d(by_hidden, self._w0_back))
        own, *others = by_perception.split(self._n_channels, dim=1)
        gradient += self._lay_out(own, cells, state).interior
        for by_response, kernel in zip(others, self._mirrored, strict=True):
            image = self._lay_out(by_response, cells, state).image
            gradient += F.conv2d(image, kernel, groups=self._n_channels).permute(0, 2, 3, 1)

    def gradients(self) -> tuple[Tensor, ...]:
        by_w0, by_bias, by_w1 = self._gradients
        return by_w0[:, :, 0, 0], by_bias, by_w1[:, :, 0, 0]

    def _perceive(self, state: Torus, cells: Cells | None) -> Tensor:
        """Return the perception of the cells, kernel-major, (cell, kernel * channel), as images."""
        n_cells = state.interior.shape[:3].numel() if cells is None else len(cells.inner)
        perception = state.padded.new_empty(n_cells, self._n_channels * (1 + len(self._depthwise)))
        own, *others = perception.split(self._n_channels, dim=1)
        if cells is None:
            own.view(state.interior.shape).copy_(state.interior)
        else:
            torch.index_select(state.cells, 0, cells.outer, out=own)
        for part, kernel in zip(others, self._depthwise, strict=True):
            response = _as_rows(F.conv2d(state.image, kernel, groups=self._n_channels))
            if cells is None:
                part.copy_(response)
            else:
                torch.index_select(response, 0, cells.inner, out=part)
        return _as_images(perception)

    def _hide(self, perception: Tensor) -> Tensor:
        """Return the rectified hidden features, as images."""
        return F.conv2d(perception, self._w0, self._bias).relu_()

    def _lay_out(self, rows: Tensor, cells: Cells | None, state: Torus) -> Torus:
        """Return the rows on a grid like the state's, wrapped; the next call overwrites it."""
        if self._spread is None:
            self._spread = Torus(torch.empty_like(state.padded))
        if cells is None:
            self._spread.interior.copy_(rows.view(state.interior.shape))
            self._spread.wrap()
        else:
            torch.index_select(rows, 0, cells.rows, out=self._spread.cells)
        return self._spread

    def _updated(self, state: Torus, coins: Tensor) -> Cells | None:
        """Return the cells that take the update; None for all, whose coins are still to be applied.

        To find them on another device than the CPU is a host sync, so there all are taken.
        """
        if coins.device.type != "cpu" or coins.shape[-1] > 1:
            return None
        if self._numbering is None:
            self._numbering = Numbering(state)
        return self._numbering.find(coins)


def _update(state: Torus, coins: Tensor, delta: Tensor, following: Torus) -> None:
    """Write the state changed where a coin is 1."""
    torch.addcmul(state.interior, coins.to(delta.dtype), delta, out=following.interior)
    following.interior.clamp_(0.0, 1.0)


def _as_images(rows: Tensor) -> Tensor:
    """View rows as a batch of images of height 1, (batch, channel, 1, width).

    A matrix product as a 1x1 convolution over them is the fastest of the equal ways on a CPU, and one that
    PyTorch gives to oneDNN with a single thread too.
    """
    return rows.view(math.gcd(len(rows), ROW_BLOCKS), 1, -1, rows.shape[1]).permute(0, 3, 1, 2)


def _as_rows(images: Tensor) -> Tensor:
    """Return (batch, channel, height, width) as (cell, channel)."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _weight_gradients(by_outputs: Tensor, images: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a convolution by its kernel and by its bias."""
    options = ([len(kernel)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, True])
    _, by_kernel, by_bias = torch.ops.aten.convolution_backward(by_outputs, images, kernel, *options)
    return by_kernel, by_bias


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
