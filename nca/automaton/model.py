"""What all automata share: update, update masks, seed states, and the plain rollout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from nca.automaton.seeding import Streams
from nca.config.schema import ModelConfig

State = Float[Tensor, "batch channel height width"]
Mask = Int8[Tensor, "batch #channel height width"]  # 1 where a cell takes the update

MASK_BITS = 16  # random bits per mask value
VALUES_PER_DRAW = 64 // MASK_BITS
SEED_SIDE = 1 / 8  # of the grid's side
SEED_LOW, SEED_SPAN = 0.99, 0.01  # seed values
FREE_RGB_OFFSET = 0.5  # a free state of 0 is gray
NORM_EPSILON = 1e-8


class Automaton(nn.Module, ABC):
    """A cellular automaton on a periodic grid: `state <- state + mask * delta(state)`, perhaps clamped.

    Args:
        config: Its update rate, mask, clamp and seed state. A clamped state stays in [0, 1].
        kernels: Fixed perception kernels.
    """

    kernels: Tensor

    def __init__(self, config: ModelConfig, kernels: Float[Tensor, "kernel 3 3"]) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("kernels", kernels)

    @classmethod
    @abstractmethod
    def make(cls, config: ModelConfig, streams: Streams) -> Automaton:
        """Return an untrained automaton on the CPU; draws from the streams `filters` and `weights` alone."""

    @abstractmethod
    def delta(self, state: State) -> State:
        """Return the change of every cell, before the update mask."""

    @property
    def channels(self) -> int:
        """Number of state channels; the first three hold RGB."""
        return self.config.channels

    @property
    def mask_channels(self) -> int:
        """Mask values per cell: 1, or one per state channel."""
        return self.channels if self.config.mask == "channel" else 1

    def update(self, state: State, mask: Mask) -> State:
        """Return the state after one CA step with the given update mask."""
        state = state + mask * self.delta(state)
        return torch.clamp(state, 0.0, 1.0) if self.config.clamp else state

    def rgb(self, state: State) -> Float[Tensor, "batch 3 height width"]:
        """Return the colors that a state shows, in [0, 1] if it is well trained."""
        return state[:, :3] if self.config.clamp else state[:, :3] + FREE_RGB_OFFSET

    def draw_mask(self, state: State, generator: torch.Generator | None) -> Mask:
        """Draw one CA step's update mask for `state` from the stream `masks`."""
        batch, _, height, width = state.shape
        shape = (batch, self.mask_channels, height, width)
        return draw_update_mask(shape, self.config.update_rate, generator, state.device)

    def draw_seed_states(self, n_states: int, size: int, generator: torch.Generator | None) -> State:
        """Draw seed states of `size` px, a multiple of 16, from the stream `seed_states`."""
        shape, device = (n_states, self.channels, size, size), self.kernels.device
        if self.config.seed_state == "square":
            return draw_squares(shape, generator, device)
        if self.config.seed_state == "zeros":
            return torch.zeros(shape, device=device)
        noise = torch.rand(shape, generator=generator, device=device)
        return self.config.seed_noise * (2 * noise - 1)


def draw_update_mask(
    shape: tuple[int, int, int, int],
    update_rate: float,
    generator: torch.Generator | None,
    device: torch.device,
) -> Int8[Tensor, "batch mask_channel height width"]:
    """Draw a mask that is 1 where a cell takes the update; channels-last in memory, without a host sync.

    Each value is decided by 16 random bits, four values per 64-bit draw, so its probability is `update_rate`
    rounded to a multiple of 2^-16 (off by at most 2^-17), and at least 2^-16.

    Args:
        shape: (batch, mask channels, height, width).
        update_rate: In (0, 1]; 1 updates every cell, and draws nothing.
        generator: The stream `masks`, on `device`.
        device: Device of the mask.
    """
    batch, mask_channels, height, width = shape
    if update_rate == 1:
        ones = torch.ones(batch, height, width, mask_channels, dtype=torch.int8, device=device)
        return ones.permute(0, 3, 1, 2)
    n_values = math.prod(shape)
    bits = torch.empty(math.ceil(n_values / VALUES_PER_DRAW), dtype=torch.int64, device=device)
    bits.random_(-(2**63), None, generator=generator)
    # Compared with the largest accepted number: 32768 itself would wrap to -32768 in int16.
    largest = max(1, round(update_rate * 2**MASK_BITS)) - 1 - 2 ** (MASK_BITS - 1)
    mask: Tensor = bits.view(torch.int16)[:n_values].le_(largest).to(torch.int8)
    return mask.view(batch, height, width, mask_channels).permute(0, 3, 1, 2)


def draw_squares(
    shape: tuple[int, int, int, int], generator: torch.Generator | None, device: torch.device
) -> State:
    """Return zero states with a centered square of a grid's side / 8, drawn uniformly from [0.99, 1)."""
    n_states, channels, size, _ = shape
    half = int(size * SEED_SIDE) // 2
    inside = slice(size // 2 - half, size // 2 + half)
    noise = torch.rand(n_states, channels, 2 * half, 2 * half, generator=generator, device=device)
    state = torch.zeros(shape, device=device)
    state[:, :, inside, inside] = SEED_LOW + SEED_SPAN * noise
    return state


def plain_rollout(
    model: Automaton,
    state: State,
    ca_steps: int,
    generator: torch.Generator | None,
    *,
    normalize: bool = False,
) -> State:
    """Return the state after `ca_steps` CA steps, straight from the definition; draws from `masks`.

    Args:
        model: The automaton.
        state: The first state.
        ca_steps: 0 or more.
        generator: The stream `masks`.
        normalize: Divide each sample's gradient by its norm at every CA step of the backward pass.
    """
    for _ in range(ca_steps):
        state = model.update(state, model.draw_mask(state, generator))
        if normalize:
            state = _NormalizedGradient.apply(state)
    return state


def erase_disc(state: State, radius: float, center: tuple[float, float]) -> State:
    """Return a copy of a state in which a disc on the torus is 0.

    Args:
        state: States on a square grid.
        radius: In sides of the grid.
        center: Row and column in pixels.
    """
    size = state.shape[-1]
    pixels = torch.arange(size, device=state.device)
    rows, columns = ((pixels - middle + size / 2) % size - size / 2 for middle in center)
    inside = rows[:, None] ** 2 + columns**2 < (radius * size) ** 2
    return torch.where(inside, torch.zeros_like(state), state)


def normalize_gradient(grad: Float[Tensor, "batch _ _ _"]) -> None:
    """Divide each sample's gradient by its norm, in place."""
    grad /= torch.linalg.vector_norm(grad, dim=(1, 2, 3), keepdim=True) + NORM_EPSILON


class _NormalizedGradient(torch.autograd.Function):
    """The identity; its backward pass is `normalize_gradient`."""

    @staticmethod
    def forward(ctx: Any, state: Tensor) -> Tensor:
        return state.view_as(state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        grad = grad_output.clone()
        normalize_gradient(grad)
        return grad
