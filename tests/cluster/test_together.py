"""Real trials on two Ray nodes that share a storage, a study in PostgreSQL, runs in an MLflow server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from nca.records.paths import RecordPaths
from sweeps.trials import FIRST_ATTEMPT, RETRY_OF, final_trials, reason_of
from tests.cluster.mlflow_server import MlflowServer, run_mlflow_server
from tests.cluster.postgres import Postgres
from tests.cluster.ray_cluster import run_cluster
from tests.sweeps.launching import read_trials, wait_until

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400.0
N_STEPS, N_TRIALS = 300, 4
SMALL = [
    "texture=roundleaf",
    "model=distill",
    "features=random_filters",
    "train.size=16",
    f"train.steps={N_STEPS}",
    "train.min_ca_steps=null",
    "train.max_ca_steps=12",
    "train.checkpoint_every=10",
    "train.checkpoint_every_s=0",
    "outputs.robustness=false",
    "sampler=random",
    "device=cpu",
    f"sweep.n_trials={N_TRIALS}",
    "sweep.study=leaf",
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of two nodes with a slot each."""
    with run_cluster(str(ROOT)) as cluster:
        yield cluster


@pytest.fixture
def server(postgres: Postgres, tmp_path: Path) -> Iterator[MlflowServer]:
    """Return an MLflow server whose store is in PostgreSQL too."""
    folder = tmp_path / "server"
    folder.mkdir()
    with run_mlflow_server(folder, postgres.create("mlflow")) as server:
        yield server


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Return the folder in which the nodes keep those of their trials."""
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


def run(*overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nca.sweep", "-m", *SMALL, *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_lost_node_costs_what_came_after_the_last_checkpoint(
    cluster: Any, postgres: Postgres, server: MlflowServer, storage: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    where = [f"sweep.storage={postgres.address}", f"tracking.uri={server.uri}", f"runs_dir={runs}"]
    ray = ["executor=ray", f"executor.address={cluster.address}", f"executor.storage_path=file://{storage}"]
    sweep = run(*where, *ray)
    lost = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    wait_until(lambda: len({file.parent for file in storage.glob("leaf/*/checkpoints/*.safetensors")}) == 2)
    time.sleep(1.0)
    cluster.remove_node(lost, allow_graceful=False)
    output = sweep.communicate(timeout=TIMEOUT_S)[0]
    assert sweep.returncode == 0, output
    trials = read_trials(postgres.address, "leaf")
    ended = final_trials(trials)
    assert [reason_of(trial) for trial in ended] == ["complete"] * N_TRIALS
    (retry,) = [trial for trial in trials if RETRY_OF in trial.user_attrs]
    first = runs / "trials" / "leaf" / str(retry.user_attrs[FIRST_ATTEMPT])
    assert "continues from its checkpoint after step" in (first / "log.txt").read_text()
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("leaf")
    assert experiment is not None
    found = [r for r in client.search_runs([experiment.experiment_id]) if "optuna_trial" in r.data.tags]
    assert len(found) == N_TRIALS
    for each in found:
        run_id = each.info.run_id
        assert each.info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(N_STEPS))
        kept = {file.path for file in client.list_artifacts(run_id)}
        assert {"viewer.html", "output.png", "model.safetensors", "log.txt", "images"} <= kept
        assert not client.list_artifacts(run_id, "checkpoints")
    for trial in ended:
        folder = runs / "trials" / "leaf" / str(trial.user_attrs.get(FIRST_ATTEMPT, trial.number))
        assert (folder / "output.png").exists()
        assert not (folder / "run_id").exists()
    assert list((runs / "artifacts" / "optuna").iterdir())  # the dashboard's pictures
    assert not [file for file in storage.rglob("*") if file.is_file()]
    assert RecordPaths(runs, postgres.address, server.uri).find_target("leaf") is not None

    # What came of it is what an undisturbed sweep on this machine brings, to the last bit.
    local = tmp_path / "local"
    alone = run("tracking=none", f"runs_dir={local}", "executor.workers=1", "executor.threads=1")
    assert alone.wait(TIMEOUT_S) == 0
    assert alone.stdout is not None
    alone.stdout.close()
    expected = final_trials(read_trials(f"sqlite:///{local}/optuna.db", "leaf"))
    assert sorted(t.values[0] for t in ended) == sorted(t.values[0] for t in expected)
