"""`python -m nca.serve ui|dashboard`: the MLflow UI or the Optuna dashboard, on loopback only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command, read_number, read_runs_dir
from nca.records.paths import UI_ADDRESS, RecordPaths
from nca.tracking.relocation import check_not_relocated, connect
from sweeps import SweepError
from sweeps.storage.sqlite import SQLITE

LOOPBACK = "127.0.0.1"
PORTS = {"ui": 5000, "dashboard": 8080}
STORES = {"ui": "mlflow.db", "dashboard": "optuna.db"}
MAX_PORT = 65535
N_PORTS = 20
SHOWN_STUDIES = 5  # whose addresses are printed
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
    """Print the pages' URLs and replace this process by the server; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    newest: dict[int, str] = {}
    with exit_on_error(SweepError):
        options, (kind,), _ = COMMAND.read(arguments)
        if kind == "ui" and "sweep.storage" in options:
            raise COMMAND.error("sweep.storage belongs to the dashboard")
        runs = read_runs_dir(options.get("runs_dir", "mlruns"))
        store = runs / STORES[kind]
        address = options.get("sweep.storage", f"{SQLITE}{store}")
        if address == f"{SQLITE}{store}" and not store.exists():
            raise ConfigError(f"{store} does not exist: run a sweep first, or give runs_dir=FOLDER")
        port = free_port(options, PORTS[kind], f", or make {kind} SERVE=port=N")
        if kind == "ui":
            check_not_relocated(store)
        else:
            from sweeps.storage.optuna_storage import open_storage

            # Without it the dashboard would create tables, or end with a traceback.
            studies = open_storage(address, create=False).get_all_studies()
            newest = {study._study_id: study.study_name for study in studies[: -SHOWN_STUDIES - 1 : -1]}
    if kind == "ui":
        _serve_mlflow(store, runs, port)
    else:
        _serve_dashboard(address, runs, port, newest)


def free_port(options: Mapping[str, str], default: int, hint: str = "") -> int:
    """Return the requested port, or the first free one of N_PORTS from the default one on.

    Args:
        options: Of the command line.
        default: Where to begin.
        hint: End of the error line, on other ways to give a port.

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
    raise ConfigError(f"port {first} is taken; give another with port=N{hint}")


def _serve_mlflow(store: Path, runs: Path, port: int) -> None:
    address = f"http://{LOOPBACK}:{port}"
    for line in describe_pages(store, RecordPaths(runs, "", address)):
        print(line, flush=True)
    if address != RecordPaths.in_folder(runs).ui_address:  # for links that are made from now on
        with contextlib.suppress(OSError):  # a read-only folder is shown too
            (runs / UI_ADDRESS).write_text(address, encoding="utf-8")
    for name, value in [("DISABLE_TELEMETRY", "true"), ("SERVER_ENABLE_JOB_EXECUTION", "false")]:
        os.environ.setdefault(f"MLFLOW_{name}", value)
    where = ["--backend-store-uri", f"{SQLITE}{store}"]
    where += ["--default-artifact-root", (runs / "artifacts").as_uri()]
    _replace_process("mlflow", "server", *where, "--host", LOOPBACK, "--port", str(port), "--workers", "1")


def describe_pages(store: Path, paths: RecordPaths) -> Iterator[str]:
    """Yield a line for each page of the experiments last used: of a study its trials and their charts.

    Args:
        store: MLflow's SQLite file, read by SQL, as importing MLflow takes seconds.
        paths: With the address of its server.
    """
    from nca.tracking.saved_views import TAG, TRIALS

    with connect(store, "ro") as connection:
        rows = connection.execute(
            "SELECT e.experiment_id, name, t.key FROM experiments e LEFT JOIN experiment_tags t "
            "ON t.experiment_id = e.experiment_id AND t.key = ? "
            "WHERE lifecycle_stage = 'active' AND e.experiment_id != 0 "
            "ORDER BY last_update_time DESC, e.experiment_id DESC LIMIT ?",
            (f"{TAG}{TRIALS}", SHOWN_STUDIES),
        ).fetchall()
    for number, name, view in rows:
        experiment = str(number)
        if view is None:  # of single runs, or of a study of an earlier version
            yield f"MLflow, runs of {name}: {paths.mlflow_url(experiment)}"
        else:
            yield f"MLflow, trials of {name}: {paths.study_url(experiment)}"
            yield f"MLflow, charts of {name}: {paths.study_url(experiment, charts=True)}"
    yield f"MLflow, all experiments: {paths.tracking}/#/experiments"


def _serve_dashboard(address: str, runs: Path, port: int, newest: Mapping[int, str]) -> None:
    page = f"http://{LOOPBACK}:{port}/dashboard"
    print(f"Optuna, all studies: {page}", flush=True)
    for number, name in newest.items():
        print(f"Optuna, {name}: {page}/studies/{number}", flush=True)
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
