"""Where records are: databases and folders of studies, and how much room they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nca.schema import ConfigError

if TYPE_CHECKING:
    from nca.tracking import MlflowStore
    from sweeps.upkeep import Studies

__all__ = ["SINGLE_RUNS", "Places", "format_size", "size_of"]

SINGLE_RUNS = "single-runs"  # MLflow experiment of runs that belong to no study, and their folder


@dataclass(frozen=True)
class Places:
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

    def folders(self, study: str) -> list[Path]:
        """Return the folders that a study has: its trials', and its runs' artifacts."""
        return [self.runs / "trials" / study, self.runs / "artifacts" / study]

    def open_studies(self) -> Studies:
        """Open the Optuna storage.

        Raises:
            SweepError: If there is none.
        """
        from sweeps.upkeep import Studies

        return Studies(self.storage)

    def open_tracking(self) -> MlflowStore | None:
        """Open the MLflow store, None where there is none yet.

        Raises:
            ConfigError: If it cannot be opened.
        """
        from nca.tracking import MlflowStore

        if self.tracking is None or self.tracking == f"sqlite:///{self.runs / 'mlflow.db'}":
            return (
                MlflowStore(self.tracking) if self.tracking and (self.runs / "mlflow.db").exists() else None
            )
        return MlflowStore(self.tracking)


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
