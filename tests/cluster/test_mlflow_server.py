"""Tracking through an MLflow server: whatever it misses waits on disk, arrives in order, and only once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from optuna.trial import TrialState

from nca.cli.errors import ConfigError
from nca.tracking.client import check_address, is_unavailable
from nca.tracking.outbox import Outbox, find_outboxes
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import MlflowTracker
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import find_study
from tests.cluster.mlflow_server import MlflowServer, run_mlflow_server

USER, SECRET = "keeper", "none but the keeper knows"
AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/logins.db
admin_username = {user}
admin_password = {secret}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
N_STEPS = 40
TIMEOUT_S = 240.0
PIXELS = np.full((16, 16, 3), 128, dtype=np.uint8)
SMALL = [
    "texture=roundleaf",
    "model=distill",
    "features=random_filters",
    "train.size=16",
    "train.min_ca_steps=null",
    "train.max_ca_steps=12",
    "outputs.robustness=false",
    "executor.workers=2",
    "executor.threads=1",
    "device=cpu",
]


@pytest.fixture
def store(mlflow_server: MlflowServer) -> MlflowStore:
    return MlflowStore(mlflow_server.uri)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a run, where runs have theirs."""
    return tmp_path / "runs" / "trials" / "leaf" / "0"


@pytest.fixture
def experiment(store: MlflowStore, tmp_path: Path) -> str:
    return store.experiments.open("leaf", tmp_path / "never")


def record_all(tracker: MlflowTracker, folder: Path, first: int = 0) -> None:
    """Record one of everything, and losses from a step on to the end."""
    losses = [1.0 / (step + 1) for step in range(N_STEPS)]
    for n in range(first + 10, N_STEPS + 1, 10):
        tracker.log_losses(losses[:n], now=True)
    tracker.log_metrics({"final_loss": losses[-1], "n_parameters": 7.0}, N_STEPS - 1)
    tracker.log_image(PIXELS, 0)
    tracker.log_image(PIXELS, N_STEPS - 1)
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "viewer.html").write_text("<p>alive</p>")
    assert tracker.log_files(folder / "artifacts")
    tracker.log_text("one line", "note.txt")
    tracker.set_tags({"reason": "complete"})
    tracker.finish("FINISHED")


def check_all(uri: str, run_id: str) -> None:
    """See that the run holds each of these, once."""
    client = MlflowClient(uri)
    losses = [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")]
    assert losses == [(step, 1.0 / (step + 1)) for step in range(N_STEPS)]
    for key in ("final_loss", "n_parameters"):
        assert [m.step for m in client.get_metric_history(run_id, key)] == [N_STEPS - 1]
    pictures = [f.path for f in client.list_artifacts(run_id, "images") if f.path.endswith(".png")]
    assert len(pictures) == 2
    assert {"viewer.html", "note.txt"} <= {f.path for f in client.list_artifacts(run_id)}
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["reason"], run.data.params) == ("FINISHED", "complete", {"a": "1"})


def run_of(client: MlflowClient, experiment: str, name: str) -> str:
    (found,) = [r for r in client.search_runs([experiment]) if r.info.run_name == name]
    return str(found.info.run_id)


def deliver(uri: str, runs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nca.studies", "deliver", f"tracking.uri={uri}", f"runs_dir={runs}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_artifacts_go_through_the_server(
    mlflow_server: MlflowServer, store: MlflowStore, experiment: str, folder: Path, tmp_path: Path
) -> None:
    tracker = store.open_run(folder, experiment, "trial 0", params={"a": 1})
    record_all(tracker, folder)
    assert tracker.run_id is not None
    check_all(mlflow_server.uri, tracker.run_id)
    assert (mlflow_server.folder / "kept").is_dir()
    assert not (tmp_path / "never").exists()
    assert store.fetch(tracker.run_id, "viewer.html").read_text() == "<p>alive</p>"


@pytest.mark.parametrize("away_from", ["creation", "first loss", "middle"])
def test_what_the_server_misses_is_delivered_later_in_order_and_once(
    mlflow_server: MlflowServer,
    store: MlflowStore,
    experiment: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    away_from: str,
) -> None:
    runs = folder.parents[2]
    if away_from == "creation":
        mlflow_server.stop()
    tracker = store.open_run(folder, experiment, "trial 0", params={"a": 1})
    if away_from == "middle":
        tracker.log_losses([1.0 / (step + 1) for step in range(20)], now=True)
    mlflow_server.stop()
    began = time.monotonic()
    record_all(tracker, folder, 20 if away_from == "middle" else 0)
    assert time.monotonic() - began < 10  # training would have gone on
    assert "records of this run wait for the MLflow server" in capsys.readouterr().out
    refused = deliver(mlflow_server.uri, runs)
    assert refused.returncode == 2
    assert "still unavailable" in refused.stderr
    assert "Traceback" not in refused.stderr
    ended_at = time.time()
    time.sleep(1.0)
    mlflow_server.start()
    delivered = deliver(mlflow_server.uri, runs)
    assert delivered.stdout == f"delivered the records of 1 runs to {mlflow_server.uri}\n", delivered.stderr
    client = MlflowClient(mlflow_server.uri)
    run_id = run_of(client, experiment, "trial 0")
    check_all(mlflow_server.uri, run_id)
    assert client.get_run(run_id).info.end_time < ended_at * 1000  # as it was, not when it was delivered
    assert not find_outboxes(runs, mlflow_server.uri)
    assert "no records in" in deliver(mlflow_server.uri, runs).stdout


class AnswersGetLost:
    """A client whose every second call that writes does so, and then fails as if there had been no answer."""

    def __init__(self, client: Any) -> None:
        self.client, self.n_writes = client, 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            result = getattr(self.client, name)(*args, **options)
            if name.startswith(("log_", "set_", "update_", "create_")):
                self.n_writes += 1
                if self.n_writes % 2:
                    raise requests.ConnectionError("the answer was lost")
            return result

        return call


def test_an_answer_that_is_lost_doubles_nothing(
    mlflow_server: MlflowServer, experiment: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nca.tracking.tracker.MIN_BACKOFF_S", 0.0)
    client = AnswersGetLost(MlflowClient(mlflow_server.uri))
    outbox = Outbox(folder, mlflow_server.uri)
    tracker = MlflowTracker(client, None, outbox)  # type: ignore[arg-type]  # it answers as a client
    tracker.create(experiment, "lossy", params={"a": 1})
    record_all(tracker, folder)
    for _ in range(2 * N_STEPS):
        if tracker.deliver():
            break
    assert client.n_writes > 12  # each record was tried twice
    check_all(mlflow_server.uri, run_of(client.client, experiment, "lossy"))


def test_a_run_resumed_while_the_server_is_unavailable_has_neither_gap_nor_overlap(
    mlflow_server: MlflowServer, store: MlflowStore, experiment: str, folder: Path
) -> None:
    losses = [1.0 / (step + 1) for step in range(N_STEPS)]
    first = store.open_run(folder, experiment, "trial 0", params={"a": 1})
    first.log_losses(losses[:25], now=True)
    mlflow_server.stop()  # and the worker dies; its checkpoint is of step 10
    resumed = MlflowStore(mlflow_server.uri).open_run(folder, experiment, "trial 0", params={"a": 1})
    resumed.log_losses(losses[:10], now=True)
    resumed.log_losses(losses[:30], now=True)
    mlflow_server.start()
    record_all(resumed, folder, 20)
    assert resumed.deliver()
    assert resumed.run_id == first.run_id
    check_all(mlflow_server.uri, str(resumed.run_id))


def test_what_a_server_refuses_for_good_is_no_absence(
    mlflow_server: MlflowServer, store: MlflowStore, experiment: str, folder: Path
) -> None:
    tracker = store.open_run(folder, experiment, "trial 0", params={"a": 1})
    with pytest.raises(Exception, match="param") as caught:
        tracker.create(experiment, "trial 0", params={"a": 2}, folder=folder)
    assert not is_unavailable(caught.value)
    assert not len(Outbox(folder, mlflow_server.uri))


def curves(client: MlflowClient, experiment: str) -> dict[str, list[tuple[int, float]]]:
    return {
        str(run.info.run_name): [
            (m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")
        ]
        for run in client.search_runs([experiment])
        if "optuna_trial" in run.data.tags
    }


def test_a_sweep_goes_on_while_the_server_is_away(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    runs, n_steps, n_trials = tmp_path / "runs", 150, 6
    overrides = [*SMALL, f"train.steps={n_steps}", f"sweep.n_trials={n_trials}", f"runs_dir={runs}"]
    overrides += ["sweep.study=leaf", "sampler=random", f"tracking.uri={mlflow_server.uri}"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "nca.sweep", "-m", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    progress = runs / "trials" / "leaf" / "0" / "progress.json"
    until = time.monotonic() + TIMEOUT_S
    while not (progress.exists() and json.loads(progress.read_text())["n_steps"] > 10):
        assert time.monotonic() < until
        time.sleep(0.1)
    mlflow_server.stop()
    time.sleep(20.0)
    mlflow_server.start()
    output = sweep.communicate(timeout=TIMEOUT_S)[0]
    assert sweep.returncode == 0, output
    study = find_study(open_storage(f"sqlite:///{runs}/optuna.db"), "leaf")
    assert study is not None
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE] * n_trials
    if find_outboxes(runs, mlflow_server.uri):
        assert "have records that wait for MLflow: python -m nca.studies deliver" in output
        assert deliver(mlflow_server.uri, runs).returncode == 0
    client = MlflowClient(mlflow_server.uri)
    found = client.get_experiment_by_name("leaf")
    assert found is not None
    stored = curves(client, found.experiment_id)
    assert len(stored) == n_trials
    assert all([step for step, _ in curve] == list(range(n_steps)) for curve in stored.values())
    status = {run.info.status for run in client.search_runs([found.experiment_id])}
    assert status == {"FINISHED"}


@pytest.fixture
def guarded_server(mlflow_uri: str, tmp_path: Path) -> Iterator[MlflowServer]:
    """Return a running server that asks for a login."""
    folder = tmp_path / "server"
    folder.mkdir()
    config = folder / "auth.ini"
    config.write_text(AUTH.format(folder=folder, user=USER, secret=SECRET))
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
    with run_mlflow_server(folder, mlflow_uri, "--app-name=basic-auth", environment=environment) as server:
        yield server


def test_a_login_comes_from_the_environment_and_goes_nowhere_else(
    guarded_server: MlflowServer, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    overrides = [*SMALL, "train.steps=20", "sweep.n_trials=1", "sweep.study=leaf", f"runs_dir={runs}"]
    overrides.append(f"tracking.uri={guarded_server.uri}")

    def sweep(**login: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nca.sweep", "-m", *overrides],
            env={**os.environ, **login},
            capture_output=True,
            text=True,
            check=False,
        )

    with pytest.raises(ConfigError, match=r"the server asks for a login and refuses the one given"):
        check_address(guarded_server.uri)
    refused = sweep(MLFLOW_TRACKING_USERNAME=USER, MLFLOW_TRACKING_PASSWORD="a wrong one")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        f"error: tracking.uri={guarded_server.uri}: the server asks for a login and "
    )
    assert refused.stderr.count("\n") == 1
    assert not runs.exists()
    done = sweep(MLFLOW_TRACKING_USERNAME=USER, MLFLOW_TRACKING_PASSWORD=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    study = find_study(open_storage(f"sqlite:///{runs}/optuna.db"), "leaf")
    assert study is not None
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE]
    assert SECRET not in done.stdout + done.stderr
    holders = [file for file in runs.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert not holders
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        client = MlflowClient(guarded_server.uri)
        run_id = study.get_trials()[0].user_attrs["mlflow_run_id"]
        assert {"viewer.html", "output.png"} <= {file.path for file in client.list_artifacts(run_id)}
