"""The automaton: update rule, update mask, seed state, and the plain rollout."""

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

State = Float[Tensor, "batch channel height width"]
Mask = Int8[Tensor, "batch #channel height width"]  # 1 where a cell takes the update

MASK_BITS = 16  # random bits per mask value
VALUES_PER_DRAW = 64 // MASK_BITS
SEED_SIDE = 1 / 8  # of the grid's side
SEED_LOW, SEED_SPAN = 0.99, 0.01  # seed values


class Automaton(nn.Module):
    """A cellular automaton whose update is two 1x1 convolutions of the perception.

    `state <- clamp(state + mask * delta, 0, 1)`, `delta = w1 @ f(w0 @ perception + bias)`.

    Args:
        kernels: Perception kernels, the identity first.
        w0: Weight of the first 1x1 convolution; inputs are channel-major.
        w1: Weight of the second 1x1 convolution.
        bias: Bias of the first convolution, with ReLU as f; None for the study's rule, with the identity.
        update_rate: Probability of an update, in (0, 1]; 1 is synchronous.
        mask: `channel` for one mask value per cell and channel, `cell` for one per cell.

    Raises:
        ValueError: If the first kernel is not the identity.

    Source: the SRNCA texture model (Symbolic Regression Neural Cellular Automata) for the linear rule,
    as the study ran it; Niklasson et al. 2021, "Self-Organising Textures", for the ReLU rule, which is
    published without a clamp, with an overflow penalty instead.
    """

    kernels: Tensor

    def __init__(
        self,
        kernels: Float[Tensor, "filter 3 3"],
        w0: Float[Tensor, "hidden input"],
        w1: Float[Tensor, "channel hidden"],
        bias: Float[Tensor, " hidden"] | None,
        *,
        update_rate: float,
        mask: Literal["channel", "cell"],
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

    @property
    def mask_channels(self) -> int:
        """Mask values per cell: 1, or one per state channel."""
        return self.channels if self.mask == "channel" else 1

    def delta(self, state: State) -> State:
        """Return the change of every cell, before the update mask."""
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
        batch, _, height, width = state.shape
        shape = (batch, self.mask_channels, height, width)
        return draw_update_mask(shape, self.update_rate, generator, state.device)


def make_automaton(config: ModelConfig, streams: Streams) -> Automaton:
    """Return an untrained automaton on the CPU.

    The first convolution is initialized as PyTorch does by default, the second one is zero. Draws from the
    streams `filters` and `weights`.
    """
    generator = streams["weights"]
    n_inputs = config.channels * config.filters
    w0 = torch.empty(config.hidden_channels, n_inputs)
    nn.init.kaiming_uniform_(w0, a=math.sqrt(5), generator=generator)
    w1 = torch.zeros(config.channels, config.hidden_channels)
    bias = None
    if config.activation == "relu":
        bound = 1 / math.sqrt(n_inputs)
        bias = torch.empty(config.hidden_channels).uniform_(-bound, bound, generator=generator)
    kernels = make_kernels(config.filters, streams["filters"])
    return Automaton(kernels, w0, w1, bias, update_rate=config.update_rate, mask=config.mask)


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
        update_rate: In (0, 1]; 1 updates every cell.
        generator: The stream `masks`, on `device`.
        device: Device of the mask.
    """
    batch, mask_channels, height, width = shape
    n_values = math.prod(shape)
    bits = torch.empty(math.ceil(n_values / VALUES_PER_DRAW), dtype=torch.int64, device=device)
    bits.random_(-(2**63), None, generator=generator)
    # Compared with the largest accepted number: 32768 itself would wrap to -32768 in int16.
    largest = max(1, round(update_rate * 2**MASK_BITS)) - 1 - 2 ** (MASK_BITS - 1)
    mask: Tensor = bits.view(torch.int16)[:n_values].le_(largest).to(torch.int8)
    return mask.view(batch, height, width, mask_channels).permute(0, 3, 1, 2)


def make_seed_state(
    n_states: int, channels: int, size: int, generator: torch.Generator | None, device: torch.device
) -> State:
    """Return zero states with a centered square of side `size` / 8 px, drawn uniformly from [0.99, 1).

    `size` is a multiple of 16; `generator` is the stream `seed_states`, on `device`.
    """
    half = int(size * SEED_SIDE) // 2
    inside = slice(size // 2 - half, size // 2 + half)
    noise = torch.rand(n_states, channels, 2 * half, 2 * half, generator=generator, device=device)
    state = torch.zeros(n_states, channels, size, size, device=device)
    state[:, :, inside, inside] = SEED_LOW + SEED_SPAN * noise
    return state


def plain_rollout(model: Automaton, state: State, ca_steps: int, generator: torch.Generator | None) -> State:
    """Return the state after `ca_steps` CA steps, straight from the definition; draws from `masks`."""
    for _ in range(ca_steps):
        state = model.update(state, model.draw_mask(state, generator))
    return state
