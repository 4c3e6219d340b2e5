"""A database appears whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.storage.sqlite import SQLITE, create_database, remote_file_system, try_lock_folder

# Makes a table in two transactions, the second after a while, as a migration would.
MAKER = """
import sqlite3, sys, time
from pathlib import Path
from sweeps.storage.sqlite import create_database

def create(url):
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute("CREATE TABLE made (by TEXT)")
    connection.commit()
    print("half", flush=True)
    time.sleep(float(sys.argv[2]))
    connection.execute("INSERT INTO made VALUES ('a maker')")
    connection.commit()
    connection.close()

create_database(Path(sys.argv[1]), create)
with sqlite3.connect(sys.argv[1]) as connection:
    assert connection.execute("SELECT count(*) FROM made").fetchone() == (1,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
connection.close()
"""


def start(file: Path, pause_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(file), str(pause_s)], stdout=subprocess.PIPE, text=True
    )


def test_many_that_make_the_same_file_find_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "made.db"
    makers = [start(file, 0.1 * (number % 3)) for number in range(8)]
    for maker in makers:
        maker.communicate(timeout=60)
    assert [maker.returncode for maker in makers] == [0] * 8
    assert [path.name for path in file.parent.iterdir()] == ["made.db"]


def test_one_that_dies_leaves_no_half_of_it(tmp_path: Path) -> None:
    file = tmp_path / "made.db"
    maker = start(file, 60.0)
    assert maker.stdout is not None
    assert maker.stdout.readline() == "half\n"
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    assert not file.exists()
    second = start(file, 0.0)
    second.communicate(timeout=60)
    assert second.returncode == 0


def test_what_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "made.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE ours (value)")
    connection.close()
    create_database(file, lambda url: pytest.fail(f"{url} was made again"))
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("ours",)]
    connection.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "made.db"
    file.write_bytes(b"no database at all " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        create_database(file, lambda url: None)


def test_the_rest_of_a_killed_process_is_no_hindrance(tmp_path: Path) -> None:
    file = tmp_path / "made.db"
    (tmp_path / ".made.db.partial").write_bytes(b"half a database " * 100)
    create_database(file, create_ours)
    assert [path.name for path in tmp_path.iterdir()] == ["made.db"]


def create_ours(url: str) -> None:
    with sqlite3.connect(url.removeprefix(SQLITE)) as connection:
        connection.execute("CREATE TABLE ours (value)")
    connection.close()


def journal_of(file: Path) -> str:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    create_database(tmp_path / "made.db", create_ours)
    assert journal_of(tmp_path / "made.db") == "wal"


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have statfs report NFS for every folder."""

    class Libc:
        def statfs(self, folder: bytes, result: ctypes.Array[ctypes.c_long]) -> int:
            result[0] = 0x6969
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())


@pytest.mark.usefixtures("nfs")
def test_a_database_on_a_network_file_system_has_no_wal_and_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, moved_here = tmp_path / "made.db", tmp_path / "moved.db"
    create_ours(f"{SQLITE}{moved_here}")
    with contextlib.closing(sqlite3.connect(moved_here)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    for each in (file, file, moved_here):
        create_database(each, create_ours)
        assert journal_of(each) == "delete"
    printed = capsys.readouterr().err
    assert printed.startswith(f"{tmp_path}: a remote file system (NFS)")
    assert printed.count("\n") == 1


@pytest.mark.usefixtures("nfs")
def test_the_lock_on_a_network_file_system_is_a_file_that_its_server_can_lock(tmp_path: Path) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        assert try_lock_folder(tmp_path, first)
        assert not try_lock_folder(tmp_path, second)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with (tmp_path / ".lock").open("r+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.close()
        assert try_lock_folder(tmp_path, second)


def test_the_kernel_names_the_file_system_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.storage.sqlite.REMOTE_FILE_SYSTEMS", {0x9FA0: "proc"})
    assert remote_file_system(Path("/proc/self")) == "proc"
    assert remote_file_system(tmp_path) is None


def test_a_process_that_creates_for_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.storage.sqlite.CREATE_TIMEOUT_S", 0.1)
    with contextlib.ExitStack() as lock:
        assert try_lock_folder(tmp_path, lock)
        with pytest.raises(TimeoutError, match="another process has locked"):
            create_database(tmp_path / "made.db", create_ours)
