"""Paths of records: databases, folders of studies, and the disk space that they take."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError
from nca.cli.options import read_runs_dir
from sweeps.storage.sqlite import SQLITE

if TYPE_CHECKING:
    from nca.tracking.store import MlflowStore
    from sweeps.admin import Studies

RECORD_OPTIONS = {  # of `read_record_paths`, with their help
    "runs_dir": "folder of all records; default mlruns",
    "sweep.storage": "SQLAlchemy address of the Optuna storage; default optuna.db in runs_dir",
    "tracking.uri": "address of the MLflow store, or none; default mlflow.db in runs_dir",
}
MODEL = "model.safetensors"  # file name of a run's trained automaton
SINGLE_RUNS = "single-runs"  # MLflow experiment and folder of runs outside any study
RESERVED = {"", ".", "..", SINGLE_RUNS, "optuna", "Default"}  # folders and experiments that are no study's
MLFLOW_UI, DASHBOARD = "http://127.0.0.1:5000", "http://127.0.0.1:8080/dashboard"  # where `make` serves them
UI_ADDRESS = "ui_address"  # file in `runs_dir` with the last address of `make ui`, if that was another


@dataclass(frozen=True)
class RecordPaths:
    """Where records are.

    Args:
        runs: Folder of all records.
        storage: Address of the Optuna storage.
        tracking: Address of the MLflow store; None for none.
    """

    runs: Path
    storage: str
    tracking: str | None

    @classmethod
    def in_folder(cls, runs: Path) -> RecordPaths:
        """Return the default paths in a folder of all records."""
        return cls(runs, f"{SQLITE}{runs / 'optuna.db'}", f"{SQLITE}{runs / 'mlflow.db'}")

    def cli_overrides(self) -> list[str]:
        """Return the command-line overrides for these paths, `runs_dir` first; none for the defaults."""
        if self == RecordPaths.in_folder(Path("mlruns").absolute()):
            return []
        default = RecordPaths.in_folder(self.runs)
        storage = [] if self.storage == default.storage else [f"sweep.storage={self.storage}"]
        tracking = [] if self.tracking == default.tracking else [f"tracking.uri={self.tracking or 'none'}"]
        return [f"runs_dir={self.runs}", *storage, *tracking]

    def command(self, module: str, *argv: str) -> str:
        """Return the command line of an entry point with these paths."""
        return shlex.join(["python", "-m", module, *argv, *self.cli_overrides()])

    def mlflow_url(self, experiment: str, run: str | None = None, artifact: str | None = None) -> str:
        """Return the URL at which MLflow shows an experiment, a run or one of its artifacts."""
        on_server = self.tracking is not None and self.tracking.startswith("http")
        base = str(self.tracking).rstrip("/") if on_server else self.ui_address
        path = f"runs/{run}" if run else "runs"
        path += f"/artifacts/{artifact}" if artifact else ""
        return f"{base}/#/experiments/{experiment}/{path}?workflowType=machine_learning"

    def study_url(self, experiment: str, *, charts: bool = False) -> str:
        """Return the URL at which MLflow shows a saved view of a study: the table of trials or the charts."""
        from nca.tracking.saved_views import CHARTS, TRIALS

        view = f"{CHARTS}&compareRunsMode=CHART" if charts else TRIALS
        return f"{self.mlflow_url(experiment)}&viewStateShareKey={view}"

    @property
    def ui_address(self) -> str:
        """The address at which `make ui` was last served; its default if it never was."""
        try:
            return (self.runs / UI_ADDRESS).read_text(encoding="utf-8").strip() or MLFLOW_UI
        except (OSError, ValueError):
            return MLFLOW_UI

    def study_folders(self, study: str) -> list[Path]:
        """Return the two folders of a study, of its trials and of its runs' artifacts."""
        return [self.runs / "trials" / study, self.runs / "artifacts" / study]

    def find_target(self, study: str) -> Path | None:
        """Return a study's target picture from the first folder that has it."""
        found = (file for folder in self.study_folders(study) for file in folder.rglob("target.png"))
        return next(found, None)

    def open_studies(self) -> Studies:
        """Open the Optuna storage.

        Raises:
            SweepError: If there is none.
        """
        from sweeps.admin import Studies

        return Studies(self.storage)

    def local_mlflow_db(self) -> Path | None:
        """Return the file of the default MLflow store; None if another is used, or it does not exist."""
        file = self.runs / "mlflow.db"
        return file if self.tracking == f"{SQLITE}{file}" and file.exists() else None

    def open_tracking(self) -> MlflowStore | None:
        """Open the MLflow store; return None if there is none, or the default one does not exist.

        Raises:
            ConfigError: If it cannot be opened, or its server does not answer or accept the login.
        """
        from nca.tracking.client import check_address
        from nca.tracking.store import MlflowStore

        default = RecordPaths.in_folder(self.runs).tracking
        if self.tracking is None or (self.tracking == default and not self.local_mlflow_db()):
            return None
        check_address(self.tracking)
        return MlflowStore(self.tracking)

    def fetch(self, run: str, name: str) -> Path:
        """Return the path of a run's file.

        Args:
            run: Id of an MLflow run, or path of a folder or of a file in it.
            name: Of the file; of model.safetensors, copies may have another name before their suffix.

        Raises:
            ConfigError: If there is no such run, or it has no such file.
        """
        path = Path(run).expanduser()
        if name == MODEL and path.suffix == Path(MODEL).suffix and path.is_file():
            return path
        if path.exists():
            folder = path if path.is_dir() else path.parent
            found = next((f for f in (folder / name, folder / "artifacts" / name) if f.exists()), None)
            if found is None:
                raise ConfigError(f"run={run}: has no {name}")
            return found
        store = self.open_tracking()
        if store is None or not store.has_run(run):
            where = self.tracking or "tracking=none"
            raise ConfigError(
                f"run={run}: not a path, and not a run in {where}; give a path or MLflow's run id"
            )
        return store.fetch(run, name)

    def run_tags(self, run: str) -> dict[str, str]:
        """Return the tags of an MLflow run; none if the run is given by a path."""
        store = None if Path(run).expanduser().exists() else self.open_tracking()
        return {} if store is None else store.tags(run)


def read_record_paths(options: Mapping[str, str]) -> RecordPaths:
    """Return the paths given by `runs_dir`, `sweep.storage` and `tracking.uri`."""
    runs = read_runs_dir(options.get("runs_dir", "mlruns"))
    default = RecordPaths.in_folder(runs)
    tracking = options.get("tracking.uri", default.tracking)
    storage = options.get("sweep.storage", default.storage)
    return RecordPaths(runs, storage, None if tracking == "none" else tracking)


def is_study_name(name: str) -> bool:
    """Return whether a name is allowed for a study, whose folders have it too."""
    return "/" not in name and name not in RESERVED


def delete_files(path: Path) -> None:
    """Delete a file, or a folder with its files; one that does not exist is none to delete.

    Raises:
        ConfigError: If one of them cannot be deleted.
    """
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path}: cannot be deleted ({error.strerror or error}); remove the cause, and "
            "repeat the command"
        ) from error


def disk_usage(*paths: Path) -> str:
    """Return the size of files and folders, such as 5.0 kB."""
    from rich.filesize import decimal

    total = 0
    for file in (file for path in paths for file in _files(path)):
        with contextlib.suppress(OSError):  # files of running trials may go meanwhile
            total += file.stat().st_size
    return decimal(total)


def _files(path: Path) -> Iterator[Path]:
    """Yield a file, or all files in a folder."""
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)
