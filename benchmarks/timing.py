"""Times training steps and rollouts, ours and the reference algorithm's alternately, on CPU or GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch

from benchmarks.cases import (
    CPU,
    Case,
    Precision,
    make_model,
    make_ours,
    make_reference,
    reference_parameters,
)
from benchmarks.reference import rollout as reference_rollout
from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import plain_rollout
from nca.automaton.seeding import Streams
from nca.training.device import allow_tf32

ROUNDS = 7
MATRIX_SIDE = 2048
CALLS_PER_ROUND = {"cpu": 1, "cuda": 10}  # a GPU is synchronized once per round


def time_alternately(
    runs: dict[str, Callable[[int], object]], device: torch.device = CPU, rounds: int = ROUNDS
) -> dict[str, float]:
    """Return the median seconds per call of each function over some rounds, after a warm-up round.

    Args:
        runs: Functions of an increasing number, by name; TF32 products are allowed for names that begin with
            tf32.
        device: Device to synchronize.
        rounds: Rounds that count.
    """
    n_calls = CALLS_PER_ROUND[device.type]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            allow_tf32(name.startswith("tf32"))
            _synchronize(device)
            start = time.perf_counter()
            for repeat in range(n_calls):
                run(number * n_calls + repeat)
            _synchronize(device)
            seconds[name].append((time.perf_counter() - start) / n_calls)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(
    case: Case, variants: Sequence[str], device: torch.device = CPU, rounds: int = ROUNDS
) -> dict[str, float]:
    """Return seconds per training step of a baseline and of ours with each of the given options.

    The baseline comes first: `reference` of the rule srnca, or `plain` of the others.

    Args:
        case: The configuration.
        variants: A precision each, optionally followed by ", graph" for CUDA graphs.
        device: Device of the training.
        rounds: Rounds that count.
    """
    runs: dict[str, Callable[[int], object]] = {}
    if case.rule == "srnca":
        theirs = make_reference(case, device=device)
        fresh = torch.rand(case.channels, case.size_px, case.size_px, device=device)
        rows = list(range(case.batch_size))
        runs["reference"] = lambda number: theirs.train_step(number, rows, case.ca_steps, fresh)
    else:
        runs["plain"] = make_ours(case, device=device, plain=True).train_step
    for variant in variants:
        precision, _, graph = variant.partition(", ")
        ours = make_ours(case, cast("Precision", precision), device=device, cuda_graph=bool(graph))
        runs[variant] = ours.train_step
    return time_alternately(runs, device, rounds)


def time_rollouts(case: Case, device: torch.device = CPU, rounds: int = ROUNDS) -> dict[str, float]:
    """Return seconds per rollout of `case.ca_steps`, forward and backward: a baseline and `fp32` (ours).

    The baseline comes first, as for `time_steps`.

    `product` is a matrix product of side `MATRIX_SIDE`, timed alternately with them because a machine's speed
    varies.
    """
    shape = (case.batch_size, case.channels, case.size_px, case.size_px)
    state = (0.2 if case.rule == "srnca" else -0.3) + 0.6 * torch.rand(shape, device=device)
    model = make_model(case, Streams(0, CPU)).to(device)
    parameters = reference_parameters(case, device) if case.rule == "srnca" else {}
    for name in parameters.keys() - {"filters"}:
        parameters[name].requires_grad_()
    fast, generator = Rollout(), torch.Generator(device)

    def theirs(_: int) -> None:
        reference_rollout(state, parameters, case.ca_steps, case.update_rate)[:, :3].sum().backward()

    def plain(_: int) -> None:
        plain_rollout(model, state, case.ca_steps, generator)[:, :3].sum().backward()

    def ours(_: int) -> None:
        fast(model, state, case.ca_steps, generator)[:, :3].sum().backward()

    matrix = torch.rand(MATRIX_SIDE, MATRIX_SIDE, device=device)
    baseline = {"reference": theirs} if case.rule == "srnca" else {"plain": plain}
    return time_alternately({**baseline, "fp32": ours, "product": lambda _: matrix @ matrix}, device, rounds)


def speedup(seconds: dict[str, float], variant: str = "fp32") -> float:
    """Return the factor by which a variant of ours is faster than the baseline, which comes first."""
    return next(iter(seconds.values())) / seconds[variant]
