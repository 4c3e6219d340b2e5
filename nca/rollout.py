"""The same rollout as `model.plain_rollout`, exact and faster: forward and backward written by hand.

Without a ReLU a CA step is linear between clamps: perception and both convolutions fold to one 3x3
convolution `channels -> channels`. With a ReLU the perception stays apart, as a depthwise convolution: folded
into the first convolution it takes 9 products where `filters` do.

Everything lies channels-last. States have a margin of one cell that wraps around, so that a convolution
reads them where they are. Of a CA step only the state and its coins, as bytes, stay for the backward
pass: whether the clamp let a value through shows in the next state, and hidden features are computed again.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.model import Automaton, State

__all__ = ["Rollout", "fold_kernel"]

TAPS = 9  # cells of a 3x3 neighborhood


def fold_kernel(model: Automaton) -> Float[Tensor, "channel channel 3 3"]:
    """Return a linear rule's perception and convolutions as one kernel; gradients flow to w0 and w1."""
    weight = (model.w1 @ model.w0).view(model.channels, model.channels, -1)
    return torch.einsum("ocf,fyx->ocyx", weight, model.kernels)


@dataclass(frozen=True)
class _Tape:
    """What the backward pass needs of every CA step.

    Args:
        states: One more than steps, (step, batch, height + 2, width + 2, channel).
        coins: 1 where a cell took the update, (step, batch, height, width, coin).
    """

    states: Tensor
    coins: Tensor


class Rollout:
    """A rollout that keeps its buffers from one call to the next.

    Called like `plain_rollout` and equal to it but for the order of summation. Buffers come back when the
    autograd graph is freed; until then another call allocates its own.
    """

    def __init__(self) -> None:
        self._spare: _Tape | None = None

    def __call__(
        self, model: Automaton, state: State, ca_steps: int, generator: torch.Generator | None
    ) -> State:
        """Return the state after `ca_steps` CA steps; masks are drawn as `plain_rollout` draws them.

        Args:
            model: The automaton.
            state: Cell states in [0, 1].
            ca_steps: 0 or more.
            generator: The stream `masks`.
        """
        kernels = None
        if model.bias is None:
            weights: tuple[Tensor, ...] = (fold_kernel(model),)
        else:
            kernels, w0 = _few_kernels(model)
            weights = (w0, model.bias, model.w1)
        course = _Course(self, model, ca_steps, generator, kernels)
        final: Tensor = _Rollout.apply(course, state, *weights)
        return final

    def take(self, state: State, n_steps: int, n_coins: int) -> _Tape:
        """Return a tape of at least `n_steps`, the spare one if it fits."""
        batch, channels, height, width = state.shape
        spare, self._spare = self._spare, None
        shape = (batch, height + 2, width + 2, channels)
        if (
            spare is not None
            and spare.states.shape[1:] == shape
            and (spare.states.dtype, spare.states.device) == (state.dtype, state.device)
            and spare.coins.shape[-1] == n_coins
            and len(spare.coins) >= n_steps
        ):
            return spare
        coins = state.new_empty(n_steps, batch, height, width, n_coins, dtype=torch.int8)
        return _Tape(state.new_empty(n_steps + 1, *shape), coins)

    def give_back(self, tape: _Tape) -> None:
        """Keep a tape for the next call."""
        self._spare = tape


def _few_kernels(model: Automaton) -> tuple[Tensor, Tensor]:
    """Return perception kernels, at most 9, and w0 for them with its inputs filter-major."""
    kernels, w0 = model.kernels, model.w0.view(-1, model.channels, len(model.kernels))
    if len(kernels) > TAPS:
        w0 = w0 @ kernels.flatten(1)
        kernels = torch.eye(TAPS, dtype=kernels.dtype, device=kernels.device).view(TAPS, 3, 3)
    return kernels, w0.transpose(1, 2).flatten(1)


@runtime_checkable  # tests check annotations
class _Rule(Protocol):
    """An update rule on channels-last states, (batch, height, width, channel)."""

    def delta(self, padded: Tensor) -> Tensor:
        """Return the change of a state that has its margin."""

    def pull_back(self, padded: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient by the state; add those by the weights to what they are so far.

        Args:
            padded: The state with its margin.
            gradient: By the change.
        """

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients by the weights."""


class _LinearRule:
    """One 3x3 convolution."""

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = _channels_last(kernel)
        # Gradients are convolved with the kernel mirrored, inputs and outputs exchanged; its own gradient
        # is summed up in that form.
        self._mirrored = _channels_last(kernel.transpose(0, 1).flip(2, 3))
        self._gradient = torch.zeros_like(self._mirrored)

    def delta(self, padded: Tensor) -> Tensor:
        return _conv(padded, self._kernel)

    def pull_back(self, padded: Tensor, gradient: Tensor) -> Tensor:
        gradient = _pad(gradient)
        state = _interior(padded).contiguous()
        images = state.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
        self._gradient += _kernel_gradient(*images, self._mirrored)
        return _conv(gradient, self._mirrored)

    def gradients(self) -> tuple[Tensor, ...]:
        return (self._gradient.flip(2, 3).transpose(0, 1),)


class _ReluRule:
    """Depthwise perception, a 1x1 convolution, ReLU, a 1x1 convolution."""

    def __init__(self, kernels: Tensor, w0: Tensor, bias: Tensor, w1: Tensor) -> None:
        self._n_kernels = len(kernels)
        depthwise = kernels.repeat_interleave(len(w1), dim=0)[:, None]  # filter-major
        self._depthwise = _channels_last(depthwise)
        self._mirrored = _channels_last(depthwise.flip(2, 3))
        self._weights = w0, bias, w1
        self._gradients = torch.zeros_like(w0), torch.zeros_like(bias), torch.zeros_like(w1)

    def _hide(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the perception and the rectified hidden features."""
        w0, bias, _ = self._weights
        perception = _conv(padded.repeat(1, 1, 1, self._n_kernels), self._depthwise, len(self._depthwise))
        return perception, _conv1x1(perception, w0, bias).relu_()

    def delta(self, padded: Tensor) -> Tensor:
        return _conv1x1(self._hide(padded)[1], self._weights[2])

    def pull_back(self, padded: Tensor, gradient: Tensor) -> Tensor:
        w0, _, w1 = self._weights
        w0_gradient, bias_gradient, w1_gradient = self._gradients
        perception, hidden = self._hide(padded)
        w1_gradient += _weight_gradient(gradient, hidden, w1)
        by_hidden = _conv1x1(gradient, w1.T)
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)
        bias_gradient += by_hidden.flatten(0, 2).sum(dim=0)
        w0_gradient += _weight_gradient(by_hidden, perception, w0)
        by_repeated = _conv(_pad(_conv1x1(by_hidden, w0.T)), self._mirrored, len(self._mirrored))
        first, *others = by_repeated.chunk(self._n_kernels, dim=-1)
        by_state = first.contiguous()
        for other in others:
            by_state += other
        return by_state

    def gradients(self) -> tuple[Tensor, ...]:
        return self._gradients


@dataclass(frozen=True)
class _Course:
    """What a rollout needs beside tensors with gradients; `kernels` are the ReLU rule's."""

    owner: Rollout
    model: Automaton
    ca_steps: int
    generator: torch.Generator | None
    kernels: Tensor | None

    def make_rule(self, *weights: Tensor) -> _Rule:
        return _LinearRule(*weights) if self.kernels is None else _ReluRule(self.kernels, *weights)


class _Rollout(torch.autograd.Function):
    """All CA steps of a rollout as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        course: _Course,
        state: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        rule = course.make_rule(*weights)
        model, ca_steps = course.model, course.ca_steps
        n_kept = ca_steps if any(ctx.needs_input_grad) else min(ca_steps, 1)
        tape = course.owner.take(state, n_kept, state.shape[1] if model.mask == "channel" else 1)
        state_now = _interior(tape.states[0]).copy_(state.permute(0, 2, 3, 1))
        for step in range(ca_steps):
            padded = tape.states[step % (n_kept + 1)]
            _wrap_margin(padded)
            delta = rule.delta(padded)
            mask = model.draw_mask(state, course.generator).permute(0, 2, 3, 1)
            coins = tape.coins[step % n_kept].copy_(mask).to(state.dtype)
            state_next = _interior(tape.states[(step + 1) % (n_kept + 1)])
            torch.addcmul(state_now, coins, delta, out=state_next)
            state_now = state_next.clamp_(0.0, 1.0)
        ctx.save_for_backward(*weights)
        ctx.tape, ctx.course = tape, course
        weakref.finalize(ctx, course.owner.give_back, tape).atexit = False
        return _channels_last(state_now.permute(0, 3, 1, 2))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rule = ctx.course.make_rule(*ctx.saved_tensors)
        tape: _Tape = ctx.tape
        gradient = gradient.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        for step in reversed(range(ctx.course.ca_steps)):
            clamped = _interior(tape.states[step + 1])
            torch.ops.aten.hardtanh_backward.grad_input(gradient, clamped, 0, 1, grad_input=gradient)
            gradient += rule.pull_back(tape.states[step], gradient * tape.coins[step].to(gradient.dtype))
        return (None, gradient.permute(0, 3, 1, 2), *rule.gradients())


def _conv(inputs: Tensor, kernel: Tensor, groups: int = 1) -> Tensor:
    return F.conv2d(inputs.permute(0, 3, 1, 2), kernel, groups=groups).permute(0, 2, 3, 1)


def _conv1x1(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return weight @ each cell's channels + bias.

    Taken as a convolution over the rows as a batch: the fastest of the equal ways on a CPU, and one that
    PyTorch gives to oneDNN with a single thread too.
    """
    outputs = F.conv2d(_rows(inputs), weight[:, :, None, None], bias)
    return outputs.permute(0, 2, 3, 1).view(*inputs.shape[:3], len(weight))


def _weight_gradient(output_gradient: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of `_conv1x1` by its weight."""
    return _kernel_gradient(_rows(output_gradient), _rows(inputs), weight[:, :, None, None])[:, :, 0, 0]


def _rows(tensor: Tensor) -> Tensor:
    """View rows as a batch of images of height 1, (batch * height, channel, 1, width)."""
    return tensor.flatten(0, 1)[:, None].permute(0, 3, 1, 2)


def _kernel_gradient(output_gradient: Tensor, images: Tensor, kernel: Tensor) -> Tensor:
    """Return the gradient of a convolution by its kernel."""
    options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    gradient: Tensor = torch.ops.aten.convolution_backward(output_gradient, images, kernel, *options)[1]
    return gradient


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _interior(padded: Tensor) -> Tensor:
    return padded[:, 1:-1, 1:-1]


def _pad(tensor: Tensor) -> Tensor:
    """Return a copy with a margin of one cell that wraps around."""
    batch, height, width, channels = tensor.shape
    padded = tensor.new_empty(batch, height + 2, width + 2, channels)
    _interior(padded).copy_(tensor)
    _wrap_margin(padded)
    return padded


def _wrap_margin(padded: Tensor) -> None:
    """Copy each edge of the interior to the margin on the other side."""
    padded[:, 0, 1:-1] = padded[:, -2, 1:-1]
    padded[:, -1, 1:-1] = padded[:, 1, 1:-1]
    padded[:, :, 0] = padded[:, :, -2]
    padded[:, :, -1] = padded[:, :, 1]
