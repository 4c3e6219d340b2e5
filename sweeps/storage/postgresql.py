"""Databases on servers: passwords in their addresses, and the options and locks of PostgreSQL."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError

POSTGRESQL = "postgresql"
CONNECT_TIMEOUT_S = 10
LOCK = 0x6E6361  # key of the advisory lock for the creation of tables, and first key of studies' locks
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"  # of an MLflow server
PASSWORD = re.compile("passw(or)?d|pwd", re.IGNORECASE)  # in an option, or in the text of ODBC options


def describe_password(address: str) -> str | None:
    """Return what to do about the password of an address, which would get into records and logs.

    Returns:
        A message that begins with the address, without the password; None if there is none.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # of a port, for instance
        shown = f"{address.partition('://')[0]}://..." if "@" in address else None
    else:
        secrets = [key for key, value in url.query.items() if PASSWORD.search(f"{key} {value}")]
        host = url.host and url.host.rpartition("@")[2]  # a password may hold an @
        clean = url.difference_update_query(secrets).set(host=host)._replace(password=None)
        shown = str(clean) if secrets or url.password is not None else None
    if shown is None:
        return None
    instead = LOGIN if address.startswith("http") else "PGPASSWORD or in ~/.pgpass"
    return f"{shown}: leave the password out of the address, where it would be recorded; give it in {instead}"


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
