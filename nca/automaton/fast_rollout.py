"""A faster `model.plain_rollout`, equal up to rounding: forward and backward pass without autograd.

Per CA step, only the state and its mask (int8) are kept for the backward pass: the next state shows where a
clamp was active, and hidden features are computed again.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nca.automaton.fast_rules import AutogradRule, LinearRule, Rule, fold_kernel
from nca.automaton.grids import Grid, Tape
from nca.automaton.model import Automaton, State
from nca.automaton.rules import Distill, Munca, Srnca


def prepare_rule(model: Automaton) -> tuple[Callable[..., Rule], tuple[Tensor, ...]]:
    """Return a constructor of the rule and its weights, through which autograd reaches the model's."""
    # A class of a user's own may be a subclass of one of these, and change by another delta.
    on_cpu = model.kernels.device.type == "cpu"
    if type(model) is Srnca:
        return (_cpu_rules().CpuLinearRule if on_cpu else LinearRule), (fold_kernel(model),)
    if on_cpu and type(model) in {Distill, Munca}:
        rules = _cpu_rules()
        rule = rules.CpuDistillRule if type(model) is Distill else rules.CpuMuncaRule
        return functools.partial(rule, model.kernels), tuple(model.parameters())
    return functools.partial(AutogradRule, model), tuple(model.parameters())


def _cpu_rules() -> ModuleType:
    from nca.automaton import cpu_rules  # loads Numba

    return cpu_rules


class Rollout:
    """A rollout that reuses its buffers between calls; called like `plain_rollout`.

    The buffers become free with the autograd graph; a call before that allocates new ones.

    Args:
        recompute: Keep about sqrt(`ca_steps`) states instead of all, and recompute the others, bit-identical,
            in the backward pass.
        max_ca_steps: CA steps that buffers are allocated for; a longer rollout allocates larger ones.
    """

    def __init__(self, *, recompute: bool = False, max_ca_steps: int = 0) -> None:
        self._recompute = recompute
        self._max_ca_steps = max_ca_steps
        self._spare: Tape | None = None

    def __call__(
        self,
        model: Automaton,
        state: State,
        ca_steps: int,
        generator: torch.Generator | None,
        *,
        normalize: bool = False,
    ) -> State:
        """Return the state after `ca_steps` CA steps, 0 or more; draws the same masks as `plain_rollout`."""
        make_rule, weights = prepare_rule(model)
        has_backward = torch.is_grad_enabled() and any(t.requires_grad for t in (state, *weights))
        context = _RolloutContext(self, model, ca_steps, generator, normalize, make_rule, has_backward)
        final: Tensor = _Rollout.apply(context, state, *weights)
        return final

    def acquire_tape(self, state: State, n_steps: int, mask_channels: int, grid: type[Grid]) -> Tape:
        """Return a tape for at least `n_steps` CA steps: the spare one if it fits, else a new one."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.fits(state, n_steps, mask_channels, grid):
            return spare
        del spare  # frees its memory before the new tape is allocated
        return Tape(state, max(n_steps, self.n_kept(self._max_ca_steps)), mask_channels, grid)

    def release_tape(self, tape: Tape) -> None:
        """Keep a tape for the next call."""
        self._spare = tape

    def n_kept(self, ca_steps: int) -> int:
        """Return the number of CA steps whose states are kept at a time for the backward pass."""
        return math.ceil(math.sqrt(ca_steps)) if self._recompute else ca_steps


@dataclass(frozen=True)
class _RolloutContext:
    """The inputs of a rollout that get no gradients."""

    owner: Rollout  # lends the tape
    model: Automaton
    ca_steps: int
    generator: torch.Generator | None  # the stream `masks`
    normalize: bool  # the gradient, at every CA step
    make_rule: Callable[..., Rule]  # constructs the rule from its weights
    has_backward: bool  # `ctx.needs_input_grad` is true for parameters under `no_grad` too

    def run(self, rule: Rule, tape: Tape, n_steps: int, generator: torch.Generator | None) -> None:
        """Compute `n_steps` CA steps on the tape, from the interior of its first state."""
        shape = tape.states[0].interior.permute(0, 3, 1, 2)
        for mask in tape.masks[:n_steps]:
            mask.copy_(self.model.draw_mask(shape, generator).permute(0, 2, 3, 1))
        rule.roll(tape, n_steps, clamp=self.model.config.clamp)

    def recompute(self, rule: Rule, tape: Tape, segment: _Segment) -> None:
        """Compute a segment again with the same masks; the stream `masks` does not advance."""
        assert segment.start is not None
        tape.states[0].interior.copy_(segment.start)
        generator = None
        if segment.generator_state is not None:
            generator = torch.Generator(segment.start.device).set_state(segment.generator_state)
        self.run(rule, tape, segment.n_steps, generator)


@dataclass(frozen=True)
class _Segment:
    """Consecutive CA steps that are on the tape at the same time."""

    n_steps: int
    start: Tensor | None = None  # (batch, height, width, channel) before them, if they may be recomputed
    generator_state: Tensor | None = None  # of the stream `masks` before them, likewise


class _Rollout(torch.autograd.Function):
    """A whole rollout as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, context: _RolloutContext, state: Tensor, *weights: Tensor) -> Tensor:
        rule, generator = context.make_rule(*weights), context.generator
        has_backward, ca_steps = context.has_backward, context.ca_steps
        n_kept = context.owner.n_kept(ca_steps) if has_backward else min(ca_steps, 1)
        tape = context.owner.acquire_tape(state, n_kept, context.model.mask_channels, rule.grid)
        first = tape.states[0].interior
        first.copy_(state.permute(0, 2, 3, 1))
        segments: list[_Segment] = []
        for done in range(0, ca_steps, n_kept) if ca_steps else (0,):
            n_steps = min(n_kept, ca_steps - done)
            if segments:
                first.copy_(tape.states[n_kept].interior)
            if has_backward and n_kept < ca_steps:
                generator_state = None if generator is None else generator.get_state()
                segments.append(_Segment(n_steps, first.contiguous(), generator_state))
            else:
                segments.append(_Segment(n_steps))
            context.run(rule, tape, n_steps, generator)
        ctx.save_for_backward(*weights)
        ctx.context, ctx.tape, ctx.segments = context, tape, segments
        ctx.on_tape = segments[-1]
        weakref.finalize(ctx, context.owner.release_tape, tape).atexit = False
        final = tape.states[segments[-1].n_steps].interior.permute(0, 3, 1, 2)
        return final.clone(memory_format=rule.grid.memory_format)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        context, tape = ctx.context, ctx.tape
        rule = context.make_rule(*ctx.saved_tensors)
        grad = rule.grid.copy(grad_output)
        for segment in reversed(ctx.segments):
            if segment is not ctx.on_tape:
                context.recompute(rule, tape, segment)
                ctx.on_tape = segment
            options = {"clamp": context.model.config.clamp, "normalize": context.normalize}
            grad = rule.unroll(tape, segment.n_steps, grad, **options)
        return (None, grad.permute(0, 3, 1, 2), *rule.weight_grads())
