"""The automaton: update rule, update mask, seed state. Plain and readable; `rollout` is the fast twin."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from nca.automaton.perception import IDENTITY, make_kernels, perceive
from nca.automaton.seeding import Streams
from nca.config.schema import ModelConfig

__all__ = ["Automaton", "MaskKind", "draw_update_mask", "make_automaton", "make_seed_state", "plain_rollout"]

MaskKind = Literal["channel", "cell"]
State = Float[Tensor, "batch channel height width"]
Mask = Int8[Tensor, "batch #channel height width"]  # 1 where a cell takes the update

COIN_BITS = 16
COINS_PER_WORD = 64 // COIN_BITS
SEED_SIDE = 1 / 8  # of the grid's side
SEED_LOW, SEED_SPAN = 0.99, 0.01


class Automaton(nn.Module):
    """A cellular automaton whose update is two 1x1 convolutions of the perception.

    `state <- clamp(state + mask * delta, 0, 1)`, `delta = w1 @ f(w0 @ perception + bias)`.

    Args:
        kernels: Perception kernels, (filters, 3, 3), the identity first.
        w0: First 1x1 convolution, (hidden, channels * filters).
        w1: Second 1x1 convolution, (channels, hidden).
        bias: Of the first convolution, (hidden,). None is the study's rule, where f is the identity;
            with a bias f is ReLU.
        update_rate: Probability of an update, in (0, 1]; 1 is synchronous.
        mask: One coin per cell and `channel`, or one per `cell`.

    Raises:
        ValueError: If the first kernel is another.

    Source: the SRNCA texture model (Symbolic Regression Neural Cellular Automata) for the linear rule,
    as the study ran it; Niklasson et al. 2021, "Self-Organising Textures", for the ReLU rule, which is
    published without a clamp, with an overflow penalty instead.
    """

    kernels: Tensor

    def __init__(
        self,
        kernels: Tensor,
        w0: Tensor,
        w1: Tensor,
        bias: Tensor | None,
        *,
        update_rate: float,
        mask: MaskKind,
    ) -> None:
        super().__init__()
        identity = torch.tensor(IDENTITY, dtype=kernels.dtype)
        if kernels.device.type == "cpu" and not torch.equal(kernels[0], identity):
            raise ValueError(f"kernels[0]={kernels[0].tolist()}: must be the identity")
        self.register_buffer("kernels", kernels)
        self.w0 = nn.Parameter(w0)
        self.w1 = nn.Parameter(w1)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.update_rate = update_rate
        self.mask = mask

    @property
    def channels(self) -> int:
        """Number of state channels; the first three are RGB."""
        return self.w1.shape[0]

    def delta(self, state: State) -> State:
        """Return the change that every cell would take if no coin held it back."""
        perception = perceive(state, self.kernels)
        hidden = F.conv2d(perception, self.w0[:, :, None, None], self.bias)
        if self.bias is not None:
            hidden = F.relu(hidden)
        return F.conv2d(hidden, self.w1[:, :, None, None])

    def update(self, state: State, mask: Mask) -> State:
        """Return the state after one CA step with the given update mask."""
        return torch.clamp(state + mask * self.delta(state), 0.0, 1.0)

    def draw_mask(self, state: State, generator: torch.Generator | None) -> Mask:
        """Draw one CA step's update mask for `state` from the stream `masks`."""
        batch, channels, height, width = state.shape
        coins = channels if self.mask == "channel" else 1
        return draw_update_mask((batch, coins, height, width), self.update_rate, generator, state.device)


def make_automaton(config: ModelConfig, streams: Streams) -> Automaton:
    """Return a fresh automaton on the CPU: PyTorch's default first convolution, zero second one.

    Uses the streams `filters` and `weights`.
    """
    generator = streams["weights"]
    n_inputs = config.channels * config.filters
    w0 = torch.empty(config.hidden_channels, n_inputs)
    nn.init.kaiming_uniform_(w0, a=math.sqrt(5), generator=generator)
    bias = None
    if config.activation == "relu":
        bound = 1 / math.sqrt(n_inputs)
        bias = torch.empty(config.hidden_channels).uniform_(-bound, bound, generator=generator)
    return Automaton(
        make_kernels(config.filters, streams["filters"]),
        w0,
        torch.zeros(config.channels, config.hidden_channels),
        bias,
        update_rate=config.update_rate,
        mask=config.mask,
    )


def draw_update_mask(
    shape: tuple[int, int, int, int],
    update_rate: float,
    generator: torch.Generator | None,
    device: torch.device,
) -> Int8[Tensor, "batch coin height width"]:
    """Draw a mask that is 1 where a cell takes the update; channels-last in memory.

    The coins are 16 bits, four from one 64-bit draw, so the probability is `update_rate` rounded to a
    multiple of 2^-16 (a bias under 2^-17; at least 2^-16). Rate 1 updates every cell.

    Args:
        shape: (batch, coins per cell, height, width).
        update_rate: In (0, 1].
        generator: The stream `masks`, on `device`.
        device: Where the mask is made; no host sync.
    """
    batch, coins, height, width = shape
    n_coins = batch * coins * height * width
    words = torch.empty(-(-n_coins // COINS_PER_WORD), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    # Compared with the largest accepted coin: 32768 itself would wrap to -32768 in int16.
    largest = max(1, round(update_rate * 2**COIN_BITS)) - 1 - 2 ** (COIN_BITS - 1)
    mask: Tensor = words.view(torch.int16)[:n_coins].le_(largest).to(torch.int8)
    return mask.view(batch, height, width, coins).permute(0, 3, 1, 2)


def make_seed_state(
    n_states: int, channels: int, size: int, generator: torch.Generator | None, device: torch.device
) -> State:
    """Return zero states with a centered square of side size / 8 drawn in [0.99, 1).

    Args:
        n_states: Batch size of the result.
        channels: State channels.
        size: Height and width in pixels, a multiple of 16.
        generator: The stream `seed_states`, on `device`.
        device: Where the states are made.
    """
    half = int(size * SEED_SIDE) // 2
    inside = slice(size // 2 - half, size // 2 + half)
    noise = torch.rand(n_states, channels, 2 * half, 2 * half, generator=generator, device=device)
    state = torch.zeros(n_states, channels, size, size, device=device)
    state[:, :, inside, inside] = SEED_LOW + SEED_SPAN * noise
    return state


def plain_rollout(model: Automaton, state: State, ca_steps: int, generator: torch.Generator | None) -> State:
    """Return the state after `ca_steps` CA steps, by the definition; draws from the stream `masks`."""
    for _ in range(ca_steps):
        state = model.update(state, model.draw_mask(state, generator))
    return state
