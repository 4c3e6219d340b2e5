"""The update rules: `srnca` of the original study, `distill` and `munca`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nca.automaton.model import Automaton, State
from nca.automaton.perception import (
    DISTILL_KERNELS,
    IDENTITY,
    filter_channels,
    make_channel_kernels,
    make_kernels,
    perceive,
)
from nca.automaton.seeding import Streams
from nca.config.custom_class import custom_code, is_custom, load_class
from nca.config.schema import ModelConfig

MUNCA_STD = 1e-3  # of the first weights


class Srnca(Automaton):
    """The rule of the original study: `delta = w1 @ w0 @ perception`, linear, between clamps.

    Args:
        config: As for `Automaton`.
        kernels: Perception kernels of every channel, the identity first.
        w0: Weight of the first 1x1 convolution; inputs are channel-major.
        w1: Weight of the second 1x1 convolution.

    Raises:
        ValueError: If the first kernel is not the identity.

    Source: the SRNCA texture model (Symbolic Regression Neural Cellular Automata), as the study ran it.
    """

    def __init__(
        self,
        config: ModelConfig,
        kernels: Float[Tensor, "filter 3 3"],
        w0: Float[Tensor, "hidden input"],
        w1: Float[Tensor, "channel hidden"],
    ) -> None:
        super().__init__(config, kernels)
        _check_identity(kernels)
        self.w0, self.w1 = nn.Parameter(w0), nn.Parameter(w1)

    @classmethod
    def make(cls, config: ModelConfig, streams: Streams) -> Srnca:
        """Draw the weights; the second convolution is zero. Uses the streams `filters` and `weights`."""
        w0, _, w1 = _draw_weights(config, streams["weights"], bias=False)
        return cls(config, make_kernels(_filters(config), streams["filters"]), w0, w1)

    def delta(self, state: State) -> State:
        """Return the change of every cell, before the update mask."""
        hidden = F.conv2d(perceive(state, self.kernels), self.w0[:, :, None, None])
        return F.conv2d(hidden, self.w1[:, :, None, None])


class Distill(Automaton):
    """The rule of Google's texture notebook: `delta = w1 @ relu(w0 @ perception + bias)`.

    Args:
        config: As for `Automaton`.
        kernels: Perception kernels of every channel, the identity first.
        w0: Weight of the first 1x1 convolution; inputs are channel-major.
        bias: Bias of the first convolution.
        w1: Weight of the second 1x1 convolution.

    Raises:
        ValueError: If the first kernel is not the identity.

    Source: Niklasson et al. 2021, "Self-Organising Textures", https://distill.pub/selforg/2021/textures.
    """

    def __init__(
        self,
        config: ModelConfig,
        kernels: Float[Tensor, "filter 3 3"],
        w0: Float[Tensor, "hidden input"],
        bias: Float[Tensor, " hidden"],
        w1: Float[Tensor, "channel hidden"],
    ) -> None:
        super().__init__(config, kernels)
        _check_identity(kernels)
        self.w0, self.bias, self.w1 = nn.Parameter(w0), nn.Parameter(bias), nn.Parameter(w1)

    @classmethod
    def make(cls, config: ModelConfig, streams: Streams) -> Distill:
        """Draw the weights; the second convolution is zero. Uses the streams `filters` and `weights`."""
        w0, bias, w1 = _draw_weights(config, streams["weights"], bias=True)
        kernels = make_kernels(_filters(config), streams["filters"], DISTILL_KERNELS)
        return cls(config, kernels, w0, bias, w1)

    def delta(self, state: State) -> State:
        """Return the change of every cell, before the update mask."""
        hidden = F.conv2d(perceive(state, self.kernels), self.w0[:, :, None, None], self.bias)
        return F.conv2d(F.relu(hidden), self.w1[:, :, None, None])


class Munca(Automaton):
    """A rule of a few hundred weights: `delta = weight @ [y, abs(y)] + bias`, `y = [state, filtered state]`.

    Args:
        config: As for `Automaton`.
        kernels: The one kernel of each channel.
        weight: Weight of the 1x1 convolution.
        bias: Its bias.

    Source: Mordvintsev and Niklasson 2021, "muNCA: Texture Generation with Ultra-Compact Neural Cellular
    Automata".
    """

    def __init__(
        self,
        config: ModelConfig,
        kernels: Float[Tensor, "channel 3 3"],
        weight: Float[Tensor, "channel 4*channel"],
        bias: Float[Tensor, " channel"],
    ) -> None:
        super().__init__(config, kernels)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    @classmethod
    def make(cls, config: ModelConfig, streams: Streams) -> Munca:
        """Draw small weights from a normal distribution, of the stream `weights`; the bias is zero."""
        weight = torch.randn(config.channels, 4 * config.channels, generator=streams["weights"])
        bias = torch.zeros(config.channels)
        return cls(config, make_channel_kernels(config.channels), MUNCA_STD * weight, bias)

    def delta(self, state: State) -> State:
        """Return the change of every cell, before the update mask."""
        y = torch.cat([state, filter_channels(state, self.kernels)], dim=1)
        return F.conv2d(torch.cat([y, y.abs()], dim=1), self.weight[:, :, None, None], self.bias)


RULES: dict[str, type[Srnca] | type[Distill] | type[Munca]] = {
    "srnca": Srnca,
    "distill": Distill,
    "munca": Munca,
}


def make_automaton(config: ModelConfig, streams: Streams) -> Automaton:
    """Return an untrained automaton on the CPU; draws from the streams `filters` and `weights`.

    Raises:
        CustomClassError: If its rule is a class of a user's own that cannot be imported or made.
    """
    if is_custom(config.name):
        with custom_code("model", config.name):
            rule = load_class("model", config.name, Automaton)  # type: ignore[type-abstract]
            return rule.make(config, streams)
    return RULES[config.name].make(config, streams)


def _draw_weights(
    config: ModelConfig, generator: torch.Generator | None, *, bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the first convolution as PyTorch does by default; its bias is zero without `bias`."""
    assert config.hidden_channels is not None
    n_inputs = config.channels * _filters(config)
    w0 = torch.empty(config.hidden_channels, n_inputs)
    nn.init.kaiming_uniform_(w0, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(n_inputs)
    b0 = torch.zeros(config.hidden_channels)
    if bias:
        b0.uniform_(-bound, bound, generator=generator)
    return w0, b0, torch.zeros(config.channels, config.hidden_channels)


def _filters(config: ModelConfig) -> int:
    assert config.filters is not None
    return config.filters


def _check_identity(kernels: Tensor) -> None:
    identity = torch.tensor(IDENTITY, dtype=kernels.dtype)
    if kernels.device.type == "cpu" and not torch.equal(kernels[0], identity):
        raise ValueError(f"kernels[0]={kernels[0].tolist()}: must be the identity")
