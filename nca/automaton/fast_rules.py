"""Update rules on grids of their own layout: one CA step forward, and its gradients, by hand.

The rule `srnca` is linear between clamps: perception and both convolutions fold into one 3x3 convolution. On
a CPU, `distill` and `munca` have compiled loops (`nca.automaton.cpu_rules`). On other devices, autograd
computes their gradients, of one CA step at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from nca.automaton.grids import PaddedGrid, PlanarGrid
from nca.automaton.model import Automaton
from nca.automaton.rules import Srnca

Mask = Int8[Tensor, "batch height width mask_channel"]  # 1 where a cell takes the update
Gradient = Float[Tensor, "batch height width channel"]

# oneDNN's kernel gradient is slower by a third with 13 to 15 input channels than with 16.
FAST_CHANNELS = 16
SLOW_CHANNELS = range(13, 16)


class Rule(ABC):
    """An update rule with fixed weights; it sums their gradients over all calls of `backward`.

    Attributes:
        grid: The layout of its states.
    """

    grid: type[PaddedGrid] | type[PlanarGrid]

    @abstractmethod
    def forward(self, state: Any, mask: Mask, out: Any) -> None:
        """Compute one CA step without a clamp, from a wrapped state to the interior of `out`."""

    @abstractmethod
    def backward(self, state: Any, mask: Mask, grad: Gradient) -> None:
        """Turn the gradient with respect to `state + mask * delta` into that of `state`, in place.

        `grad` has the layout of a grid's interior, without a margin.
        """

    @abstractmethod
    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the weights' gradients, in the order of the constructor's arguments."""


class LinearRule(Rule):
    """The rule `srnca`: one 3x3 convolution."""

    grid = PaddedGrid

    def __init__(self, kernel: Tensor) -> None:
        self._kernel = _channels_last(kernel)
        # The state's gradient is a convolution with the kernel mirrored, inputs and outputs exchanged.
        self._mirrored = _channels_last(kernel.transpose(0, 1).flip(2, 3))
        n_added = FAST_CHANNELS - len(kernel) if len(kernel) in SLOW_CHANNELS else 0
        self._widened = _channels_last(F.pad(kernel, (0, 0, 0, 0, 0, n_added)))
        self._kernel_grad = torch.zeros_like(self._widened)
        self._wide_state: Tensor | None = None
        self._buffer: PaddedGrid | None = None

    def forward(self, state: PaddedGrid, mask: Mask, out: PaddedGrid) -> None:
        """Compute one CA step."""
        delta = F.conv2d(state.image, self._kernel).permute(0, 2, 3, 1)
        torch.addcmul(state.interior, mask.to(delta.dtype), delta, out=out.interior)

    def backward(self, state: PaddedGrid, mask: Mask, grad: Tensor) -> None:
        """Turn the gradient of the next state into that of `state`."""
        grad_delta = grad * mask.to(grad.dtype)
        image = self._widen(state)
        self._kernel_grad += _kernel_grad(grad_delta.permute(0, 3, 1, 2), image, self._widened)
        self._buffer = self._buffer or state.empty_like()
        self._buffer.interior.copy_(grad_delta)
        self._buffer.wrap()
        grad += F.conv2d(self._buffer.image, self._mirrored).permute(0, 2, 3, 1)

    def weight_grads(self) -> tuple[Tensor, ...]:
        """Return the gradients of the weights."""
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


class AutogradRule(Rule):
    """Any rule, from its definition; the backward pass computes a CA step again, with autograd."""

    grid = PlanarGrid

    def __init__(self, model: Automaton, *weights: Tensor) -> None:
        self._model = model
        self._weights = weights
        self._grads = [torch.zeros_like(weight) for weight in weights]

    def forward(self, state: PlanarGrid, mask: Mask, out: PlanarGrid) -> None:
        """Compute one CA step."""
        with torch.no_grad():
            delta = self._model.delta(state.planes)
        torch.addcmul(state.planes, mask.permute(0, 3, 1, 2).to(delta.dtype), delta, out=out.planes)

    def backward(self, state: PlanarGrid, mask: Mask, grad: Gradient) -> None:
        """Turn the gradient of the next state into that of `state`."""
        planes = state.planes.detach().requires_grad_()
        with torch.enable_grad():
            delta = self._model.delta(planes)
        grad_delta = (grad * mask.to(grad.dtype)).permute(0, 3, 1, 2)
        inputs = (planes, *self._model.parameters())
        grad_state, *grads = torch.autograd.grad(delta, inputs, grad_delta)
        grad += grad_state.permute(0, 2, 3, 1)
        torch._foreach_add_(self._grads, grads)

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
