"""SQLite files that appear whole or not at all, however many processes make them, or die making them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

__all__ = ["SQLITE", "create_database", "take_turn_in_folder"]

SQLITE = "sqlite:///"


def create_database(file: Path, create: Callable[[str], None]) -> None:
    """Create a database in WAL mode, unless it is there or another process puts it there first.

    Args:
        file: Where it goes; its folder is created.
        create: Makes the database at the SQLAlchemy address given, and closes every connection to it.

    Raises:
        OSError: If the folder or the file cannot be written.
        sqlite3.Error: If a file that is there is no database.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        made = file.with_name(f".{file.name}.{os.getpid()}")
        _delete(made)  # of an earlier process with this number, which died
        try:
            create(f"{SQLITE}{made}")
            _set_journal(made, "DELETE")  # all of it in one file, to be moved
            with contextlib.suppress(FileExistsError):
                os.link(made, file)
        finally:
            _delete(made)
    _set_journal(file, "WAL")


def _delete(file: Path) -> None:
    """Delete a database with its journals."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _set_journal(file: Path, mode: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")


def take_turn_in_folder(folder: Path, held: contextlib.ExitStack) -> bool:
    """Lock a folder against other processes that take turns in it; return whether it was free.

    Args:
        folder: Of the database: a lock of the file itself would end SQLite's own when it ends.
        held: Frees it.

    Raises:
        OSError: If the folder cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    held.callback(os.close, descriptor)
    return True
