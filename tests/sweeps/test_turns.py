"""Coordinators of a study take turns, and whoever dies or is suspended does not hold them up for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeps import SweepError
from sweeps.storage import PatientStorage, open_storage
from tests.sweeps.turns import expect_turns

# Takes a turn and keeps it.
HOLDER = """
import sys, time
from sweeps.storage import open_storage
with open_storage(sys.argv[1]).turn(1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    expect_turns(f"sqlite:///{tmp_path / 'optuna.db'}")


def test_a_dead_process_frees_its_turn_and_one_that_keeps_it_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    storage = open_storage(address)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, address], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr("sweeps.storage.TURN_PATIENCE_S", 0.5)
        since = time.monotonic()
        with storage.turn(1):
            assert time.monotonic() - since >= 0.5
        monkeypatch.undo()
        taken = threading.Thread(target=take, args=(storage,))
        taken.start()
        holder.kill()
        taken.join(timeout=5.0)
        assert not taken.is_alive()
    finally:
        holder.kill()
        holder.communicate()


def take(storage: PatientStorage) -> None:
    with storage.turn(1):
        pass


def test_a_folder_that_has_gone_is_one_line(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'folder' / 'optuna.db'}"
    storage = open_storage(address)
    (tmp_path / "folder").rename(tmp_path / "gone")
    with pytest.raises(SweepError, match=r"sweep\.storage=.*folder: No such file"):
        take(storage)
