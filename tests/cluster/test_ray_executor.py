"""Ray's executor keeps the contract that the local one keeps, on a shared disk and without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from sweeps import SweepError
from sweeps.executors.base import Executor
from sweeps.executors.ray import RayExecutor
from tests.cluster.ray_cluster import run_cluster
from tests.contracts import test_executor_contract as contract
from tests.contracts.test_executor_contract import *  # noqa: F403

ROOT = Path(__file__).parents[2]
REFUSAL = ConnectionAbortedError(
    "Initialization failure from server:\nTraceback: ...\nRuntimeError: no channel\n"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a cluster of two nodes with a slot each."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "contract_trial.py").write_text(contract.MODULE)
    with run_cluster(f"{modules}:{ROOT}") as cluster:
        yield cluster


@pytest.fixture(params=["shared disk", "no shared disk"])
def executor(cluster: Any, request: pytest.FixtureRequest) -> Iterator[Executor]:
    shared = request.param == "shared disk"
    made = RayExecutor(contract.APPLICATION, cluster.address, shared_disk=shared, module="contract_trial")
    yield made
    made.close()


def test_a_cluster_that_fails_to_serve_is_asked_again(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    init, refusals = ray.init, [REFUSAL, REFUSAL]

    def connect(*words: Any, **named: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return init(*words, **named)

    monkeypatch.setattr(ray, "init", connect)
    ray.shutdown()
    executor = RayExecutor(contract.APPLICATION, cluster.address, module="contract_trial")
    assert executor.n_slots > 0
    executor.close()


def test_a_cluster_that_never_serves_is_refused_with_its_reason(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_words: Any, **_named: Any) -> None:
        raise REFUSAL

    monkeypatch.setattr(ray, "init", connect)
    ray.shutdown()
    with pytest.raises(SweepError, match=r"starts no server for this sweep \(RuntimeError: no channel\)"):
        RayExecutor(contract.APPLICATION, cluster.address, module="contract_trial")
