"""Where records are: databases and folders of studies, and how much room they take."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError

if TYPE_CHECKING:
    from nca.tracking import MlflowStore
    from sweeps.admin import Studies

__all__ = [
    "DASHBOARD",
    "MLFLOW_UI",
    "RECORD_OPTIONS",
    "SINGLE_RUNS",
    "RecordPaths",
    "format_size",
    "is_study_name",
    "read_record_paths",
    "size_of",
]

RECORD_OPTIONS = {  # of `read_record_paths`, with their help
    "runs_dir": "folder of all records; default mlruns",
    "sweep.storage": "SQLAlchemy address of the Optuna storage; default optuna.db in runs_dir",
    "tracking.uri": "address of the MLflow store, or none; default mlflow.db in runs_dir",
}
SINGLE_RUNS = "single-runs"  # MLflow experiment of runs that belong to no study, and their folder
MLFLOW_UI, DASHBOARD = "http://127.0.0.1:5000", "http://127.0.0.1:8080/dashboard"  # where `make` serves them


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

    def fetch(self, run: str, name: str) -> Path:
        """Return a file of a run: of an MLflow run by its id, or of a folder or a file beside it by its path.

        Raises:
            ConfigError: If there is no such run, or it has no such file.
        """
        beside = Path(run).expanduser()
        if beside.exists():
            folder = beside if beside.is_dir() else beside.parent
            found = next((f for f in (folder / name, folder / "artifacts" / name) if f.exists()), None)
            if found is None:
                raise ConfigError(f"run={run}: there is no {name}")
            return found
        store = self.open_tracking()
        if store is None or not store.has_run(run):
            where = self.tracking or "without tracking"
            raise ConfigError(
                f"run={run}: no such path, and no such run in {where}; give an id as MLflow shows it"
            )
        return store.fetch(run, name)

    def command(self, module: str, *words: str) -> str:
        """Return the command line of an entry point that finds its records here."""
        return shlex.join(["python", "-m", module, *words, *self.cli_overrides()])

    def cli_overrides(self) -> list[str]:
        """Return the words of a command line that lead here; none from where `mlruns` is this folder."""
        usual = RecordPaths.in_folder(Path("mlruns").absolute())
        if self.runs == usual.runs and (self.storage, self.tracking) == (usual.storage, usual.tracking):
            return []
        words, here = [f"runs_dir={self.runs}"], RecordPaths.in_folder(self.runs)
        if self.storage != here.storage:
            words.append(f"sweep.storage={self.storage}")
        if self.tracking != here.tracking:
            words.append(f"tracking.uri={self.tracking or 'none'}")
        return words

    def mlflow_url(self, experiment: str, run: str | None = None, artifact: str | None = None) -> str:
        """Return where MLflow shows an experiment, a run or one of its artifacts."""
        at_server = self.tracking is not None and self.tracking.startswith("http")
        base = str(self.tracking).rstrip("/") if at_server else MLFLOW_UI
        if run is None:
            return f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        below = f"/artifacts/{artifact}" if artifact else ""
        return f"{base}/#/experiments/{experiment}/runs/{run}{below}?workflowType=machine_learning"

    @classmethod
    def in_folder(cls, runs: Path) -> RecordPaths:
        """Return the usual paths in a folder of all records."""
        return cls(runs, f"sqlite:///{runs / 'optuna.db'}", f"sqlite:///{runs / 'mlflow.db'}")

    def run_tags(self, run: str) -> dict[str, str]:
        """Return the tags of an MLflow run, none of one that is a folder."""
        store = None if Path(run).exists() else self.open_tracking()
        return {} if store is None else store.tags(run)

    def study_folders(self, study: str) -> list[Path]:
        """Return the folders that a study has: its trials', and its runs' artifacts."""
        return [self.runs / "trials" / study, self.runs / "artifacts" / study]

    def find_target(self, study: str) -> Path | None:
        """Return a study's target picture, as any of its trials holds it."""
        trials, artifacts = self.study_folders(study)
        below = ("", "artifacts/")  # as runs leave it now, those of seeds too; where older ones have it
        patterns = [f"{trial}/{folder}target.png" for folder in below for trial in ("*", "*/*")]
        folders = (trials, artifacts)
        return next((f for pattern in patterns for folder in folders for f in folder.glob(pattern)), None)

    def open_studies(self) -> Studies:
        """Open the Optuna storage.

        Raises:
            SweepError: If there is none.
        """
        from sweeps.admin import Studies

        return Studies(self.storage)

    def local_mlflow_db(self) -> Path | None:
        """Return the file of this folder's own MLflow store, if that is used and there is one."""
        store = self.runs / "mlflow.db"
        return (
            store if self.tracking == RecordPaths.in_folder(self.runs).tracking and store.exists() else None
        )

    def open_tracking(self) -> MlflowStore | None:
        """Open the MLflow store, None where there is none yet.

        Raises:
            ConfigError: If it cannot be opened, or is a server that is not there or wants another login.
        """
        from nca.tracking import MlflowStore, check_address

        if self.tracking is None or self.tracking == RecordPaths.in_folder(self.runs).tracking:
            return MlflowStore(self.tracking) if self.tracking and self.local_mlflow_db() else None
        check_address(self.tracking)
        return MlflowStore(self.tracking)


def read_record_paths(options: Mapping[str, str]) -> RecordPaths:
    """Return where records are, as `runs_dir`, `sweep.storage` and `tracking.uri` say."""
    runs = Path(options.get("runs_dir", "mlruns")).expanduser().absolute()
    usual = RecordPaths.in_folder(runs)
    tracking = options.get("tracking.uri", usual.tracking)
    return RecordPaths(
        runs, options.get("sweep.storage", usual.storage), None if tracking == "none" else tracking
    )


def is_study_name(name: str) -> bool:
    """Say whether a study may be called so: its name is also that of folders among others."""
    return "/" not in name and name not in {SINGLE_RUNS, "optuna", ".", ".."}


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def format_size(n_bytes: float) -> str:
    """Return bytes as 12 B, 3.4 kB, 56 MB or 7.89 GB."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"
