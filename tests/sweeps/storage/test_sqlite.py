"""A database appears whole or not at all."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.storage.sqlite import create_database

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


def test_the_rest_of_a_dead_process_with_the_same_number_is_no_hindrance(tmp_path: Path) -> None:
    file = tmp_path / "made.db"
    (tmp_path / f".made.db.{os.getpid()}").write_bytes(b"half a database " * 100)

    def create(url: str) -> None:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("CREATE TABLE ours (value)")
        connection.close()

    create_database(file, create)
    assert [path.name for path in tmp_path.iterdir()] == ["made.db"]
