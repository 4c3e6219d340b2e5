"""MLflow's store may be another from one command to the next; one that is not to be had is one line."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import nca.study.application
from nca.cli.errors import ConfigError
from nca.study.application import TextureSweep
from nca.tracking.client import check_address
from nca.tracking.store import MlflowStore
from tests.builders import trial_config
from tests.templates import make_mlflow_database

STUDY = "leaf"
SPACE = {"model.channels": "choice(9, 12)"}
SETTINGS = {
    "sweep": {"study": STUDY, "objectives": ["final_loss"], "space": SPACE, "storage": "sqlite:///optuna.db"}
}


class Store:
    """A database of its own, and a study's config that records there."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{make_mlflow_database(folder) / 'mlflow.db'}"
        self.config = trial_config(folder.parent / "runs", uri=self.uri)
        self.client = MlflowClient(self.uri)

    def open(
        self,
        links: dict[str, str],
        uid: str = "ours",
        lock: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> dict[str, str]:
        config = asdict(self.config) | {"links": links, "uid": uid} | SETTINGS
        return TextureSweep().open_study(STUDY, config, lock)

    def status(self, run_id: str) -> str:
        return str(self.client.get_run(run_id).info.status)


@pytest.fixture
def stores(tmp_path: Path) -> list[Store]:
    return [Store(tmp_path / name) for name in ("first", "second")]


def test_a_study_keeps_its_parent_run(stores: list[Store]) -> None:
    first = stores[0]
    links = first.open({})
    TextureSweep().close_study(
        asdict(first.config) | SETTINGS, links, {"n_trials": 2.0, "best_value": 0.5}, None
    )
    assert first.status(links["mlflow_run_id"]) == "FINISHED"
    assert first.open(links) == links
    assert first.status(links["mlflow_run_id"]) == "RUNNING"
    run = first.client.get_run(links["mlflow_run_id"])
    assert run.data.metrics == {"n_trials": 2.0, "best_value": 0.5}
    assert (run.data.tags["optuna_study"], run.data.tags["texture"]) == (STUDY, "roundleaf")


def test_coordinators_that_begin_at_once_share_an_experiment_and_a_parent_run(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, lock, n = stores[0], threading.Lock(), 4
    together = threading.Barrier(n)

    def open_store(uri: str) -> MlflowStore:
        store = MlflowStore(uri)
        together.wait()
        return store

    monkeypatch.setattr(nca.study.application, "MlflowStore", open_store)
    with ThreadPoolExecutor(n) as threads:
        opened = [threads.submit(first.open, {}, lock=lambda: lock) for _ in range(n)]
    links = [each.result() for each in opened]
    assert links == [links[0]] * n
    assert len(first.client.search_runs([links[0]["mlflow_experiment_id"]])) == 1


def test_the_parent_run_tells_what_it_is_and_who_made_it(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stores
    monkeypatch.setenv("LOGNAME", "ada")
    tags = first.client.get_run(first.open({})["mlflow_run_id"]).data.tags
    assert tags["mlflow.user"] == "ada"
    described = tags["mlflow.note.content"].splitlines()
    assert described[0].startswith("**roundleaf** (drawn), 16 px, 12 steps, model srnca, loss gram, features")
    assert "| parameter | searched |" in described
    assert "| channels | choice(9, 12) |" in described
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)  # without a name
    tags = second.client.get_run(second.open({})["mlflow_run_id"]).data.tags
    assert tags["mlflow.user"] == str(2**31 - 5)


def test_a_study_goes_on_in_another_store_with_a_parent_run_of_its_own(stores: list[Store]) -> None:
    first, second = stores
    links = first.open({})
    moved = second.open(links)
    # The experiment's number is the same in both, so it alone tells nothing.
    assert moved["mlflow_experiment_id"] == links["mlflow_experiment_id"]
    assert moved["mlflow_run_id"] != links["mlflow_run_id"]
    assert second.client.get_run(moved["mlflow_run_id"]).info.run_name == STUDY


def test_a_study_of_the_same_name_is_refused_and_neither_adopts_repairs_nor_deletes_the_first(
    stores: list[Store],
) -> None:
    first = stores[0]
    links = first.open({})
    with pytest.raises(ConfigError, match="experiment 'leaf' belongs to another study of the same name"):
        first.open({}, uid="theirs")
    store = MlflowStore(first.uri)
    assert store.experiments.running_runs(STUDY, "theirs") == {}
    assert store.experiments.find(STUDY, "theirs") is None
    assert list(store.experiments.running_runs(STUDY, "ours")) == [links["mlflow_run_id"]]
    assert store.experiments.find(STUDY) == links["mlflow_experiment_id"]
    store.experiments.delete(links["mlflow_experiment_id"])  # the study itself has gone
    assert first.open({}, uid="theirs")


def test_a_study_begun_before_there_were_owners_gets_one(stores: list[Store], tmp_path: Path) -> None:
    experiment = MlflowStore(stores[0].uri).experiments.open(STUDY, tmp_path)
    assert stores[0].open({})["mlflow_experiment_id"] == experiment
    with pytest.raises(ConfigError, match="another study"):
        stores[0].open({}, uid="theirs")


def test_single_runs_are_resumed_by_their_own_folder_alone(stores: list[Store], tmp_path: Path) -> None:
    store = MlflowStore(stores[0].uri)
    experiment = store.experiments.open("single-runs", tmp_path)
    one, other = (store.open_run(tmp_path / name, experiment, "same").run_id for name in ("a", "b"))
    assert one != other
    (tmp_path / "a" / "run_id").unlink()  # as if its process had died before it could note it
    assert store.open_run(tmp_path / "a", experiment, "same").run_id == one


def test_a_study_without_tracking_keeps_its_links(stores: list[Store], tmp_path: Path) -> None:
    links = stores[0].open({})
    untracked = asdict(trial_config(tmp_path / "runs")) | {"links": links, "uid": "ours"} | SETTINGS
    assert TextureSweep().open_study(STUDY, untracked, contextlib.nullcontext) == links
    TextureSweep().close_study(untracked, links, {"n_trials": 1.0}, None)


def open_run(store: Store, links: dict[str, str], folder: Path) -> str:
    experiment = links["mlflow_experiment_id"]
    params = asdict(store.config)
    run_id = MlflowStore(store.uri).open_run(folder, experiment, "trial 0", params=params).run_id
    assert run_id is not None
    return run_id


def test_a_trial_is_resumed_in_its_run_or_gets_one_in_another_store(
    stores: list[Store], tmp_path: Path
) -> None:
    first, second = stores
    links, folder = first.open({}), tmp_path / "trial"
    begun = open_run(first, links, folder)
    assert open_run(first, links, folder) == begun
    moved = open_run(second, second.open(links), folder)
    assert moved != begun
    assert second.client.get_run(moved).data.params["model.channels"] == "4"


def test_a_dead_trials_run_is_ended_where_it_is(stores: list[Store], tmp_path: Path) -> None:
    first, second = stores
    links, folder = first.open({}), tmp_path / "trial"
    begun = open_run(first, links, folder)
    TextureSweep().close_trial(folder, asdict(second.config), "killed")
    assert first.status(begun) == "RUNNING"
    TextureSweep().close_trial(folder, asdict(first.config), "killed")
    assert first.status(begun) == "KILLED"
    assert first.client.get_run(begun).data.tags["reason"] == "killed"


def test_a_trial_that_died_before_its_run_began_has_nothing_to_end(
    stores: list[Store], tmp_path: Path
) -> None:
    TextureSweep().close_trial(tmp_path / "trial", asdict(stores[0].config), "killed")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mlruns", r"must begin with one of sqlite://, postgresql://"),
        ("file:///tmp/runs", r"must begin with one of"),
        ("sqlite://", r"trials cannot share a store in memory; give a file"),
        ("sqlite:///:memory:", r"trials cannot share a store in memory"),
        ("http://", r"no MLflow server answers there"),
    ],
)
def test_a_wrong_address_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking\.uri={uri}: {message}"):
        check_address(uri)


def test_a_server_that_is_not_there_is_refused_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(
            ConfigError, match=r"no MLflow server answers there; start it, or give tracking=none"
        ):
            check_address(uri)
    assert time.monotonic() - began < 5


class Answering(BaseHTTPRequestHandler):
    """A server that answers with a code, as one that asks for a login does."""

    def __init__(self, code: int, *args: Any) -> None:
        self.code = code
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()
        if self.code == HTTPStatus.OK:
            self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(params=[200])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    listening = HTTPServer(("127.0.0.1", 0), functools.partial(Answering, request.param))
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_server_that_answers_is_taken(server: str) -> None:
    check_address(server)


ASKED = """
import os, sys
from nca.cli.errors import ConfigError
from nca.tracking.client import check_address
try:
    check_address(sys.argv[1])
except ConfigError as error:
    print(error)
print(os.environ["MLFLOW_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize("server", [401], indirect=True)
def test_a_server_that_refuses_the_login_is_one_line_and_nobody_else_is_called(server: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_DISABLE_TELEMETRY"}
    argv = [sys.executable, "-c", ASKED, server]
    output = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    refused, telemetry_off = output.splitlines()
    assert refused.startswith(
        f"tracking.uri={server}: the server asks for a login and refuses the one given; set "
    )
    assert telemetry_off == "true"


@pytest.mark.parametrize("folder", ["/proc/none", "/dev/null/none"])
def test_a_store_that_cannot_be_made_is_one_line(folder: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tracking\.uri=sqlite:///{folder}/a\.db: cannot be opened \("):
        MlflowStore(f"sqlite:///{folder}/a.db")


def test_a_file_that_is_no_database_is_one_line_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("a diary, not a database\n" * 100)
    with pytest.raises(ConfigError, match=r"cannot be opened \(file is not a database\)$"):
        MlflowStore(f"sqlite:///{file}")
    assert file.read_text().startswith("a diary")


def test_a_database_of_another_program_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('another')")
    connection.close()
    with pytest.raises(ConfigError, match=r"cannot be opened \([^\n]*\)$"):
        MlflowStore(f"sqlite:///{file}")


def test_a_run_that_was_begun_and_lost_is_taken_by_the_next(stores: list[Store], tmp_path: Path) -> None:
    store = MlflowStore(stores[0].uri)
    experiment = store.experiments.open(STUDY, tmp_path / "artifacts")
    lost = store.create_run(experiment, "trial 0", parent_run_id="p")
    other = store.create_run(experiment, "trial 0", parent_run_id="q")
    assert other != lost
    assert store.create_run(experiment, "trial 0", parent_run_id="p", params={"a": 1}) == lost
    assert stores[0].client.get_run(lost).data.params == {"a": "1"}
    store.tracker(lost).finish("FINISHED")
    assert store.create_run(experiment, "trial 0", parent_run_id="p") not in {lost, other}


def test_a_coordinator_that_died_before_it_noted_the_parent_run_leaves_none(stores: list[Store]) -> None:
    first = stores[0].open({})  # its links were never stored
    assert stores[0].open({}) == first


def test_a_store_that_fills_up_is_one_line(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(*_: object, **__: object) -> None:
        raise MlflowException(
            "(sqlite3.OperationalError) database or disk is full\n(Background on this error)"
        )

    monkeypatch.setattr(MlflowClient, "log_batch", fill_up)
    line = r"^tracking\.uri=sqlite:.*: cannot be written \(.*disk is full\); existing records are kept, "
    with pytest.raises(ConfigError, match=line):
        stores[0].open({})
