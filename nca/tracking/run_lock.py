"""Lock of a run's folder, held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nca.cli.errors import ConfigError

LOCK_FILE = "lock"  # has the id of the process that holds it, or held it last
RETRY_EVERY_S = 0.1
QUERY_S = 1.0  # many times what `is_held` holds a lock for


@contextlib.contextmanager
def hold(folder: Path, timeout_s: float = QUERY_S) -> Iterator[None]:
    """Lock a run's folder, created where missing; the end of the process unlocks it too.

    Args:
        folder: The run's.
        timeout_s: How long to wait for another process that is about to unlock it. The default is for one
            that calls `is_held`.

    Raises:
        ConfigError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + timeout_s
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > until:
                file.seek(0)
                raise ConfigError(
                    f"{folder}: process {file.read().strip()} trains this run; wait for it, or stop it"
                )
            time.sleep(RETRY_EVERY_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process holds a run's folder."""
    file = folder / LOCK_FILE
    if not file.exists():
        return False
    with file.open("r+", encoding="utf-8") as opened:
        return not _try_lock(opened.fileno())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
