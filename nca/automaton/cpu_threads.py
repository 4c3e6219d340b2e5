"""Threads for the compiled loops: shares of the blocks, and a meeting point within a loop."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils

from nca.automaton.cpu_compiler import compiled
from nca.automaton.cpu_strips import intrinsic

INT = ir.IntType(64)
# A thread that sleeps at once comes late itself, and the next sleeps too; one that never does takes a core.
READS_BEFORE_YIELD = 10_000
READS_BEFORE_SLEEP = READS_BEFORE_YIELD + 2_000  # a millisecond or more
SLEEP_US = 100
FREE_ALL = 2**62  # more than all arrivals


def run_blocks(kernel: Callable[..., None], n_blocks: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, first, last)` for all blocks, in as many threads as PyTorch uses."""
    _run_shares(functools.partial(kernel, *arguments), _share(n_blocks))


def run_together(kernel: Callable[..., None], n_blocks: int, *arguments: Any) -> None:
    """Call `kernel(*arguments, team, first, last)` likewise; its threads may `meet(team)`."""
    shares, counter = _share(n_blocks), np.zeros(1, np.int64)
    call = functools.partial(kernel, *arguments, (counter, len(shares)))
    _, lock = _threads(os.getpid(), torch.get_num_threads() - 1)
    with lock:  # half of one team and half of another would wait for the rest of theirs
        try:
            _run_shares(call, shares)
        except BaseException:  # a thread could not be started: the others must not wait for it
            counter[0] = FREE_ALL
            raise


def _share(n_blocks: int) -> list[tuple[int, int]]:
    n_threads = torch.get_num_threads()
    ends = [n_blocks * index // n_threads for index in range(n_threads + 1)]
    return [(first, last) for first, last in itertools.pairwise(ends) if first < last]


def _run_shares(call: Callable[[int, int], None], shares: list[tuple[int, int]]) -> None:
    threads, _ = _threads(os.getpid(), torch.get_num_threads() - 1)
    others = [threads.submit(call, *share) for share in shares[1:]]
    for share in shares[:1]:  # none of no blocks
        call(*share)
    for other in others:
        other.result()


@functools.lru_cache(maxsize=1)
def _threads(process: int, n_threads: int) -> tuple[ThreadPoolExecutor, threading.Lock]:
    """Return further threads of this process, those of a parent do not survive a fork, and a lock."""
    return ThreadPoolExecutor(max(1, n_threads), f"rollout of {process}"), threading.Lock()


@compiled
def meet(team: Any) -> None:
    """Wait until all threads of a team have come here."""
    counter, n_threads = team
    if n_threads > 1:
        arrival, n_reads = _count_arrival(counter), 0
        goal = 0 if arrival >= FREE_ALL else (arrival // n_threads + 1) * n_threads
        while _read(counter) < goal:
            n_reads += 1
            if n_reads > READS_BEFORE_SLEEP:
                _sleep()
            elif n_reads > READS_BEFORE_YIELD:
                _yield_core()


@intrinsic
def _count_arrival(_: Any, counter: Any) -> Any:
    """Add 1 to a counter that threads share; return what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", pointer, INT(1), "seq_cst")

    return types.int64(counter), generate


@intrinsic
def _read(_: Any, counter: Any) -> Any:
    """Return a counter that threads share, and see all that they wrote before they changed it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(counter), generate


@intrinsic
def _yield_core(_: Any) -> Any:
    """Let another thread run on this core, if one waits for it."""
    return types.void(), functools.partial(_call, "sched_yield")


@intrinsic
def _sleep(_: Any) -> Any:
    """Let this core rest for a while."""
    return types.void(), functools.partial(_call, "usleep", SLEEP_US)


def _call(name: str, *rest: Any) -> Any:
    """Generate the call of a function of the C library."""
    *numbers, context, builder, _, _ = rest
    kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32)] * len(numbers))
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [ir.Constant(ir.IntType(32), number) for number in numbers])
    return context.get_dummy_value()
