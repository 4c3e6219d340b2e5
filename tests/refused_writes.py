"""Databases on a disk that became read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, event

__all__ = ["refuse_writes"]


@contextmanager
def refuse_writes() -> Iterator[None]:
    """Have every SQLite database of this process refuse writes, as on a read-only disk."""

    def make_read_only(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    def make_writable(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA query_only = OFF")

    event.listen(Engine, "checkout", make_read_only)
    event.listen(Engine, "checkin", make_writable)
    try:
        yield
    finally:
        event.remove(Engine, "checkout", make_read_only)
        event.remove(Engine, "checkin", make_writable)
