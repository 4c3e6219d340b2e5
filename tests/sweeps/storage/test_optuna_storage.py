"""Coordinators of a study lock it in turn, and read what may have changed and not what cannot."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sweeps import SweepError
from sweeps.storage.optuna_storage import RetryingStorage, open_storage
from tests.sweeps.locking import expect_study_lock

# Locks a study and keeps the lock.
HOLDER = """
import sys, time
from sweeps.storage.optuna_storage import open_storage
with open_storage(sys.argv[1]).study_lock(1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    expect_study_lock(f"sqlite:///{tmp_path / 'optuna.db'}")


def test_a_dead_process_frees_its_lock_and_one_that_keeps_it_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    storage = open_storage(address)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, address], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr("sweeps.storage.optuna_storage.LOCK_TIMEOUT_S", 0.5)
        since = time.monotonic()
        with storage.study_lock(1):
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


def take(storage: RetryingStorage) -> None:
    with storage.study_lock(1):
        pass


def test_a_folder_that_has_gone_is_one_line(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'folder' / 'optuna.db'}"
    storage = open_storage(address)
    (tmp_path / "folder").rename(tmp_path / "gone")
    with pytest.raises(SweepError, match=r"sweep\.storage=.*folder: No such file"):
        take(storage)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")
def test_running_trials_with_an_owner_are_read_again_when_they_run_no_longer(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    ours, theirs = open_storage(address), open_storage(address)
    other = optuna.create_study(study_name="shared", storage=theirs)
    ours.skip_running_with = "owner"
    study = optuna.load_study(study_name="shared", storage=ours)
    first, owned, orphan = (other.ask() for _ in range(3))
    other.tell(first, 0.5)
    theirs.set_trial_system_attr(owned._trial_id, "owner", 1)

    def status() -> list[tuple[str, dict[str, int]]]:
        return [(t.state.name, t.user_attrs | t.system_attrs) for t in study.get_trials(deepcopy=False)]

    for _ in range(2):
        assert status() == [("COMPLETE", {}), ("RUNNING", {"owner": 1}), ("RUNNING", {})]
    owned.set_user_attr("later", 2)
    theirs.set_trial_system_attr(orphan._trial_id, "owner", 3)
    assert status() == [("COMPLETE", {}), ("RUNNING", {"owner": 1}), ("RUNNING", {"owner": 3})]
    newest = other.ask()
    other.enqueue_trial({})
    other.tell(owned, state=TrialState.FAIL)
    states = ["COMPLETE", "FAIL", "RUNNING", "RUNNING", "WAITING"]
    assert [state for state, _ in status()] == states
    assert status()[1] == ("FAIL", {"owner": 1, "later": 2})
    other.tell(newest, 0.1)
    other.tell(orphan, 0.2)
    assert [t.value for t in study.get_trials()] == [0.5, None, 0.2, 0.1, None]
