"""Records that were moved or copied: MLflow keeps whole addresses of artifacts, and would write there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nca.cli.errors import ConfigError

__all__ = ["Moved", "find_moved", "refuse_moved", "take_along"]

PATIENCE_S = 60.0  # while another program holds the file


class Moved(NamedTuple):
    """An experiment whose artifacts belong beside its store, and where MLflow looks for them."""

    experiment_id: int
    address: str
    there: Path
    here: Path


def find_moved(store: Path) -> list[Moved]:
    """Return such experiments of an SQLite store.

    One counts only where artifacts of its own runs are in `artifacts/` beside the store, or where another
    store with the same runs is beside those that it names. Whoever keeps store and artifacts apart has
    neither.

    Raises:
        ConfigError: If the file is no store of MLflow's.
    """
    try:
        with closing(_connect(store, "ro")) as connection:
            return list(_find_moved(store.absolute(), connection))
    except sqlite3.Error as error:
        raise ConfigError(f"{store}: cannot be read ({error})") from error


def _find_moved(store: Path, connection: sqlite3.Connection) -> Iterator[Moved]:
    experiments = connection.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
    for id_, address in experiments:
        there = Path(url2pathname(urlsplit(address).path))
        here = store.parent / "artifacts" / there.name
        if there == here or (here.exists() and there.exists() and there.samefile(here)):
            continue
        rows = connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (id_,)).fetchall()
        runs = [str(run) for (run,) in rows]
        if any((here / run).is_dir() for run in runs) or _is_copy_of(
            there.parent.parent / store.name, store, runs
        ):
            yield Moved(id_, address, there, here)


def _is_copy_of(other: Path, store: Path, runs: Sequence[str]) -> bool:
    """Say whether another store is there and has one of these runs too."""
    if not runs or not other.is_file() or other.samefile(store):
        return False
    with closing(_connect(other, "ro")) as connection:
        found = connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", runs[:1])
        return found.fetchone() is not None


def _connect(store: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{store.absolute().as_uri()}?mode={mode}", PATIENCE_S, uri=True)


def refuse_moved(store: Path) -> None:
    """Refuse a store with such experiments: what is written now would not lie with the rest.

    Raises:
        ConfigError: If there is one, or if the file is no store of MLflow's.
    """
    for moved in find_moved(store):
        raise ConfigError(
            f"{store.parent}: was moved or copied, and MLflow would write and delete in {moved.there}; "
            f"python -m nca.studies mend runs_dir={store.parent} takes its records along"
        )


def take_along(store: Path) -> list[Moved]:
    """Let MLflow look for the artifacts of such experiments where they lie; return them.

    Raises:
        ConfigError: If the file cannot be written.
    """
    found = find_moved(store)
    try:
        with closing(_connect(store, "rw")) as connection, connection:
            for moved in found:
                new, old = moved.here.as_uri(), moved.address
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (new, moved.experiment_id),
                )
                connection.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (new, len(old) + 1, moved.experiment_id, len(old), old),
                )
    except sqlite3.Error as error:
        raise ConfigError(f"{store}: cannot be written ({error})") from error
    return found
