"""The same rollout as `model.plain_rollout`, exact and faster: forward and backward written by hand.

States lie channels-last with a margin of one cell that wraps around, so that a convolution reads them where
they are. Of a CA step only the state and its coins, as bytes, stay for the backward pass: whether the clamp
let a value through shows in the next state, and hidden features are computed again.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nca.automaton.fast_rules import Rule, prepare_rule
from nca.automaton.model import Automaton, State
from nca.automaton.padded_grid import Torus

__all__ = ["Rollout", "n_kept_steps"]


def n_kept_steps(ca_steps: int, *, recompute: bool) -> int:
    """Return how many CA steps' states a rollout keeps at a time for its backward pass."""
    return math.ceil(math.sqrt(ca_steps)) if recompute else ca_steps


class _Tape:
    """What the backward pass needs of consecutive CA steps.

    Args:
        state: Gives size, dtype and device.
        n_steps: CA steps it can hold.
        n_coins: Per cell.
    """

    def __init__(self, state: Tensor, n_steps: int, n_coins: int) -> None:
        batch, channels, height, width = state.shape
        shape = (batch, height + 2, width + 2, channels)
        self.states = [Torus(state.new_empty(shape)) for _ in range(n_steps + 1)]
        self.coins = state.new_empty(n_steps, batch, height, width, n_coins, dtype=torch.int8)

    def fits(self, state: Tensor, n_steps: int, n_coins: int) -> bool:
        """Say whether it can take `n_steps` of such a state."""
        batch, channels, height, width = state.shape
        padded = self.states[0].padded
        return (
            padded.shape == (batch, height + 2, width + 2, channels)
            and (padded.dtype, padded.device) == (state.dtype, state.device)
            and self.coins.shape[-1] == n_coins
            and len(self.coins) >= n_steps
        )


class Rollout:
    """A rollout that keeps its buffers from one call to the next.

    Called like `plain_rollout` and equal to it but for the order of summation. Buffers come back when the
    autograd graph is freed; until then another call allocates its own.

    Args:
        recompute: Whether to keep the states of about every square root of `ca_steps` steps alone, and to
            run the steps between them a second time for the backward pass: the same numbers.
        most_ca_steps: What buffers are allocated for at once; a longer rollout gets larger ones.
    """

    def __init__(self, *, recompute: bool = False, most_ca_steps: int = 0) -> None:
        self._recompute = recompute
        self._most_ca_steps = most_ca_steps
        self._spare: _Tape | None = None

    def __call__(
        self, model: Automaton, state: State, ca_steps: int, generator: torch.Generator | None
    ) -> State:
        """Return the state after `ca_steps` CA steps; masks are drawn as `plain_rollout` draws them.

        Args:
            model: The automaton; its first kernel is the identity.
            state: Cell states in [0, 1].
            ca_steps: 0 or more.
            generator: The stream `masks`.
        """
        make_rule, weights = prepare_rule(model)
        n_kept = n_kept_steps(ca_steps, recompute=self._recompute)
        course = _Course(self, model, ca_steps, n_kept, generator, make_rule)
        final: Tensor = _Rollout.apply(course, state, *weights)
        return final

    def take(self, state: State, n_steps: int, n_coins: int) -> _Tape:
        """Return a tape of at least `n_steps`, the spare one if it fits."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.fits(state, n_steps, n_coins):
            return spare
        del spare  # before its successor is allocated
        most = n_kept_steps(self._most_ca_steps, recompute=self._recompute)
        return _Tape(state, max(n_steps, most), n_coins)

    def give_back(self, tape: _Tape) -> None:
        """Keep a tape for the next call."""
        self._spare = tape


@dataclass(frozen=True)
class _Course:
    """What a rollout needs beside tensors with gradients.

    Args:
        owner: Of the tape.
        model: The automaton.
        ca_steps: CA steps in all.
        n_kept: CA steps whose states are kept at a time.
        generator: The stream `masks`.
        make_rule: Makes the rule of its weights.
    """

    owner: Rollout
    model: Automaton
    ca_steps: int
    n_kept: int
    generator: torch.Generator | None
    make_rule: Callable[..., Rule]

    @property
    def n_coins(self) -> int:
        return self.model.channels if self.model.mask == "channel" else 1

    def run(self, rule: Rule, tape: _Tape, n_steps: int, generator: torch.Generator | None) -> None:
        """Take CA steps from the tape's first state on, of which the interior is given."""
        shape = tape.states[0].interior.permute(0, 3, 1, 2)
        for step in range(n_steps):
            state, coins = tape.states[step], tape.coins[step]
            state.wrap()
            coins.copy_(self.model.draw_mask(shape, generator).permute(0, 2, 3, 1))
            rule.advance(state, coins, tape.states[step + 1])

    def run_again(self, rule: Rule, tape: _Tape, segment: _Segment) -> None:
        """Take a segment's CA steps again, with the same coins; the stream stays where it is."""
        assert segment.start is not None
        tape.states[0].interior.copy_(segment.start)
        generator = None
        if segment.coins is not None:
            generator = torch.Generator(segment.start.device).set_state(segment.coins)
        self.run(rule, tape, segment.n_steps, generator)


@dataclass(frozen=True)
class _Segment:
    """Consecutive CA steps whose states are on the tape at the same time.

    Args:
        n_steps: How many.
        start: The state before them, (batch, height, width, channel); None where they stay on the tape.
        coins: State of the stream `masks` before them; None where nothing is drawn.
    """

    n_steps: int
    start: Tensor | None
    coins: Tensor | None


class _Rollout(torch.autograd.Function):
    """All CA steps of a rollout as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, course: _Course, state: Tensor, *weights: Tensor) -> Tensor:
        rule, generator = course.make_rule(*weights), course.generator
        n_kept = course.n_kept if any(ctx.needs_input_grad) else min(course.ca_steps, 1)
        tape = course.owner.take(state, n_kept, course.n_coins)
        first = tape.states[0].interior
        first.copy_(state.permute(0, 2, 3, 1))
        segments: list[_Segment] = []
        for n_steps in _split(course.ca_steps, n_kept):
            if segments:
                first.copy_(tape.states[segments[-1].n_steps].interior)
            if n_kept < course.ca_steps and any(ctx.needs_input_grad):
                coins = None if generator is None else generator.get_state()
                segments.append(_Segment(n_steps, first.contiguous(), coins))
            else:
                segments.append(_Segment(n_steps, None, None))
            course.run(rule, tape, n_steps, generator)
        ctx.save_for_backward(*weights)
        ctx.course, ctx.tape, ctx.segments = course, tape, segments
        ctx.on_tape = segments[-1]
        weakref.finalize(ctx, course.owner.give_back, tape).atexit = False
        final = tape.states[segments[-1].n_steps].interior.permute(0, 3, 1, 2)
        return final.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_final: Tensor) -> tuple[Tensor | None, ...]:
        course: _Course = ctx.course
        tape: _Tape = ctx.tape
        rule = course.make_rule(*ctx.saved_tensors)
        gradient = by_final.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        for segment in reversed(ctx.segments):
            if segment is not ctx.on_tape:
                course.run_again(rule, tape, segment)
                ctx.on_tape = segment
            _pull_back(rule, tape, segment.n_steps, gradient)
        return (None, gradient.permute(0, 3, 1, 2), *rule.gradients())


def _split(n_steps: int, at_most: int) -> list[int]:
    """Split a number of steps into parts, one of 0 where there are none."""
    n_whole, rest = divmod(n_steps, at_most) if at_most else (0, 0)
    return [at_most] * n_whole + [rest] * (rest > 0 or n_whole == 0)


def _pull_back(rule: Rule, tape: _Tape, n_steps: int, gradient: Tensor) -> None:
    """Turn the gradient by the state after the tape's first CA steps into that by the state before them."""
    for step in reversed(range(n_steps)):
        clamped = tape.states[step + 1].interior
        torch.ops.aten.hardtanh_backward.grad_input(gradient, clamped, 0, 1, grad_input=gradient)
        rule.pull_back(tape.states[step], tape.coins[step], gradient)
