"""Databases on servers: addresses without passwords, and tables that one process at a time creates."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, text

__all__ = [
    "POSTGRESQL",
    "connect_options",
    "creating_tables",
    "has_password",
    "take_turn_in_database",
    "without_password",
]

POSTGRESQL = "postgresql"
CONNECT_TIMEOUT_S = 10
LOCK = 0x6E6361  # of PostgreSQL's advisory locks, the one under which tables are created
PASSWORD = re.compile(r"(://[^:/@]*):([^/]*)@|([?&]password=)([^&]*)")


def without_password(address: str) -> str:
    """Return an address as it may be shown."""
    return PASSWORD.sub(lambda found: f"{found[1]}@" if found[1] else str(found[3]), address)


def has_password(address: str) -> bool:
    """Say whether an address holds a password, which would end up in records and logs."""
    return PASSWORD.search(address) is not None


def connect_options(address: str) -> dict[str, Any]:
    """Return what SQLAlchemy should know of a database on a server; nothing for a file."""
    if not address.startswith(POSTGRESQL):
        return {}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_TIMEOUT_S}}


@contextlib.contextmanager
def creating_tables(address: str) -> Iterator[None]:
    """Keep other processes from creating tables in the same PostgreSQL database meanwhile; others get in.

    Args:
        address: SQLAlchemy address, of any database.

    Raises:
        SQLAlchemyError: If the server cannot be reached.
    """
    if not address.startswith(POSTGRESQL):
        yield
        return
    engine = create_engine(address, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        yield


def take_turn_in_database(engine: Engine, study_id: int, held: contextlib.ExitStack) -> bool:
    """Lock a study in a PostgreSQL database against those who take turns in it; return whether it was free.

    Args:
        engine: Of the database.
        study_id: The storage's id of the study.
        held: Frees it.

    Raises:
        SQLAlchemyError: If the server cannot be reached.
    """
    connection = engine.connect()
    query = text("SELECT pg_try_advisory_lock(:lock, :study)")
    if not connection.execute(query, {"lock": LOCK, "study": study_id}).scalar_one():
        connection.close()
        return False
    held.callback(connection.invalidate)  # the end of its session ends the lock, and a broken one is no error
    return True
