"""The update rules of the published programs; their states are free, and RGB is the state + 0.5."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, HIDDEN = 12, 96
RGB_OFFSET = 0.5
MUNCA_STD = 1e-3  # of its first weights
XAVIER_GAIN = 0.2  # of NoiseNCA's first convolution

IDENTITY = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
LAPLACIAN = torch.tensor([[1.0, 2.0, 1.0], [2.0, -12.0, 2.0], [1.0, 2.0, 1.0]])


def to_rgb(state: Tensor) -> Tensor:
    """Return the colors of a state, (batch, 3, height, width)."""
    return state[:, :3] + RGB_OFFSET


def convolve(state: Tensor, filters: Tensor) -> Tensor:
    """Return each channel of a state convolved with its own filters, as many for each, on the torus."""
    return F.conv2d(F.pad(state, (1, 1, 1, 1), mode="circular"), filters[:, None], groups=state.shape[1])


class Relu(nn.Module):
    """The rule of Google's notebook: four filters a channel, and ReLU between two 1x1 convolutions.

    Args:
        update_rate: Share of the cells that take an update.
        seed_noise: Seed states are uniform noise from -seed_noise to seed_noise; 0 for zeros.
        generator: Draws the first weights.
    """

    def __init__(self, update_rate: float, seed_noise: float, generator: torch.Generator) -> None:
        super().__init__()
        self.update_rate, self.seed_noise = update_rate, seed_noise
        self.register_buffer(
            "filters", torch.stack([IDENTITY, SOBEL, SOBEL.T, LAPLACIAN]).repeat(CHANNELS, 1, 1)
        )
        n_inputs = 4 * CHANNELS
        bound = 1 / math.sqrt(n_inputs)  # PyTorch's default for a convolution, of its weight and of its bias
        self.w1 = nn.Parameter(
            torch.empty(HIDDEN, n_inputs, 1, 1).uniform_(-bound, bound, generator=generator)
        )
        self.bias = nn.Parameter(torch.empty(HIDDEN).uniform_(-bound, bound, generator=generator))
        self.w2 = nn.Parameter(torch.zeros(CHANNELS, HIDDEN, 1, 1))

    def forward(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """Return the state after one CA step."""
        hidden = F.conv2d(convolve(state, self.get_buffer("filters")), self.w1, self.bias)
        delta = F.conv2d(torch.relu(hidden), self.w2)
        if self.update_rate == 1:
            return state + delta
        shape = (state.shape[0], 1, *state.shape[2:])
        mask = (torch.rand(shape, generator=generator, device=state.device) + self.update_rate).floor()
        return state + delta * mask

    def draw_seeds(self, n_states: int, size: int, generator: torch.Generator) -> Tensor:
        """Return seed states, (n_states, channels, size, size)."""
        return draw_noise(n_states, size, self.seed_noise, generator)


def make_google(generator: torch.Generator) -> Relu:
    """Return the rule of Google's notebook: half of the cells take an update, the seed state is zeros."""
    return Relu(update_rate=0.5, seed_noise=0.0, generator=generator)


def make_noisenca(generator: torch.Generator) -> Relu:
    """Return NoiseNCA's rule: all cells take an update, seed states are noise of its default level 0.1."""
    rule = Relu(update_rate=1.0, seed_noise=0.05, generator=generator)
    nn.init.xavier_normal_(rule.w1, gain=XAVIER_GAIN, generator=generator)
    return rule


class Munca(nn.Module):
    """The rule of muNCA: one filter a channel, absolute values, and one 1x1 convolution."""

    seed_noise, update_rate = 0.5, 1.0

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        third = CHANNELS // 3
        self.register_buffer(
            "filters", torch.stack([LAPLACIAN] * third + [SOBEL] * third + [SOBEL.T] * third)
        )
        weight = torch.randn(CHANNELS, 4 * CHANNELS + 1, 1, 1, generator=generator)
        self.weight = nn.Parameter(MUNCA_STD * weight)  # the last column is the bias

    def forward(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """Return the state after one CA step, of which nothing is random."""
        del generator
        y = torch.cat([state, convolve(state, self.get_buffer("filters"))], dim=1)
        return state + F.conv2d(torch.cat([y, y.abs()], dim=1), self.weight[:, :-1], self.weight[:, -1, 0, 0])

    def draw_seeds(self, n_states: int, size: int, generator: torch.Generator) -> Tensor:
        """Return seed states, (n_states, channels, size, size)."""
        return draw_noise(n_states, size, self.seed_noise, generator)


def draw_noise(n_states: int, size: int, level: float, generator: torch.Generator) -> Tensor:
    """Return states drawn uniformly from -level to level, (n_states, channels, size, size)."""
    shape = (n_states, CHANNELS, size, size)
    return 2 * level * (torch.rand(shape, generator=generator, device=generator.device) - 0.5)
