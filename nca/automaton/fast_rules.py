"""Update rules on grids of their own layout: one CA step forward, and its gradients, by hand.

The rule `srnca` is linear between clamps: perception and both convolutions fold into one 3x3 convolution. On
a CPU, all rules have compiled loops (`nca.automaton.cpu_rules`). On other devices, autograd computes the
gradients of `distill` and `munca`, of one CA step at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from nca.automaton.grids import Grid, PaddedGrid, PlanarGrid, Tape
from nca.automaton.model import Automaton, normalize_gradient
from nca.automaton.rules import Srnca

Mask = Int8[Tensor, "batch height width mask_channel"]  # 1 where a cell takes the update
Gradient = Float[Tensor, "batch height width channel"]


class Rule(ABC):
    """An update rule with fixed weights; it sums their gradients over all calls of `backward`.

    Attributes:
        grid: The layout of its states.
    """

    grid: type[Grid]

    @abstractmethod
    def roll(self, tape: Tape, n_steps: int, *, clamp: bool) -> None:
        """Compute `n_steps` CA steps from the first state on a tape, with the masks on it."""

    @abstractmethod
    def unroll(self, tape: Tape, n_steps: int, grad: Gradient, *, clamp: bool, normalize: bool) -> Gradient:
        """Return the gradient with respect to the first state on a tape.

        Args:
            tape: As `roll` left it.
            n_steps: As then.
            grad: With respect to the last state, in the layout of a grid's interior, without a margin; it
                may change.
            clamp: Whether states were clamped.
            normalize: Divide each sample's gradient by its norm, at every CA step.
        """

    @abstractmethod
    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the weights' gradients, in the order of the constructor's arguments."""


class SingleStepRule(Rule):
    """A rule that computes one CA step after the other."""

    def roll(self, tape: Tape, n_steps: int, *, clamp: bool) -> None:
        """Compute `n_steps` CA steps from the first state on a tape, with the masks on it."""
        for state, mask, out in zip(tape.states, tape.masks[:n_steps], tape.states[1:], strict=False):
            state.wrap()
            self.forward(state, mask, out, clamp=clamp)

    def unroll(self, tape: Tape, n_steps: int, grad: Gradient, *, clamp: bool, normalize: bool) -> Gradient:
        """Return the gradient with respect to the first state on a tape."""
        for step in reversed(range(n_steps)):
            if normalize:
                normalize_gradient(grad)
            clamped = tape.states[step + 1] if clamp else None
            grad = self.backward(tape.states[step], tape.masks[step], grad, clamped)
        return grad

    @abstractmethod
    def forward(self, state: Any, mask: Mask, out: Any, *, clamp: bool) -> None:
        """Compute one CA step, from a wrapped state to the interior of `out`."""

    @abstractmethod
    def backward(self, state: Any, mask: Mask, grad: Gradient, clamped: Any | None) -> Gradient:
        """Return the gradient with respect to `state` from that of the next state, which may change.

        Args:
            state: The state before the CA step, wrapped.
            mask: Its update mask.
            grad: Has the layout of a grid's interior, without a margin.
            clamped: The next state, if it was clamped.
        """


def clamp_if(out: Any, clamp: bool) -> None:
    """Clamp the interior of a grid to [0, 1] if `clamp`."""
    if clamp:
        out.interior.clamp_(0.0, 1.0)


def pass_clamp(grad: Gradient, clamped: Any | None) -> None:
    """Turn the gradient of a clamped state, if it is one, into that before the clamp, in place."""
    if clamped is not None:
        torch.ops.aten.hardtanh_backward.grad_input(grad, clamped.interior, 0, 1, grad_input=grad)


class LinearRule(SingleStepRule):
    """The rule `srnca`: one 3x3 convolution."""

    grid = PaddedGrid

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = _channels_last(kernel)
        # The state's gradient is a convolution with the kernel mirrored, inputs and outputs exchanged.
        self._mirrored = _channels_last(kernel.transpose(0, 1).flip(2, 3))
        self._kernel_grad = torch.zeros_like(self._kernel)
        self._buffer: PaddedGrid | None = None

    def forward(self, state: PaddedGrid, mask: Mask, out: PaddedGrid, *, clamp: bool) -> None:
        """Compute one CA step."""
        delta = F.conv2d(state.image, self._kernel).permute(0, 2, 3, 1)
        torch.addcmul(state.interior, mask.to(delta.dtype), delta, out=out.interior)
        clamp_if(out, clamp)

    def backward(self, state: PaddedGrid, mask: Mask, grad: Gradient, clamped: PaddedGrid | None) -> Gradient:
        """Return the gradient of `state`."""
        pass_clamp(grad, clamped)
        grad_delta = grad * mask.to(grad.dtype)
        self._kernel_grad += _kernel_grad(grad_delta.permute(0, 3, 1, 2), state.image, self._kernel)
        self._buffer = self._buffer or state.empty_like()
        self._buffer.interior.copy_(grad_delta)
        self._buffer.wrap()
        grad += F.conv2d(self._buffer.image, self._mirrored).permute(0, 2, 3, 1)
        return grad

    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the gradients of the weights."""
        return (self._kernel_grad,)


class AutogradRule(SingleStepRule):
    """Any rule, from its definition; the backward pass computes a CA step again, with autograd."""

    grid = PlanarGrid

    def __init__(self, model: Automaton, *weights: Tensor) -> None:
        self._model = model
        self._weights = weights
        self._grads = [torch.zeros_like(weight) for weight in weights]

    def forward(self, state: PlanarGrid, mask: Mask, out: PlanarGrid, *, clamp: bool) -> None:
        """Compute one CA step."""
        with torch.no_grad():
            delta = self._model.delta(state.planes)
        torch.addcmul(state.planes, mask.permute(0, 3, 1, 2).to(delta.dtype), delta, out=out.planes)
        clamp_if(out, clamp)

    def backward(self, state: PlanarGrid, mask: Mask, grad: Gradient, clamped: PlanarGrid | None) -> Gradient:
        """Return the gradient of `state`."""
        pass_clamp(grad, clamped)
        planes = state.planes.detach().requires_grad_()
        with torch.enable_grad():
            delta = self._model.delta(planes)
        grad_delta = (grad * mask.to(grad.dtype)).permute(0, 3, 1, 2)
        inputs = (planes, *self._model.parameters())
        grad_state, *grads = torch.autograd.grad(delta, inputs, grad_delta)
        grad += grad_state.permute(0, 2, 3, 1)
        torch._foreach_add_(self._grads, grads)
        return grad

    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the gradients of the weights."""
        return tuple(self._grads)


def fold_kernel(model: Srnca) -> Float[Tensor, "channel channel 3 3"]:
    """Return perception and convolutions of `srnca` folded into one kernel; w0 and w1 get gradients."""
    weight = (model.w1 @ model.w0).view(model.channels, model.channels, -1)
    return torch.einsum("ocf,fyx->ocyx", weight, model.kernels)


def _kernel_grad(grad_output: Tensor, image: Tensor, kernel: Tensor) -> Tensor:
    """Return the gradient of a convolution's kernel."""
    options = ([len(kernel)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    grad: Tensor = torch.ops.aten.convolution_backward(grad_output, image, kernel, *options)[1]
    return grad


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)
