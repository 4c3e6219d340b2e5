"""Studies are seen, stopped, repaired and deleted from outside their sweeps."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from rich.console import Console

from sweeps import SweepError
from sweeps.admin import Studies
from sweeps.ownership import describe_owner
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import open_study
from sweeps.trials import FIRST_ATTEMPT, OWNER, RETRY_OF, STOP
from tests.sweeps.fake_application import Sweep

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
TIMEOUT_S = 60.0


@pytest.fixture
def ended(tmp_path: Path) -> Sweep:
    sweep = Sweep(str(tmp_path), n_trials=4, acts={"1": ["diverge"], "2": ["crash"]}, values={"3": -1.0})
    sweep.run()
    return sweep


def test_what_is_known_of_a_study(ended: Sweep) -> None:
    studies = Studies(ended.storage)
    state = studies.status("fake")
    assert studies.names() == ["fake"]
    assert state.counts == {"complete": 2, "diverged": 1, "crashed": 1}
    assert state.best is not None
    assert (state.best.number, state.best.values, state.objectives) == (3, [-1.0], ["value"])
    assert {note.error for note in state.failed} == {"loss nan", "ValueError: crashed on purpose in trial 2"}
    assert sorted(state.finished) == [0, 1, 2, 3]
    assert (state.running, state.orphaned, state.n_queued, state.n_steps) == ([], [], 0, 32)


def test_what_is_not_there_or_does_not_run_is_not_stopped(ended: Sweep) -> None:
    studies = Studies(ended.storage)
    with pytest.raises(SweepError, match="study 'leaf': no such study; there are: fake"):
        studies.status("leaf")
    with pytest.raises(SweepError, match="study 'fake': no trial is running"):
        studies.stop("fake")
    with pytest.raises(SweepError, match="trial 3 is complete; no trial is running"):
        studies.stop("fake", 3)
    with pytest.raises(SweepError, match="trial 9 does not exist"):
        studies.stop("fake", 9)
    with pytest.raises(SweepError, match="no such file; a sweep creates it"):
        Studies("sqlite:////nowhere/optuna.db")


def test_a_sweep_stops_when_it_is_asked_to_and_the_next_one_does_not(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, acts={"0": ["hang", "succeed"]}, processes=True)

    def ask() -> None:
        until = time.monotonic() + TIMEOUT_S
        while not (sweep.trial_folder(0) / "started.txt").exists() and time.monotonic() < until:
            time.sleep(0.02)
        # From a process of its own, as a person does: this one's own trials would be of an earlier boot.
        program = f"from sweeps.admin import Studies; Studies({sweep.storage!r}).stop('fake')"
        subprocess.run([sys.executable, "-c", program], check=True)

    asking = threading.Thread(target=ask)
    asking.start()
    out = io.StringIO()
    summary = sweep.run(Console(file=out))
    asking.join()
    assert summary.interrupted
    assert "asked to stop: trials save checkpoints" in out.getvalue()
    assert sweep.run().counts == {"complete": 2}


def test_trials_of_a_coordinator_that_is_gone_are_queued_again(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1)
    storage = open_storage(sweep.storage)
    study = open_study(sweep.spec().study, storage)
    trial = study.ask()
    trial.set_user_attr(OWNER, describe_owner())
    studies = Studies(sweep.storage)
    assert [note.number for note in studies.status("fake").orphaned] == [0]
    assert studies.repair("fake") == 1
    assert studies.repair("fake") == 0
    states = [t.state for t in study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.WAITING]
    assert sweep.run().counts == {"complete": 1}


def test_a_trial_that_is_being_created_is_not_taken_for_orphaned(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1)
    storage = open_storage(sweep.storage)
    study = open_study(sweep.spec().study, storage)
    asked = threading.Event()

    def ask() -> None:
        with storage.study_lock(study._study_id):
            trial = study.ask()
            asked.set()
            time.sleep(0.5)  # as a sampler that takes its time
            trial.set_user_attr(OWNER, describe_owner() | {"pid": os.getppid()})

    asking = threading.Thread(target=ask)
    asking.start()
    asked.wait()
    state = Studies(sweep.storage).status("fake")
    asking.join()
    assert ([trial.number for trial in state.running], state.orphaned) == ([0], [])


def test_a_retried_trial_has_the_reports_of_all_its_attempts(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path))
    storage = open_storage(sweep.storage)
    study = open_study(sweep.spec().study, storage)
    first, second = (study.ask() for _ in range(2))
    second.set_user_attr(FIRST_ATTEMPT, 0)
    second.set_user_attr(RETRY_OF, 0)
    for trial, steps in ((first, (1, 2, 3)), (second, (3, 4))):
        for step in steps:
            storage.set_trial_intermediate_value(trial._trial_id, step, step / 10)
    study.tell(0, state=TrialState.FAIL)
    study.tell(1, 0.5)
    (note,) = Studies(sweep.storage).trials("fake")
    assert (note.number, note.first_attempt) == (1, 0)
    assert note.reports == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}


def test_a_trial_is_stopped_by_the_number_of_any_of_its_attempts(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path))
    study = open_study(sweep.spec().study, open_storage(sweep.storage))
    first, second = (study.ask() for _ in range(2))
    second.set_user_attr(FIRST_ATTEMPT, 0)
    second.set_user_attr(RETRY_OF, 0)
    second.set_user_attr(OWNER, describe_owner() | {"pid": os.getppid()})
    study.tell(first, state=TrialState.FAIL)
    studies = Studies(sweep.storage)
    for number in (0, 1):
        second.set_user_attr(STOP, False)
        studies.stop("fake", number)
        assert study.get_trials()[1].user_attrs[STOP] is True
    with pytest.raises(SweepError, match="trial 2 does not exist; running trials: 0"):
        studies.stop("fake", 2)


def test_a_deleted_study_is_gone_with_its_pictures_and_no_other(ended: Sweep, tmp_path: Path) -> None:
    replace(ended, study="other").run()
    studies = Studies(ended.storage)
    studies.delete("fake", tmp_path / "artifacts")
    assert studies.names() == ["other"]
    with pytest.raises(SweepError, match="no such study"):
        studies.status("fake")
