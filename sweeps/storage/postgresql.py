"""PostgreSQL: addresses without passwords, and locks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, text

POSTGRESQL = "postgresql"
CONNECT_TIMEOUT_S = 10
LOCK = 0x6E6361  # key of the advisory lock for the creation of tables, and first key of studies' locks
PASSWORD = re.compile(r"(://[^:/@]*):([^/]*)@|([?&]password=)([^&]*)")


def without_password(address: str) -> str:
    """Return an address without its password."""
    return PASSWORD.sub(lambda found: f"{found[1]}@" if found[1] else str(found[3]), address)


def has_password(address: str) -> bool:
    """Return whether an address has a password, which would get into records and logs."""
    return PASSWORD.search(address) is not None


def connect_options(address: str) -> dict[str, Any]:
    """Return the options of SQLAlchemy's engine for an address."""
    if not address.startswith(POSTGRESQL):
        return {}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_TIMEOUT_S}}


@contextlib.contextmanager
def creating_tables(address: str) -> Iterator[None]:
    """Lock a PostgreSQL database against other processes that create tables; other databases have no lock.

    Args:
        address: SQLAlchemy address.

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


def try_lock_study(engine: Engine, study_id: int, lock: contextlib.ExitStack) -> bool:
    """Try to lock a study in a PostgreSQL database until `lock` is closed; return whether it is locked now.

    Raises:
        SQLAlchemyError: If the server cannot be reached.
    """
    connection = engine.connect()
    query = text("SELECT pg_try_advisory_lock(:lock, :study)")
    if not connection.execute(query, {"lock": LOCK, "study": study_id}).scalar_one():
        connection.close()
        return False
    lock.callback(connection.invalidate)  # the end of the session frees the lock; a broken one is no error
    return True
