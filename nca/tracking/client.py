"""Clients of MLflow stores: how MLflow is loaded, opened and waited for."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nca.cli.errors import ConfigError
from nca.tracking.relocation import check_not_relocated
from nca.tracking.uri import refuse_password
from sweeps.storage.postgresql import creating_tables
from sweeps.storage.sqlite import SQLITE, create_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["load_mlflow", "one_line", "open_client"]

PATIENCE_S = 60.0  # as long as Optuna's storage has
RETRY_EVERY_S = 0.1
LOCKED = "database is locked"  # in SQLite's words


def load_mlflow(*, sql: bool = False) -> None:
    """Import MLflow; unless the environment says otherwise its telemetry and progress bars are off.

    Nor does a request wait minutes for a server then.

    Args:
        sql: Import what a store in a database needs too, which its first use would.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # what waits for a server is the outbox
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store" if sql else "mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs it also raises


@contextlib.contextmanager
def one_line(uri: str) -> Iterator[None]:
    """Turn what an MLflow store refuses into one line.

    Args:
        uri: Of the store, for the message.

    Raises:
        ConfigError: In its place.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"tracking.uri={uri}: cannot be written ({reason}); "
            "what it holds is kept, and the same command goes on"
        ) from error


def open_client(uri: str) -> MlflowClient:
    """Return a client of a store, which waits while another program holds the store's SQLite file.

    Args:
        uri: SQLAlchemy address or that of a server. An SQLite file is created where missing, in WAL
            mode, which takes some seconds.

    Raises:
        ConfigError: If it cannot be opened, or if it was moved or copied.
    """
    refuse_password(uri)
    load_mlflow()
    from alembic.util import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if uri.startswith(SQLITE):
            create_database(Path(uri.removeprefix(SQLITE)), _create_tables)
        with creating_tables(uri):
            client = cast("MlflowClient", _Patient(MlflowClient(uri)))
    except (
        OSError,
        sqlite3.Error,
        SQLAlchemyError,
        ImportError,
        MlflowException,
        CommandError,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"tracking.uri={uri}: cannot be opened ({reason})") from error
    if uri.startswith(SQLITE):
        check_not_relocated(Path(uri.removeprefix(SQLITE)))
    return client


class _Patient:
    """An MLflow client that waits longer than MLflow's 20 s while another program holds its SQLite file."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    return method(*args, **kwargs)
                except (MlflowException, SQLAlchemyError) as error:  # what was begun is undone
                    if LOCKED not in str(error) or time.monotonic() > until:
                        raise
                    time.sleep(RETRY_EVERY_S)

        return call


def _create_tables(uri: str) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(uri)._tracking_client.store  # MLflow has no public way to let go of a file
    store.engine.dispose()
