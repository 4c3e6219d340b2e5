"""SQLite: files that several processes may create at once, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

SQLITE = "sqlite:///"


def create_database(file: Path, create: Callable[[str], None]) -> None:
    """Create a database in WAL mode unless it exists. The file appears whole or not at all.

    Args:
        file: File of the database; its folder is created.
        create: Creates a database at an SQLAlchemy address and closes all its connections.

    Raises:
        OSError: If the folder or the file cannot be written.
        sqlite3.Error: If the file exists and is no database.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        _delete(partial)  # left by a dead process that had the same id
        try:
            create(f"{SQLITE}{partial}")
            _set_journal(partial, "DELETE")  # the whole database in one file, for the link
            with contextlib.suppress(FileExistsError):
                os.link(partial, file)
        finally:
            _delete(partial)
    _set_journal(file, "WAL")


def _delete(file: Path) -> None:
    """Delete a database with its journals."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _set_journal(file: Path, mode: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")


def try_lock_folder(folder: Path, lock: contextlib.ExitStack) -> bool:
    """Try to lock the folder of a database; return whether it is locked now.

    Args:
        folder: The folder: to free a lock on the file itself would free SQLite's own locks too.
        lock: Frees the folder when it is closed.

    Raises:
        OSError: If the folder cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    lock.callback(os.close, descriptor)
    return True
