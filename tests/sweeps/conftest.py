from __future__ import annotations

from pathlib import Path

import pytest

from tests import forked
from tests.sweeps.launching import hasten

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _workers_find_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    forked.load()


@pytest.fixture(autouse=True)
def _coordinators_are_hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
