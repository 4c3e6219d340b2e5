"""Threads of the compiled loops wait for each other, and never for one that does not come."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch

from nca.automaton import cpu_threads
from nca.automaton.cpu_compiler import compiled
from nca.automaton.cpu_threads import meet, run_together
from nca.automaton.fast_rollout import Rollout
from tests.builders import automaton, generator

N_THREADS, N_ROUNDS = 4, 200


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    yield
    torch.set_num_threads(before)


@compiled
def relax(values: Any, n_rounds: int, team: Any, first: int, last: int) -> None:
    """Set each value to the sum of the two beside it, in rounds; each is one thread's."""
    n = values.shape[1]
    for step in range(n_rounds):
        old, new = values[step % 2], values[1 - step % 2]
        for k in range(first, last):
            new[k] = (old[k - 1] + old[(k + 1) % n]) % 1_000_003
        meet(team)


def test_no_thread_is_ahead_of_another() -> None:
    found = []
    for n_threads in (1, N_THREADS):
        torch.set_num_threads(n_threads)
        values = np.stack([np.arange(7), np.zeros(7, np.int64)])
        run_together(relax, 7, values, N_ROUNDS)
        found.append(values)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("name", ["distill", "munca"])
def test_rollouts_of_several_threads_at_once_end_and_are_those_of_one(name: str) -> None:
    model = automaton(name)
    state = torch.rand(2, model.channels, 64, 64, generator=generator(1))

    def roll(_: int) -> torch.Tensor:
        with torch.no_grad():
            final: torch.Tensor = Rollout()(model, state, 5, generator(2))
        return final

    expected = roll(0)
    with ThreadPoolExecutor(3) as users:
        for final in users.map(roll, range(30), timeout=60):
            assert torch.equal(final, expected)


def test_threads_do_not_wait_for_one_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(ThreadPoolExecutor):
        """Has room for one thread."""

        started: Future[None] | None = None

        def submit(self, *call: Any) -> Future[None]:  # type: ignore[override]
            if self.started is not None:
                raise RuntimeError("can't start new thread")
            self.started = super().submit(*call)
            return self.started

    full = Full(1)
    monkeypatch.setattr(cpu_threads, "_threads", lambda *_: (full, Lock()))
    with pytest.raises(RuntimeError, match="new thread"):
        run_together(relax, 7, np.zeros((2, 7), np.int64), N_ROUNDS)
    assert full.started is not None
    full.started.result(timeout=60)
