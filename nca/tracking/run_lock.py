"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nca.cli.errors import ConfigError

__all__ = ["hold", "is_held"]

LOCK_FILE = "lock"  # holds the process id of who holds it, or held it last
RETRY_EVERY_S = 0.1


@contextlib.contextmanager
def hold(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a run's folder, created where missing, against other processes; a dead one holds nothing.

    Args:
        folder: The run's.
        patience_s: How long to wait for another that is about to leave.

    Raises:
        ConfigError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    with (folder / LOCK_FILE).open("a+") as file:
        while not _try(file.fileno()):
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
    """Say whether a process holds a run's folder."""
    file = folder / LOCK_FILE
    if not file.exists():
        return False
    with file.open("r+") as opened:
        return not _try(opened.fileno())


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
