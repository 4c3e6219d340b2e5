"""The Optuna storage that coordinators, workers and the administration of studies share."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from alembic.runtime.migration import MigrationContext
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from sweeps import SweepError
from sweeps.storage.postgresql import (
    POSTGRESQL,
    connect_options,
    creating_tables,
    describe_password,
    try_lock_study,
)
from sweeps.storage.sqlite import (
    LOCK_EVERY_S,
    SQLITE,
    create_database,
    database_file,
    describe_unwritable,
    try_lock_folder,
)

HEARTBEAT_INTERVAL_S = 15
GRACE_PERIOD_S = 60
SQLITE_TIMEOUT_S = 60  # of a writer that waits for another
RETRY_EVERY_S = 1.0
LOCK_TIMEOUT_S = 20.0  # many times what a lock is held for; a process that holds it longer is suspended
Result = TypeVar("Result")
STATES = text("SELECT trial_id, state FROM trials WHERE study_id = :study AND trial_id >= :first")


def _print_unavailable(reason: str) -> None:
    print(f"the storage does not answer, retrying: {reason}", flush=True)


class StorageError(SweepError):
    """A call to the database failed, for example because its disk is full or read-only."""


class NoStudiesError(SweepError):
    """There is no such database, or it has no table of studies yet."""


class RetryingStorage(RDBStorage):
    """An Optuna storage whose calls retry while the database server is unavailable.

    A call may have taken effect before its connection broke. If it created a trial, the retry creates another
    one; the first has no owner, and is failed and queued again as any trial without an owner.

    Attributes:
        timeout_s: Seconds for which a call retries.
        on_unavailable: Called with the reason before each retry; an exception that it raises ends the call.
        failed_at: When the server was last found to be unavailable, on the monotonic clock.
        skip_running_with: System attribute; a running trial with it is not read again before it ends. With
            hundreds of running trials, reading them is most of a coordinator's work. None to read all.
            Studies that use it must share one cache.
    """

    timeout_s = 0.0
    on_unavailable: Callable[[str], None] = staticmethod(_print_unavailable)
    failed_at = float("-inf")
    skip_running_with: str | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._known_running: set[int] = set()

    def retry(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call, which is repeated while the server is unavailable.

        Raises:
            StorageError: If the database refuses it, or stays unavailable.
        """
        try:
            return _retry(call, self.timeout_s, self._handle_unavailable)
        except (StorageInternalError, SQLAlchemyError) as error:
            reason = f"{first_line(error)}{describe_unwritable(self.url)}"
            raise StorageError(f"sweep.storage={self.url}: {reason}") from error

    def _handle_unavailable(self, reason: str) -> None:
        self.failed_at = time.monotonic()
        self.remove_session()  # its transaction is lost
        self.on_unavailable(reason)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return the trials that Optuna's cache asks for: those included, and all newer than one of them."""
        if self.skip_running_with is None or trial_id_greater_than < 0:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        first = min(included_trial_ids | {trial_id_greater_than + 1})
        with self.engine.connect() as connection:
            rows = connection.execute(STATES, {"study": study_id, "first": first}).all()
        known = included_trial_ids & self._known_running
        wanted = {
            id_
            for id_, state in rows
            if (id_ in included_trial_ids or id_ > trial_id_greater_than)
            and not (state == TrialState.RUNNING.name and id_ in known)
        }
        if not wanted:
            return []
        found = super()._get_trials(study_id, states, wanted, max(wanted))
        running = (
            t for t in found if t.state == TrialState.RUNNING and self.skip_running_with in t.system_attrs
        )
        self._known_running = (self._known_running - wanted) | {trial._trial_id for trial in running}
        return found

    @contextlib.contextmanager
    def study_lock(self, study_id: int) -> Iterator[None]:
        """Lock a study against other coordinators, so that what was read still holds when it is acted on.

        A process that dies frees its lock; one that is suspended is waited for during `LOCK_TIMEOUT_S`. There
        are locks for SQLite files and PostgreSQL; in other databases the lock has no effect.

        Args:
            study_id: The storage's id of the study.

        Raises:
            SweepError: If an SQLite file's folder does not exist.
        """
        with contextlib.ExitStack() as lock:
            until = time.monotonic() + LOCK_TIMEOUT_S
            while not self.retry(functools.partial(self._try_lock, study_id, lock)):
                if time.monotonic() > until:
                    break
                time.sleep(LOCK_EVERY_S)
            yield

    def _try_lock(self, study_id: int, lock: contextlib.ExitStack) -> bool:
        if self.url.startswith(POSTGRESQL):
            return try_lock_study(self.engine, study_id, lock)
        if not self.url.startswith(SQLITE):
            return True
        folder = Path(self.url.removeprefix(SQLITE)).parent
        try:
            return try_lock_folder(folder, lock)
        except OSError as error:
            raise SweepError(f"sweep.storage={self.url}: {folder}: {error.strerror}") from error


_thread = threading.local()  # `is_retrying`: whether this thread is in a call that retries


def _retrying(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: RetryingStorage, *args: Any, **options: Any) -> Any:
        if getattr(_thread, "is_retrying", False):
            return method(self, *args, **options)
        _thread.is_retrying = True
        try:
            return self.retry(functools.partial(method, self, *args, **options))
        finally:
            _thread.is_retrying = False

    return call


# The last ones are methods of RDBStorage alone, the private ones called by Optuna's cache.
for _name in (
    *BaseStorage.__abstractmethods__,
    *BaseHeartbeat.__abstractmethods__,
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
):
    setattr(RetryingStorage, _name, _retrying(getattr(RetryingStorage, _name)))


def _retry(call: Callable[[], Result], timeout_s: float, on_unavailable: Callable[[str], None]) -> Result:
    until = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError) as error:
            if not is_unavailable(error) or time.monotonic() > until:
                raise
            on_unavailable(first_line(error))
            time.sleep(RETRY_EVERY_S)


def is_unavailable(error: BaseException) -> bool:
    """Return whether a retry may succeed: there was no connection, it broke, or there was a deadlock."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, OperationalError | InterfaceError | PendingRollbackError):
        return True
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


def first_line(error: BaseException) -> str:
    """Return the first line of a database's error message."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]


def open_storage(url: str, *, create: bool = True, timeout_s: float = 0.0) -> RetryingStorage:
    """Open an Optuna storage with heartbeats; an SQLite file in WAL mode.

    Args:
        url: SQLAlchemy address, without a password.
        create: Whether an SQLite file, or a server's tables, may be created.
        timeout_s: How long calls retry while the database server is unavailable; unless something may be
            created, opening too.

    Raises:
        NoStudiesError: If nothing may be created, and there is no database or it has no tables.
        SweepError: If it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if (mistake := describe_password(url)) is not None:
        raise SweepError(f"sweep.storage={mistake}")
    if url.startswith("sqlite") and url.partition("://")[2].strip("/") in ("", ":memory:"):
        raise SweepError(f"sweep.storage={url}: trials cannot share a storage in memory; give a file")
    try:
        if not url.startswith(SQLITE):
            return _open_server(url, create, timeout_s)
        file = database_file(url)
        if not create and not file.exists():
            raise NoStudiesError(f"sweep.storage={url}: no such file; a sweep creates it")
        if create:
            create_database(file, _create_tables)
        return _make(url, {"connect_args": {"timeout": SQLITE_TIMEOUT_S}}, create)
    except (OSError, sqlite3.Error, SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        reason = f"cannot be opened ({first_line(error)}){describe_unwritable(url)}"
        raise SweepError(f"sweep.storage={url}: {reason}") from error


def _open_server(url: str, create: bool, timeout_s: float) -> RetryingStorage:
    def open_once() -> RetryingStorage:
        with creating_tables(url) if create else contextlib.nullcontext():
            return _make(url, connect_options(url), create)

    storage = _retry(open_once, 0.0 if create else timeout_s, _print_unavailable)
    storage.timeout_s = timeout_s
    return storage


def _has_tables(url: str, options: dict[str, Any]) -> bool:
    """Return whether a database has Optuna's tables; the version of their schema is written last."""
    engine = create_engine(url, poolclass=NullPool, **options)
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() is not None


def _make(url: str, options: dict[str, Any], create: bool) -> RetryingStorage:
    if not create and not _has_tables(url, options):  # RDBStorage would create them
        raise NoStudiesError(f"sweep.storage={url}: holds no studies; a sweep creates its tables")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of heartbeats
        return RetryingStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_INTERVAL_S,
            grace_period=GRACE_PERIOD_S,
        )


def warm_up() -> None:
    """Load all that opening a storage loads."""
    _create_tables("sqlite://")
    with contextlib.suppress(ImportError):
        import psycopg  # noqa: F401


def _create_tables(url: str) -> None:
    storage = RDBStorage(url)
    storage.remove_session()
    storage.engine.dispose()
