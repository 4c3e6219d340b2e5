"""`python -m nca.serve ui|dashboard`: the MLflow UI or the Optuna dashboard, on loopback only."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command, read_number, read_runs_dir
from nca.tracking.relocation import check_not_relocated, connect
from sweeps import SweepError
from sweeps.storage.sqlite import SQLITE

LOOPBACK = "127.0.0.1"
PORTS = {"ui": 5000, "dashboard": 8080}
STORES = {"ui": "mlflow.db", "dashboard": "optuna.db"}
MAX_PORT = 65535
N_PORTS = 20
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
    """Print the page's URL and replace this process by the server; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error(SweepError):
        options, (kind,), _ = COMMAND.read(arguments)
        if kind == "ui" and "sweep.storage" in options:
            raise COMMAND.error("sweep.storage belongs to the dashboard")
        runs = read_runs_dir(options.get("runs_dir", "mlruns"))
        store = runs / STORES[kind]
        address = options.get("sweep.storage", f"{SQLITE}{store}")
        if address == f"{SQLITE}{store}" and not store.exists():
            raise ConfigError(f"{store} does not exist: run a sweep first, or give runs_dir=FOLDER")
        port = free_port(options, PORTS[kind])
        if kind == "ui":
            check_not_relocated(store)
        else:
            from sweeps.storage.optuna_storage import open_storage

            open_storage(address, create=False)  # the dashboard would create tables, or end with a traceback
    if kind == "ui":
        _serve_mlflow(store, runs, port)
    else:
        _serve_dashboard(address, runs, port)


def free_port(options: Mapping[str, str], default: int) -> int:
    """Return the requested port, or the first free one of N_PORTS from the default one on.

    Raises:
        ConfigError: If it is not a port, or taken.
    """
    first = read_number(options, "port", default, 1, MAX_PORT)
    for port in range(first, first + (1 if "port" in options else N_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"port {first} is taken; give another with port=N")


def _serve_mlflow(store: Path, runs: Path, port: int) -> None:
    newest = _newest_experiment(store)
    page = f"/{newest}/runs?workflowType=machine_learning" if newest else ""
    print(f"MLflow: http://{LOOPBACK}:{port}/#/experiments{page}", flush=True)
    for name, value in [("DISABLE_TELEMETRY", "true"), ("SERVER_ENABLE_JOB_EXECUTION", "false")]:
        os.environ.setdefault(f"MLFLOW_{name}", value)
    where = ["--backend-store-uri", f"{SQLITE}{store}"]
    where += ["--default-artifact-root", (runs / "artifacts").as_uri()]
    _replace_process("mlflow", "server", *where, "--host", LOOPBACK, "--port", str(port), "--workers", "1")


def _newest_experiment(store: Path) -> str | None:
    """Return the id of the experiment last used, read by SQL, as importing MLflow takes seconds."""
    with connect(store, "ro") as connection:
        row = connection.execute(
            "SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active' AND experiment_id != 0 "
            "ORDER BY last_update_time DESC, experiment_id DESC LIMIT 1"
        ).fetchone()
    return None if row is None else str(row[0])


def _serve_dashboard(address: str, runs: Path, port: int) -> None:
    print(f"Optuna dashboard: http://{LOOPBACK}:{port}/dashboard", flush=True)
    artifacts = runs / "artifacts" / "optuna"
    artifacts.mkdir(parents=True, exist_ok=True)
    where = ["--host", LOOPBACK, "--port", str(port), "--artifact-dir", str(artifacts)]
    _replace_process("optuna-dashboard", address, *where)


def _replace_process(program: str, *argv: str) -> None:
    """Replace this process by a program of the same environment.

    Raises:
        SystemExit: If the program is not installed.
    """
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    path = shutil.which(program, path=search)
    if path is None:
        raise SystemExit(f"error: {program} is not installed: make setup")
    os.execv(path, [path, *argv])


if __name__ == "__main__":
    main()
