"""Clients of MLflow stores: loading MLflow, opening a store, classifying errors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nca.cli.errors import ConfigError
from nca.tracking.relocation import check_not_relocated
from sweeps.storage.postgresql import LOGIN, creating_tables, describe_password
from sweeps.storage.sqlite import SQLITE, create_database, database_file, describe_unwritable

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {  # of MLflow; variables that are set come first
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # not minutes: records wait in the outbox
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
}
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")  # MLflow 3 refuses its file store
LOOPBACK = "localhost,127.0.0.1,127.0.0.0/8,::1"  # no proxy reaches it
CA_FILE = "MLFLOW_TRACKING_SERVER_CERT_PATH"
TIMEOUT_S = 60.0  # of a locked SQLite file, as of Optuna's storage
RETRY_EVERY_S = 0.1
LOCKED = "database is locked"  # SQLite's message
UNAVAILABLE = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}


def load_mlflow(*, sql: bool = False) -> None:
    """Import MLflow, with its modules for databases if `sql`; variables that are set override ENVIRONMENT."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if LOOPBACK not in no_proxy:
        os.environ["no_proxy"] = ",".join(filter(None, [no_proxy, LOOPBACK]))
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store" if sql else "mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises all that it logs


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Raise errors of the MLflow store at `uri` as a message of one line.

    Raises:
        ConfigError: In place of MLflow's and SQLAlchemy's errors.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(getattr(error.__cause__, "orig", None) or error).partition("\n")[0]  # the database's own
        raise ConfigError(
            f"tracking.uri={uri}: cannot be written ({reason}); existing records are kept, "
            "and the same command continues"
        ) from error


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error is temporary: a server does not answer, or reports a fault of its own."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(error, HTTPError):
        return error.response is None or error.response.status_code >= 500
    if isinstance(error, MlflowException):
        return error.error_code in UNAVAILABLE
    return isinstance(error, RequestException | OperationalError | InterfaceError)


def check_no_password(uri: str) -> None:
    """Refuse a tracking URI with a password, and do not repeat it in the message.

    Raises:
        ConfigError: If it holds one.
    """
    if (mistake := describe_password(uri)) is not None:
        raise ConfigError(f"tracking.uri={mistake}")


def check_address(uri: str) -> None:
    """Check a tracking URI and its server; MLflow is imported only for a server.

    Raises:
        ConfigError: If MLflow does not support it, or its server does not answer or accept the login.
    """
    check_no_password(uri)
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"tracking.uri={uri}: must begin with one of {known}")
    if scheme.startswith("sqlite") and rest.strip("/") in ("", ":memory:"):
        raise ConfigError(f"tracking.uri={uri}: trials cannot share a store in memory; give a file")
    if uri.startswith(SQLITE):
        try:
            _check_database(database_file(uri))
        except (ValueError, sqlite3.Error) as error:
            raise ConfigError(f"tracking.uri={uri}: {error}") from error
    if scheme in ("http", "https"):
        _check_server(uri)


def _check_database(file: Path) -> None:
    """Check that an SQLite file, if it exists, is empty or MLflow's.

    Raises:
        ValueError: If it is another program's.
        DatabaseError: If it is no database.
    """
    if not file.exists():
        return
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
        try:
            tables = {name for (name,) in database.execute("select name from sqlite_master")}
        except sqlite3.OperationalError:  # it is locked; whoever opens it waits
            return
    if tables and "experiments" not in tables:
        raise ValueError("the database of another program; give another file")


def _check_server(uri: str) -> None:
    load_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except (MlflowException, ValueError) as error:
        reason = "no MLflow server answers there; start it"
        if getattr(error, "error_code", "") == "UNAUTHENTICATED":
            reason = f"the server asks for a login and refuses the one given; set {LOGIN}"
        elif "certificate" in str(error).lower():
            reason = f"the server's certificate is not trusted; set {CA_FILE} to the file of its CA"
        elif "ProxyError" in str(error):
            reason = "the proxy of http_proxy or https_proxy does not reach it; name the host in no_proxy"
        raise ConfigError(f"tracking.uri={uri}: {reason}, or give tracking=none") from error


def open_client(uri: str) -> MlflowClient:
    """Return a client of the store at a tracking URI.

    An SQLite file is created where missing, in WAL mode, which takes some seconds.

    Raises:
        ConfigError: If the store cannot be opened, or was moved or copied.
    """
    check_no_password(uri)
    load_mlflow()
    from alembic.util import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    errors = (OSError, sqlite3.Error, SQLAlchemyError, ImportError, MlflowException, CommandError)
    file = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
    try:
        if file is not None:
            create_database(file, _create_tables)
        with creating_tables(uri):
            client = MlflowClient(uri)
    except errors as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"tracking.uri={uri}: cannot be opened ({reason}){describe_unwritable(uri)}"
        ) from error
    if file is not None:
        check_not_relocated(file)
    return cast("MlflowClient", _RetryingClient(client))


class _RetryingClient:
    """An MLflow client that waits longer than MLflow's 20 s for another program to unlock its SQLite file."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return functools.partial(_call_while_locked, attribute) if callable(attribute) else attribute


def _call_while_locked(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return method(*args, **kwargs)
        except Exception as error:  # the transaction was rolled back
            if LOCKED not in str(error) or time.monotonic() > until:
                raise
        time.sleep(RETRY_EVERY_S)


def _create_tables(uri: str) -> None:
    from mlflow import MlflowClient

    MlflowClient(uri)._tracking_client.store.engine.dispose()  # there is no public way to close the file
