"""Ray's executor keeps the contract that the local one keeps, on a shared disk and with a storage."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from fsspec.implementations.local import LocalFileSystem

from sweeps import SweepError
from sweeps.executors.base import Ended, Executor
from sweeps.executors.ray import RayExecutor
from sweeps.executors.ray_task import StoredFolder
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


def make(cluster: Any, runs_dir: Path, storage_path: str | None = None) -> RayExecutor:
    return RayExecutor(
        contract.APPLICATION, runs_dir, cluster.address, storage_path=storage_path, module="contract_trial"
    )


@pytest.fixture(params=["shared disk", "storage"])  # type: ignore[no-redef]  # replaces that of the contract
def executor(cluster: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    storage = tmp_path / "storage"
    storage.mkdir()
    made = make(cluster, tmp_path, f"file://{storage}" if request.param == "storage" else None)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("storage_path", "message"),
    [
        (None, r"runs_dir=.*/runs: node \S+ does not see it; give executor\.storage_path, an address that"),
        ("memory://nca", r"executor\.storage_path=memory://nca: node \S+ does not see it; give"),
        ("file://TMP/missing", r"executor\.storage_path=.*: cannot be used \(.*No such file or directory"),
        ("nowhere://bucket", r"executor\.storage_path=nowhere://bucket: cannot be used \(.*nowhere"),
    ],
)
def test_a_storage_that_nodes_do_not_reach_is_refused_before_anything_is_created(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage_path: str | None, message: str
) -> None:
    if storage_path is None:  # a disk of the coordinator's own, where nodes do not find what it writes
        monkeypatch.setattr(LocalFileSystem, "pipe_file", lambda *_: None)
        monkeypatch.setattr(LocalFileSystem, "rm", lambda *_: None)
    with pytest.raises(SweepError, match=message):
        make(cluster, tmp_path / "runs", storage_path and storage_path.replace("TMP", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stored(cluster: Any, tmp_path: Path) -> Iterator[RayExecutor]:
    """Return an executor whose storage is the folder `storage`."""
    (tmp_path / "storage").mkdir()
    made = make(cluster, tmp_path, f"file://{tmp_path}/storage")
    yield made
    made.close()


def test_a_storage_that_cannot_be_written_when_a_trial_starts_is_one_line(
    stored: RayExecutor, tmp_path: Path
) -> None:
    (tmp_path / "storage").rmdir()
    (tmp_path / "storage").write_text("no folder any more")
    with pytest.raises(
        SweepError, match=r"storage_path=.*: cannot be written \(.*\); the same command continues"
    ):
        contract.start(stored, tmp_path, 0, "")
    assert stored.wait(0.0) == []


def test_a_storage_that_cannot_be_read_when_a_trial_ends_is_reported_in_its_log(
    stored: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the storage has gone")

    monkeypatch.setattr(StoredFolder, "download", fail)  # in this process
    contract.start(stored, tmp_path, 0, "")
    assert contract.wait_for(stored) == [Ended(0, signal=0, exit_code=0)]
    assert "cannot be read (the storage has gone)" in contract.log(tmp_path, 0)


def test_a_storage_that_fails_for_a_while_costs_nothing(stored: RayExecutor, tmp_path: Path) -> None:
    contract.start(stored, tmp_path, 0, "import time; print('begun', flush=True); time.sleep(14)")
    contract.wait_until_begun(stored, tmp_path, 0)
    (tmp_path / "storage").rename(tmp_path / "elsewhere")
    (tmp_path / "storage").write_text("no folder for a while")
    time.sleep(6)
    (tmp_path / "storage").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "storage")
    assert contract.wait_for(stored) == [Ended(0, signal=0, exit_code=0)]
    assert contract.log(tmp_path, 0).startswith("begun\n")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [],
            r"error: sweep\.storage=sqlite:///.*: a file, which nodes .* do not share; give the address of a",
        ),
        (
            ["sweep.storage=postgresql+psycopg://u@h/d"],
            r"error: executor\.storage_path=memory://nca: node \S+ ",
        ),
    ],
    ids=["a file", "a storage that nodes do not see"],
)
def test_a_command_that_nodes_cannot_follow_is_refused_in_one_line(
    cluster: Any, tmp_path: Path, overrides: list[str], message: str
) -> None:
    command = [sys.executable, "-m", "nca.sweep", "-m", "texture=roundleaf", "features=random_filters"]
    command += ["tracking=none", "device=cpu", f"runs_dir={tmp_path / 'runs'}", *overrides]
    command += ["executor=ray", f"executor.address={cluster.address}", "executor.storage_path=memory://nca"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.match(message, done.stderr)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_fails_to_serve_is_asked_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init, refusals = ray.init, [REFUSAL, REFUSAL]

    def connect(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return init(*arguments, **options)

    monkeypatch.setattr(ray, "init", connect)
    ray.shutdown()
    executor = make(cluster, tmp_path)
    assert executor.n_slots > 0
    executor.close()


def test_a_cluster_that_never_serves_is_refused_with_its_reason(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise REFUSAL

    monkeypatch.setattr(ray, "init", connect)
    ray.shutdown()
    with pytest.raises(SweepError, match=r"starts no server for this sweep \(RuntimeError: no channel\)"):
        make(cluster, tmp_path)
