"""A run uses the threads that its container has time for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from nca.training import device


@pytest.fixture
def threads() -> Iterator[None]:
    """Begin with four threads, and restore their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("quota", "given", "expected"),
    [(1.5, None, 2), (0.1, None, 1), (8.0, None, 4), (math.inf, None, 4), (1.5, "4", 4)],
)
def test_threads_are_limited_to_the_cpu_time_of_a_container(
    monkeypatch: pytest.MonkeyPatch, quota: float, given: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(device, "cpu_quota", lambda: quota)
    device.limit_threads()
    assert torch.get_num_threads() == expected
