"""Opening an Optuna storage, which sweeps, workers and those who look at studies share."""

from __future__ import annotations

import sqlite3
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from sweeps import SweepError
from sweeps.sqlite import SQLITE, create_database

__all__ = ["open_storage", "warm_up"]

HEARTBEAT_INTERVAL_S = 15
GRACE_PERIOD_S = 60
SQLITE_TIMEOUT_S = 60  # how long a writer waits for another


def open_storage(url: str, *, create: bool = True) -> RDBStorage:
    """Open an Optuna storage with heartbeats; an SQLite file in WAL mode.

    Args:
        url: SQLAlchemy address.
        create: Whether an SQLite file may be created.

    Raises:
        SweepError: If it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {}
    if url.startswith("sqlite") and url.partition("://")[2].strip("/") in ("", ":memory:"):
        raise SweepError(f"sweep.storage={url}: trials cannot share a storage in memory; give a file")
    try:
        if url.startswith(SQLITE):
            file = Path(url.removeprefix(SQLITE))
            if not create and not file.exists():
                raise SweepError(f"sweep.storage={url}: no such file; a sweep creates it")
            create_database(file, _create_tables)
            options = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of heartbeats
            return RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_INTERVAL_S,
                grace_period=GRACE_PERIOD_S,
            )
    except (OSError, sqlite3.Error, SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise SweepError(f"sweep.storage={url}: cannot be opened ({error})") from error


def warm_up() -> None:
    """Load what opening a storage loads, so that processes forked from this one have it."""
    _create_tables("sqlite://")


def _create_tables(url: str) -> None:
    storage = RDBStorage(url)
    storage.remove_session()
    storage.engine.dispose()
