"""Stores that were moved or copied: MLflow keeps absolute artifact URIs, and would write to the old folder.

An experiment whose artifacts lie below the folder of its SQLite file is tagged with their relative path. One
without the tag, of an earlier version, is judged by whether `artifacts/` beside the file has its folder.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nca.cli.errors import ConfigError
from sweeps.storage.sqlite import SQLITE, describe_unwritable

TAG = "artifact_folder"  # of an experiment
TIMEOUT_S = 60.0  # while another program holds the file
QUERY = (
    "SELECT artifact_location, value FROM experiments e "
    "LEFT JOIN experiment_tags t ON t.experiment_id = e.experiment_id AND key = ?"
)


def relative_path_tag(store_uri: str, artifacts: Path) -> dict[str, str]:
    """Return the tag of a new experiment; none where store and artifacts are kept apart."""
    folder = Path(store_uri.removeprefix(SQLITE)).absolute().parent
    if not store_uri.startswith(SQLITE) or not artifacts.absolute().is_relative_to(folder):
        return {}
    return {TAG: str(artifacts.absolute().relative_to(folder))}


def find_relocated(store: Path) -> dict[str, Path]:
    """Return the artifact folders that were moved or copied with an SQLite store, by their recorded URIs.

    Raises:
        ConfigError: If the file is not an MLflow store.
    """
    found = {}
    with connect(store, "ro") as connection:
        for uri, tag in connection.execute(QUERY, (TAG,)):
            old = Path(url2pathname(urlsplit(uri).path))
            new = store.absolute().parent / (tag or Path("artifacts", old.name))
            if (tag or new.exists()) and new.resolve() != old.resolve():
                found[uri] = new
    return found


def check_not_relocated(store: Path) -> None:
    """Refuse an SQLite store that was moved or copied.

    Raises:
        ConfigError: If it was, or if the file is not an MLflow store.
    """
    for uri in find_relocated(store):
        raise ConfigError(
            f"{store.parent}: was moved or copied, and MLflow would write and delete in {uri}; "
            f"python -m nca.studies repair runs_dir={store.parent} updates its artifact URIs"
        )


def relocate(store: Path) -> int:
    """Update the artifact URIs of a store that was moved or copied; return how many experiments had old ones.

    Raises:
        ConfigError: If the file cannot be written.
    """
    found = find_relocated(store)
    with connect(store, "rw") as connection:
        for old, new in found.items():
            uris = {"old": old, "new": new.as_uri()}
            connection.execute(
                "UPDATE experiments SET artifact_location = :new WHERE artifact_location = :old", uris
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, length(:old) + 1) "
                "WHERE instr(artifact_uri, :old || '/') = 1",
                uris,
            )
    return len(found)


@contextmanager
def connect(store: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Open a file read-only (ro) or for one transaction (rw).

    Raises:
        ConfigError: In place of SQLite's errors.
    """
    try:
        uri = f"{store.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, timeout=TIMEOUT_S, uri=True)) as connection, connection:
            yield connection
    except sqlite3.Error as error:
        reason = f"cannot be {'read' if mode == 'ro' else 'written'} ({error}){describe_unwritable(store)}"
        raise ConfigError(f"{store}: {reason}") from error
