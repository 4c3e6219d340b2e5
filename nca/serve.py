"""`python -m nca.serve ui|dashboard`: the MLflow UI or the Optuna dashboard, on loopback only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command
from nca.tracking.relocation import check_not_relocated
from sweeps.storage.sqlite import SQLITE

__all__ = ["LOOPBACK", "free_port", "main"]

LOOPBACK = "127.0.0.1"
PORTS = {"ui": 5000, "dashboard": 8080}
STORES = {"ui": "mlflow.db", "dashboard": "optuna.db"}
PORTS_TRIED = 20
COMMAND = Command(
    "nca.serve",
    "Serve the pages of MLflow or of the Optuna dashboard on this machine, until ctrl-C.",
    {
        "runs_dir": "folder of all records; default mlruns",
        "port": f"port to listen on; default: the first free one from {PORTS['ui']} or {PORTS['dashboard']}",
        "sweep.storage": "SQLAlchemy address of the dashboard's storage; default optuna.db in runs_dir",
    },
    subcommands={"ui": "MLflow: runs, curves and files", "dashboard": "Optuna dashboard: trials and studies"},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the address that opens the right view and become the server; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error():
        options, (kind,), _ = COMMAND.read(arguments)
        if kind == "ui" and "sweep.storage" in options:
            raise COMMAND.error("sweep.storage belongs to the dashboard")
        runs = Path(options.get("runs_dir", "mlruns")).absolute()
        store = runs / STORES[kind]
        address = options.get("sweep.storage", f"{SQLITE}{store}")
        if address == f"{SQLITE}{store}" and not store.exists():
            raise ConfigError(f"{store} does not exist: run a sweep first, or give runs_dir=FOLDER")
        port = free_port(options.get("port"), PORTS[kind])
        if store.exists():
            _check(store, kind)
    if kind == "ui":
        _serve_mlflow(store, runs, port)
    else:
        _serve_dashboard(address, runs, port)


def _check(store: Path, kind: str) -> None:
    """Refuse a file that is no database, and records that MLflow would look for elsewhere.

    Raises:
        ConfigError: If so.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT name FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(f"{store}: cannot be read ({error})") from error
    if kind == "ui":
        check_not_relocated(store)


def free_port(asked: str | None, usual: int) -> int:
    """Return the port asked for, or the first free one from the usual one on.

    Raises:
        ConfigError: If it is no port, or taken.
    """
    if asked is not None and not (asked.isdecimal() and 0 < int(asked) < 2**16):
        raise ConfigError(f"port={asked}: must be 1 to 65535")
    candidates = [int(asked)] if asked is not None else range(usual, usual + PORTS_TRIED)
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"port {candidates[0]} is taken; give another with port=N")


def _serve_mlflow(store: Path, runs: Path, port: int) -> None:
    address = f"http://{LOOPBACK}:{port}/#/experiments"
    newest = _newest_experiment(store)
    view = f"{address}/{newest}/runs?workflowType=machine_learning" if newest else address
    print(f"MLflow: {view}", flush=True)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    where = [
        "--backend-store-uri",
        f"{SQLITE}{store}",
        "--default-artifact-root",
        (runs / "artifacts").as_uri(),
    ]
    _become("mlflow", ["server", *where, "--host", LOOPBACK, "--port", str(port), "--workers", "1"])


def _newest_experiment(store: Path) -> str | None:
    """Return the id of the experiment that was last used; read from the file, to start at once."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        row = connection.execute(
            "SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active' AND experiment_id != 0 "
            "ORDER BY last_update_time DESC, experiment_id DESC LIMIT 1"
        ).fetchone()
    connection.close()
    return None if row is None else str(row[0])


def _serve_dashboard(address: str, runs: Path, port: int) -> None:
    print(f"Optuna dashboard: http://{LOOPBACK}:{port}/dashboard", flush=True)
    artifacts = runs / "artifacts" / "optuna"
    artifacts.mkdir(parents=True, exist_ok=True)
    options = ["--host", LOOPBACK, "--port", str(port), "--artifact-dir", str(artifacts)]
    _become("optuna-dashboard", [address, *options])


def _become(program: str, arguments: Sequence[str]) -> None:
    """Replace this process by a program of the same environment.

    Raises:
        SystemExit: If the program is not installed.
    """
    beside = Path(sys.executable).with_name(program)
    path = str(beside) if beside.exists() else shutil.which(program)
    if path is None:
        raise SystemExit(f"error: {program} is not installed: make setup")
    os.execv(path, [path, *arguments])


if __name__ == "__main__":
    main()
