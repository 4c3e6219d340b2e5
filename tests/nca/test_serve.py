"""What `python -m nca.serve` refuses and how it picks a port; that it serves is tested as a whole."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nca import serve
from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths
from nca.serve import LOOPBACK, PORTS, SHOWN_STUDIES, describe_pages, free_port
from nca.tracking.store import MlflowStore


def refuse(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ending:
        serve.main(argv)
    assert ending.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("argv", [[], ["mlflow"]])
def test_a_subcommand_is_required(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "give one of ui, dashboard; see python -m nca.serve --help\n" in refuse(argv, capsys)


@pytest.mark.parametrize("argument", ["prot=3", "runs_dir=", "port", "--port", "sweep.storage=sqlite:///a"])
def test_unknown_options_point_to_the_help(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(["ui", argument], capsys).endswith("; see python -m nca.serve --help\n")


@pytest.mark.parametrize(("kind", "store"), [("ui", "mlflow.db"), ("dashboard", "optuna.db")])
def test_a_missing_store_is_named(
    kind: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refuse([kind, f"runs_dir={tmp_path}"], capsys)
    assert error == f"error: {tmp_path / store} does not exist: run a sweep first, or give runs_dir=FOLDER\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "store"), [("ui", "mlflow.db"), ("dashboard", "optuna.db")])
def test_what_is_no_database_is_refused(
    kind: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / store).write_text("no database at all" * 100)
    error = refuse([kind, f"runs_dir={tmp_path}"], capsys)
    assert re.fullmatch(rf"error: .*{tmp_path / store}: cannot be \w+ \(file is not a database\)\n", error)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("foo", "cannot be opened (Could not parse SQLAlchemy URL"),
        ("sqlite:///none.db", "no such file; a sweep creates it"),
        ("sqlite:///a?b.db", "cannot be opened (an SQLite address cannot hold ? or %"),
        ("postgresql+psycopg://nca@127.0.0.1:1/db", "cannot be opened (connection"),
        ("nosuch://host/db", "cannot be opened (Can't load plugin: sqlalchemy.dialects:nosuch)"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused(
    address: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refuse(["dashboard", f"runs_dir={tmp_path}", f"sweep.storage={address}"], capsys)
    assert error.startswith(f"error: sweep.storage={address}: {reason}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80.5", "8" * 5000])
def test_what_is_no_port_is_refused(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").touch()
    error = refuse(["ui", f"runs_dir={tmp_path}", f"port={port}"], capsys)
    assert error == f"error: port={port}: must be a whole number from 1 to 65535\n"


def test_a_taken_port_is_refused_if_it_was_asked_for(taken: int) -> None:
    with pytest.raises(ConfigError, match=f"port {taken} is taken; give another with port=N$"):
        free_port({"port": str(taken)}, PORTS["ui"])


@pytest.mark.parametrize("kind", ["ui", "dashboard"])
def test_the_words_of_make_are_named_too(
    kind: str, taken: int, mlflow_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "optuna.db").touch()
    error = refuse([kind, f"runs_dir={tmp_path}", f"port={taken}"], capsys)
    assert error == f"error: port {taken} is taken; give another with port=N, or make {kind} SERVE=port=N\n"


def test_links_lead_to_the_port_at_which_the_ui_was_last_served(
    mlflow_uri: str, tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_replace_process", lambda *_: None)
    paths = RecordPaths.in_folder(tmp_path)
    assert paths.mlflow_url("1").startswith("http://127.0.0.1:5000/#/experiments/1/")
    port = free_port({}, taken)
    serve.main(["ui", f"runs_dir={tmp_path}", f"port={port}"])
    assert paths.mlflow_url("1", "run").startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs/run")
    assert RecordPaths(tmp_path, "", "http://host:1").mlflow_url("1").startswith("http://host:1/#")


def test_else_the_next_free_port_is_taken(taken: int) -> None:
    port = free_port({}, taken)
    assert taken < port < taken + 20


def test_a_free_port_is_taken_as_asked(taken: int) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        free = probe.getsockname()[1]
    assert free_port({"port": str(free)}, taken) == free


def test_the_ui_names_the_pages_of_the_studies_last_used(mlflow_uri: str, tmp_path: Path) -> None:
    file, paths = tmp_path / "mlflow.db", RecordPaths(tmp_path, "", "http://host:1")
    all_ = "MLflow, all experiments: http://host:1/#/experiments"
    assert list(describe_pages(file, paths)) == [all_]
    experiments = MlflowStore(mlflow_uri).experiments
    first = experiments.open("one", tmp_path / "artifacts")
    second = experiments.open("two", tmp_path / "artifacts")
    experiments.save_views(second, ["final_loss"], ["model.channels"], 11)
    runs = "http://host:1/#/experiments/{}/runs?workflowType=machine_learning".format
    view = f"{runs(second)}&viewStateShareKey="
    assert list(describe_pages(file, paths)) == [
        f"MLflow, trials of two: {view}trials",
        f"MLflow, charts of two: {view}charts&compareRunsMode=CHART",
        f"MLflow, runs of one: {runs(first)}",
        all_,
    ]
    for number in range(SHOWN_STUDIES):
        experiments.open(f"more {number}", tmp_path / "artifacts")
    *shown, last = describe_pages(file, paths)
    assert [line.partition(":")[0] for line in shown] == [
        f"MLflow, runs of more {n}" for n in range(4, -1, -1)
    ]
    assert last == all_


def test_a_mistake_loads_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, nca.serve\n"
        "try: nca.serve.main(['ui', 'runs_dir=/nowhere'])\n"
        "except SystemExit: print(sorted({'torch', 'mlflow', 'optuna', 'hydra'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
