"""Opening an Optuna storage, which sweeps, workers and those who look at studies share."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from sweeps import SweepError
from sweeps.storage.postgresql import (
    POSTGRESQL,
    connect_options,
    creating_tables,
    has_password,
    take_turn_in_database,
    without_password,
)
from sweeps.storage.sqlite import SQLITE, create_database, take_turn_in_folder

__all__ = ["GRACE_PERIOD_S", "RetryingStorage", "first_line", "open_storage", "warm_up"]

HEARTBEAT_INTERVAL_S = 15
GRACE_PERIOD_S = 60
SQLITE_TIMEOUT_S = 60  # how long a writer waits for another
RETRY_EVERY_S = 1.0
TURN_PATIENCE_S = 20.0  # many times what a turn takes; whoever holds one longer is suspended
TURN_EVERY_S = 0.01
STATES = text("SELECT trial_id, state FROM trials WHERE study_id = :study AND trial_id >= :first")


def _say_away(reason: str) -> None:
    print(f"the storage does not answer, waiting for it: {reason}", flush=True)


class RetryingStorage(RDBStorage):
    """An Optuna storage whose calls retry while the database server is unavailable.

    A call may have taken effect before its connection broke. If it created a trial, the retry creates another
    one; the first has no owner, and is failed and queued again as any trial without an owner.

    Attributes:
        timeout_s: Seconds for which a call retries.
        on_unavailable: Called with the reason before each retry; an exception that it raises ends the call.
        recovered_at: When a call last succeeded after a retry, on the monotonic clock.
        skip_running_with: User attribute; a running trial that has it is not read again before it ends. With
            hundreds of running trials, reading them is most of a coordinator's work. None to read all.
            Studies that use it must share one cache.
    """

    timeout_s = 0.0
    on_unavailable: Callable[[str], None] = staticmethod(_say_away)
    recovered_at = float("-inf")
    skip_running_with: str | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._settled: set[int] = set()

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return what Optuna's cache asks for: some trials, and all that are newer than a finished one."""
        if self.skip_running_with is None or trial_id_greater_than < 0:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        first = min(included_trial_ids | {trial_id_greater_than + 1})
        with self.engine.connect() as connection:
            rows = connection.execute(STATES, {"study": study_id, "first": first}).all()
        known = included_trial_ids & self._settled
        wanted = {
            number
            for number, state in rows
            if (number in included_trial_ids or number > trial_id_greater_than)
            and not (state == TrialState.RUNNING.name and number in known)
        }
        if not wanted:
            return []
        found = super()._get_trials(study_id, states, wanted, max(wanted))
        running = (
            t for t in found if t.state == TrialState.RUNNING and self.skip_running_with in t.user_attrs
        )
        self._settled = (self._settled - wanted) | {trial._trial_id for trial in running}
        return found

    @contextlib.contextmanager
    def study_lock(self, study_id: int) -> Iterator[None]:
        """Keep other coordinators of a study waiting, so that what was read still holds when it is acted on.

        Its end is the end of the lock: a process that dies frees it, one that is suspended holds it up for
        `TURN_PATIENCE_S`. SQLite files and PostgreSQL have turns; other databases let everybody in.

        Args:
            study_id: The storage's id of the study.

        Raises:
            SweepError: If an SQLite file's folder is not there.
        """
        with contextlib.ExitStack() as held:
            until = time.monotonic() + TURN_PATIENCE_S
            while not _wait_for(functools.partial(self._take_turn, study_id, held), self):
                if time.monotonic() > until:
                    break
                time.sleep(TURN_EVERY_S)
            yield

    def _take_turn(self, study_id: int, held: contextlib.ExitStack) -> bool:
        if self.url.startswith(SQLITE):
            folder = Path(self.url.removeprefix(SQLITE)).parent
            try:
                return take_turn_in_folder(folder, held)
            except OSError as error:
                raise SweepError(f"sweep.storage={self.url}: {folder}: {error.strerror}") from error
        if self.url.startswith(POSTGRESQL):
            return take_turn_in_database(self.engine, study_id, held)
        return True


_within = threading.local()  # whether this thread is in a call already


def _patiently(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: RetryingStorage, *args: Any, **options: Any) -> Any:
        if getattr(_within, "call", False):
            return method(self, *args, **options)
        _within.call = True
        try:
            return _wait_for(functools.partial(method, self, *args, **options), self)
        finally:
            _within.call = False

    return call


_CALLS = (*BaseStorage.__abstractmethods__, *BaseHeartbeat.__abstractmethods__)
# Of RDBStorage alone; the private ones are what Optuna's cache before it calls.
_OF_DATABASES = (
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
)
for _name in (*_CALLS, *_OF_DATABASES):
    setattr(RetryingStorage, _name, _patiently(getattr(RetryingStorage, _name)))


def _wait_for(call: Callable[[], Any], storage: RetryingStorage) -> Any:
    until = time.monotonic() + storage.timeout_s
    waited = False
    while True:
        try:
            result = call()
        except (StorageInternalError, SQLAlchemyError) as error:
            if not is_unavailable(error) or time.monotonic() > until:
                raise
            storage.remove_session()  # whose transaction is lost
            storage.on_unavailable(first_line(error))
            waited = True
            time.sleep(RETRY_EVERY_S)
        else:
            if waited:
                storage.recovered_at = time.monotonic()
            return result


def is_unavailable(error: BaseException) -> bool:
    """Say whether an error may go away with time: no connection, a connection that broke, a deadlock."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, OperationalError | InterfaceError | PendingRollbackError):
        return True
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


def first_line(error: BaseException) -> str:
    """Return what a database said, in a line."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]


def open_storage(url: str, *, create: bool = True, timeout_s: float = 0.0) -> RetryingStorage:
    """Open an Optuna storage with heartbeats; an SQLite file in WAL mode.

    Args:
        url: SQLAlchemy address, without a password.
        create: Whether an SQLite file, or a server's tables, may be created.
        timeout_s: How long calls wait for a database server that is away; where nothing may be created,
            opening too. See `RetryingStorage`.

    Raises:
        SweepError: If it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if has_password(url):
        raise SweepError(
            f"sweep.storage={without_password(url)}: leave the password out of the address, where it would "
            "be recorded; give it in PGPASSWORD or in ~/.pgpass"
        )
    if url.startswith("sqlite") and url.partition("://")[2].strip("/") in ("", ":memory:"):
        raise SweepError(f"sweep.storage={url}: trials cannot share a storage in memory; give a file")
    try:
        if not url.startswith(SQLITE):
            return _open_server(url, create, timeout_s)
        file = Path(url.removeprefix(SQLITE))
        if not create and not file.exists():
            raise SweepError(f"sweep.storage={url}: no such file; a sweep creates it")
        create_database(file, _create_tables)
        return _make(url, {"connect_args": {"timeout": SQLITE_TIMEOUT_S}})
    except (OSError, sqlite3.Error, SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise SweepError(f"sweep.storage={url}: cannot be opened ({first_line(error)})") from error


def _open_server(url: str, create: bool, timeout_s: float) -> RetryingStorage:
    until = time.monotonic() + (0.0 if create else timeout_s)
    while True:
        try:
            with creating_tables(url) if create else contextlib.nullcontext():
                storage = _make(url, connect_options(url))
        except SQLAlchemyError as error:
            if not is_unavailable(error) or time.monotonic() > until:
                raise
            _say_away(first_line(error))
            time.sleep(RETRY_EVERY_S)
        else:
            storage.timeout_s = timeout_s
            return storage


def _make(url: str, options: dict[str, Any]) -> RetryingStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of heartbeats
        return RetryingStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_INTERVAL_S,
            grace_period=GRACE_PERIOD_S,
        )


def warm_up() -> None:
    """Load what opening a storage loads, so that processes forked from this one have it."""
    _create_tables("sqlite://")
    with contextlib.suppress(ImportError):
        import psycopg  # noqa: F401


def _create_tables(url: str) -> None:
    storage = RDBStorage(url)
    storage.remove_session()
    storage.engine.dispose()
