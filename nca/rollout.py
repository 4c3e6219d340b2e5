"""The same rollout as `model.plain_rollout`, exact and faster.

Perception is linear and so is the first convolution: together they are one 3x3 convolution. Without a
ReLU the second convolution joins them, and a CA step is one convolution `channels -> channels`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.model import Automaton, State

__all__ = ["fold_kernel", "rollout"]


def fold_kernel(model: Automaton) -> Float[Tensor, "out channel 3 3"]:
    """Return perception and convolutions as one 3x3 kernel; gradients flow to w0 and w1.

    The linear rule folds to (channels, channels, 3, 3), the ReLU rule up to the activation, to
    (hidden, channels, 3, 3).
    """
    weight = model.w0 if model.bias is not None else model.w1 @ model.w0
    per_filter = weight.view(weight.shape[0], model.channels, model.kernels.shape[0])
    return torch.einsum("ocf,fyx->ocyx", per_filter, model.kernels)


def rollout(model: Automaton, state: State, ca_steps: int, generator: torch.Generator | None) -> State:
    """Return the state after `ca_steps` CA steps; masks are drawn as `plain_rollout` draws them.

    Equal to the plain rollout but for the order of summation.

    Args:
        model: The automaton.
        state: Cell states in [0, 1].
        ca_steps: 0 or more.
        generator: The stream `masks`.
    """
    kernel = fold_kernel(model).contiguous(memory_format=torch.channels_last)
    state = state.contiguous(memory_format=torch.channels_last)
    for _ in range(ca_steps):
        mask = model.draw_mask(state, generator)
        delta = F.conv2d(F.pad(state, (1, 1, 1, 1), mode="circular"), kernel, model.bias)
        if model.bias is not None:
            delta = F.conv2d(F.relu(delta), model.w1[:, :, None, None])
        state = torch.clamp(torch.addcmul(state, mask, delta), 0.0, 1.0)
    return state
