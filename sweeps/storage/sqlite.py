"""SQLite: files that several processes may create at once, and locks."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

SQLITE = "sqlite:///"
RESERVED = "?%"  # in addresses: of options, and of encoded characters
CREATE_TIMEOUT_S = 120.0  # for another process that creates a database; MLflow's takes 8 s on a free core
LOCK_EVERY_S = 0.01
LOCK_FILE = ".lock"
REMOTE_FILE_SYSTEMS = {  # by `f_type` of statfs(2)
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x786F4256: "VirtualBox",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
}


def database_file(address: str) -> Path:
    """Return the file of an SQLite address.

    Raises:
        ValueError: If SQLAlchemy would open another one.
    """
    if any(character in address for character in RESERVED):
        raise ValueError(f"an SQLite address cannot hold {' or '.join(RESERVED)}; give another path")
    return Path(address.removeprefix(SQLITE))


def describe_unwritable(address: str | Path) -> str:
    """Return the end of an error line if the folder of a database cannot be written; else an empty string.

    In WAL mode SQLite writes there even to read.
    """
    file = Path(str(address).removeprefix(SQLITE))
    if not file.exists() or os.access(file.parent, os.W_OK):
        return ""
    return f"; {file.parent} is not writable: copy it to another disk, and give runs_dir=COPY"


def create_database(file: Path, create: Callable[[str], None]) -> None:
    """Create a database unless it exists. The file appears whole or not at all.

    Its journal is in WAL mode, which needs memory that all its processes share. On file systems of several
    machines, and those in user space, it is in DELETE mode.

    Args:
        file: File of the database; its folder is created.
        create: Creates a database at an SQLAlchemy address and closes all its connections.

    Raises:
        OSError: If the folder or the file cannot be written, or another process creates it for too long.
        sqlite3.Error: If the file exists and is no database.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = remote_file_system(file.parent)
    if kind is not None:
        _warn_of_remote(file.parent, kind)
    if not file.exists():
        with contextlib.ExitStack() as lock:
            _lock_folder(file.parent, lock)
            if not file.exists():
                _create_whole(file, create)
    _set_journal(file, "WAL" if kind is None else "DELETE")


def _create_whole(file: Path, create: Callable[[str], None]) -> None:
    """Create a database under another name and rename it; hard links are not in all file systems."""
    partial = file.with_name(f".{file.name}.partial")
    _delete(partial)  # left by a process that was killed
    try:
        create(f"{SQLITE}{partial}")
        _set_journal(partial, "DELETE")  # the whole database in one file
        partial.replace(file)
    finally:
        _delete(partial)


def remote_file_system(folder: Path) -> str | None:
    """Return the kind of the file system of a folder if several machines may share it, or if it is FUSE."""
    result = (ctypes.c_long * 64)()  # larger than struct statfs, which begins with f_type
    if sys.platform != "linux" or ctypes.CDLL(None).statfs(os.fsencode(folder), result):
        return None
    return REMOTE_FILE_SYSTEMS.get(result[0] & 0xFFFFFFFF)


@functools.cache
def _warn_of_remote(folder: Path, kind: str) -> None:
    print(
        f"{folder}: a remote file system ({kind}), where SQLite is slow, and safe only if locks work there; "
        "better give runs_dir on a local disk, or addresses of servers in sweep.storage and tracking.uri",
        file=sys.stderr,
    )


def _delete(file: Path) -> None:
    """Delete a database with its journals."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _set_journal(file: Path, mode: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")


def _lock_folder(folder: Path, lock: contextlib.ExitStack) -> None:
    until = time.monotonic() + CREATE_TIMEOUT_S
    while not try_lock_folder(folder, lock):
        if time.monotonic() > until:
            raise TimeoutError(f"another process has locked {folder} for {CREATE_TIMEOUT_S:.0f} s")
        time.sleep(LOCK_EVERY_S)


def try_lock_folder(folder: Path, lock: contextlib.ExitStack) -> bool:
    """Try to lock the folder of a database; return whether it is locked now.

    It locks the folder, as to free a lock on the database would free SQLite's own locks too; on a remote file
    system a file of its own, as only those are locked on other machines too.

    Args:
        folder: The folder.
        lock: Frees the folder when it is closed.

    Raises:
        OSError: If the folder cannot be read, or the file system has no locks.
    """
    if remote_file_system(folder) is None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    else:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    lock.callback(os.close, descriptor)
    return True
