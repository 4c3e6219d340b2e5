"""A worker runs one trial, records all before its end, and never outlives its coordinator."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.application import Result, load_application
from sweeps.assignment import (
    LOG_FILE,
    PROGRESS_FILE,
    Assignment,
    read_assignment,
    read_progress,
    write_assignment,
)
from sweeps.executors.base import Ended
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot
from sweeps.pruning import Pruning
from sweeps.running_trial import EXIT_FENCED, RunningTrial
from sweeps.space import to_distributions
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import PrunerSpec, open_study, trial_id
from sweeps.trials import REASON, STOP
from sweeps.worker import beat, tell
from tests.sweeps.fake_application import APPLICATION, FakeSweep, Sweep, read_started

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
TIMEOUT_S = 30.0
NO_PRUNER = {"name": "none", "max_resource": 16, "options": {}}
MEDIAN = {"name": "median", "max_resource": 16, "options": {"n_startup_trials": 1, "n_warmup_steps": 0}}
PNG = bytes.fromhex("89504e470d0a1a0a")


class FakeCoordinator:
    """A study in a file, and trials of it that are asked for and assigned as a coordinator would."""

    def __init__(self, folder: Path) -> None:
        self.sweep = Sweep(str(folder))
        self.folder = folder
        self.storage: RDBStorage = open_storage(self.sweep.storage)
        self.study: Study = open_study(self.sweep.spec().study, self.storage)

    def ask(self) -> int:
        return self.study.ask(to_distributions(self.sweep.spec().study.space)).number

    def assign(self, *acts: str, value: float = 0.5, **changes: Any) -> Assignment:
        number = self.ask()
        folder = self.sweep.trial_folder(number)
        folder.mkdir(parents=True)
        self.sweep.acts[str(number)], self.sweep.values[str(number)] = list(acts or ["succeed"]), value
        assignment = Assignment(
            application=APPLICATION,
            storage=self.sweep.storage,
            study="fake",
            number=number,
            first_attempt=number,
            config=self.sweep.compose({}, number),
            links={"opened": "fake"},
            pruner=NO_PRUNER,
            artifacts=str(self.folder / "artifacts"),
        )
        assignment = replace(assignment, **changes)
        write_assignment(folder, assignment)
        return assignment

    def running(self, assignment: Assignment) -> RunningTrial:
        pruning = Pruning(PrunerSpec(**assignment.pruner), self.study)
        return RunningTrial(assignment, self.sweep.trial_folder(assignment.number), pruning, self.storage)

    def trial(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id(self.storage, "fake", number))


@pytest.fixture
def coordinator(tmp_path: Path) -> FakeCoordinator:
    return FakeCoordinator(tmp_path)


@contextlib.contextmanager
def start(coordinator: FakeCoordinator, assignment: Assignment) -> Iterator[LocalExecutor]:
    """Give a trial to a worker, as the coordinator does."""
    executor = LocalExecutor([Slot(0, 1)], assignment.application)
    executor.start(assignment.number, coordinator.sweep.trial_folder(assignment.number))
    yield executor
    executor.close()


def run(coordinator: FakeCoordinator, assignment: Assignment) -> tuple[int, str]:
    """Run a trial's worker to its end; return its exit code and what it printed."""
    with start(coordinator, assignment) as executor:
        (ended,) = executor.wait(TIMEOUT_S)
    assert not ended.signal
    return ended.exit_code, (coordinator.sweep.trial_folder(assignment.number) / LOG_FILE).read_text()


def test_the_application_is_made_from_its_dotted_path() -> None:
    assert type(load_application(APPLICATION)) is FakeSweep
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_application("no_such_module:Application")


def test_an_assignment_survives_its_file(coordinator: FakeCoordinator) -> None:
    assignment = coordinator.assign("sleep 1", pruner=MEDIAN)
    folder = coordinator.sweep.trial_folder(assignment.number)
    assert read_assignment(folder) == assignment
    assert [path.name for path in folder.iterdir()] == ["assignment.json"]


@pytest.mark.parametrize("text", [None, "", '{"n_steps": 3, "of'])
def test_no_note_or_half_a_note_is_no_progress(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / PROGRESS_FILE).write_text(text)
    assert read_progress(tmp_path) == {}


def test_progress_is_noted_at_most_twice_a_second_and_at_the_end(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = coordinator.running(coordinator.assign())
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    noted = []
    for step, second in ((1, 0.0), (2, 0.1), (3, 0.49), (4, 0.5), (5, 0.6), (6, 0.7)):
        clock[0] = 1000.0 + second
        trial.progress(step, 6, step / 10)
        noted.append(read_progress(trial.folder)["n_steps"])
    assert noted == [1, 1, 1, 4, 4, 6]
    assert read_progress(trial.folder) == {"n_steps": 6, "total_steps": 6, "loss": 0.6, "at": 1000.7}


def test_reports_are_recorded_and_never_prune_without_a_pruner(coordinator: FakeCoordinator) -> None:
    first, second = (coordinator.running(coordinator.assign()) for _ in range(2))
    assert all(first.report(step, 1.0) for step in range(1, 5))
    assert all(second.report(step, 9.0) for step in range(1, 5))
    assert coordinator.trial(1).intermediate_values == {1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0}


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
@pytest.mark.parametrize(("value", "goes_on"), [(0.5, True), (9.0, False), (math.nan, False)])
def test_a_report_asks_the_pruner_for_which_nan_is_the_worst(
    coordinator: FakeCoordinator, value: float, goes_on: bool
) -> None:
    first = coordinator.running(coordinator.assign(pruner=MEDIAN))
    assert all(first.report(step, 1.0) for step in (4, 8))
    coordinator.study.tell(0, 1.0)
    second = coordinator.running(coordinator.assign(pruner=MEDIAN))
    assert second.report(4, value) == goes_on


def test_a_trial_that_was_failed_by_others_is_left_to_them(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def abandon() -> None:
        raise SystemExit(EXIT_FENCED)

    monkeypatch.setattr("sweeps.running_trial.abandon", abandon)
    trial = coordinator.running(coordinator.assign())
    coordinator.study.tell(0, state=TrialState.FAIL)
    with pytest.raises(SystemExit, match=str(EXIT_FENCED)):
        trial.report(1, 0.5)


def test_attributes_and_pictures_are_recorded_before_the_end(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    trial = coordinator.running(coordinator.assign())
    picture = tmp_path / "output.png"
    picture.write_bytes(PNG)
    result = Result("complete", (0.25,), {"n_steps": 3}, [picture])
    tell(trial, coordinator.study, coordinator.storage, result, str(tmp_path / "artifacts"))
    recorded = coordinator.trial(0)
    assert (recorded.state, recorded.values) == (TrialState.COMPLETE, [0.25])
    assert recorded.user_attrs == {"n_steps": 3, REASON: "complete"}
    (meta,) = get_all_artifact_meta(recorded, storage=coordinator.storage)
    assert (meta.filename, meta.mimetype) == ("output.png", "image/png")
    with FileSystemArtifactStore(str(tmp_path / "artifacts")).open_reader(meta.artifact_id) as stored:
        assert stored.read() == PNG


def test_a_picture_that_cannot_be_recorded_leaves_the_trial_running_for_the_coordinator(
    coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    trial = coordinator.running(coordinator.assign())
    result = Result("complete", (0.25,), pictures=[tmp_path / "gone.png"])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        tell(trial, coordinator.study, coordinator.storage, result, str(tmp_path / "artifacts"))
    assert coordinator.trial(0).state == TrialState.RUNNING


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("pruned", TrialState.PRUNED),
        ("diverged", TrialState.FAIL),
        ("interrupted", TrialState.FAIL),
        ("crashed", TrialState.FAIL),
    ],
)
def test_other_ends_are_recorded_with_their_reason(
    coordinator: FakeCoordinator, tmp_path: Path, reason: str, state: TrialState
) -> None:
    trial = coordinator.running(coordinator.assign())
    tell(trial, coordinator.study, coordinator.storage, Result(reason, (0.5,)), str(tmp_path / "artifacts"))
    assert (coordinator.trial(0).state, coordinator.trial(0).user_attrs) == (state, {REASON: reason})


class BusyStorage:
    """Its first beat fails, as where the disk is full for a moment."""

    heartbeat_interval = 0.01

    def __init__(self, state: TrialState, **user_attrs: Any) -> None:
        self.user_attrs = user_attrs
        self.beats: list[int] = []
        self.done = threading.Event()
        self._state = state

    def beat_for(self, trial: RunningTrial) -> None:
        beat(self, trial, self.done)  # type: ignore[arg-type]  # it has all of a storage that `beat` uses

    def record_heartbeat(self, id_: int) -> None:
        self.beats.append(id_)
        if len(self.beats) == 1:
            raise OSError("disk is busy")
        if len(self.beats) == 3:
            self.done.set()

    def get_trial(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(state=self._state, user_attrs=self.user_attrs)


def test_heartbeats_are_recorded_until_the_trial_is_done(
    coordinator: FakeCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, trial = BusyStorage(TrialState.RUNNING), coordinator.running(coordinator.assign())
    storage.beat_for(trial)
    assert not trial.cancelled()
    assert storage.beats == [trial.id] * 3
    assert capsys.readouterr().out == "heartbeat failed: disk is busy\n"


def test_a_heartbeat_cancels_a_trial_that_is_to_stop(coordinator: FakeCoordinator) -> None:
    storage, trial = (
        BusyStorage(TrialState.RUNNING, **{STOP: True}),
        coordinator.running(coordinator.assign()),
    )
    storage.beat_for(trial)
    assert trial.cancelled()


def test_a_heartbeat_abandons_a_trial_that_others_have_ended(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def abandon() -> None:
        raise SystemExit(EXIT_FENCED)

    monkeypatch.setattr("sweeps.worker.abandon", abandon)
    storage, trial = BusyStorage(TrialState.FAIL), coordinator.running(coordinator.assign())
    with pytest.raises(SystemExit, match=str(EXIT_FENCED)):
        storage.beat_for(trial)
    assert storage.beats == [trial.id] * 2


def test_a_worker_records_its_trial(coordinator: FakeCoordinator) -> None:
    assignment = coordinator.assign(value=0.125)
    assert run(coordinator, assignment) == (0, "")
    recorded = coordinator.trial(0)
    assert (recorded.state, recorded.values) == (TrialState.COMPLETE, [0.125])
    assert recorded.user_attrs == {"n_steps": 16, REASON: "complete"}


def test_a_worker_builds_the_assigned_pruner(coordinator: FakeCoordinator) -> None:
    first = coordinator.assign("report", value=1.0, pruner=MEDIAN)
    assert run(coordinator, first)[0] == 0
    second = coordinator.assign("report", value=9.0, pruner=MEDIAN)
    assert run(coordinator, second)[0] == 0
    recorded = coordinator.trial(second.number)
    assert (recorded.state, recorded.user_attrs[REASON]) == (TrialState.PRUNED, "pruned")
    assert recorded.intermediate_values == {1: 9.0}


def test_a_crash_is_recorded_with_its_error_and_its_traceback_in_the_log(
    coordinator: FakeCoordinator,
) -> None:
    code, output = run(coordinator, coordinator.assign("crash"))
    assert code == 0
    recorded = coordinator.trial(0)
    assert recorded.state == TrialState.FAIL
    assert recorded.user_attrs == {"error": "ValueError: crashed on purpose in trial 0", REASON: "crashed"}
    assert output.startswith("Traceback (most recent call last):")
    assert output.rstrip().endswith("ValueError: crashed on purpose in trial 0")


def test_an_application_that_cannot_be_loaded_is_a_crash(coordinator: FakeCoordinator) -> None:
    code, _ = run(coordinator, coordinator.assign(application="no_such_module:Application"))
    assert code == 0
    assert coordinator.trial(0).user_attrs["error"] == "ModuleNotFoundError: No module named 'no_such_module'"


def test_a_worker_whose_study_is_gone_reports_it(coordinator: FakeCoordinator) -> None:
    code, output = run(coordinator, coordinator.assign(study="other"))
    assert code == 1
    assert output.strip() == f"study 'other' is gone from {coordinator.sweep.storage}"


def wait_until_started(coordinator: FakeCoordinator, number: int) -> int:
    until = time.monotonic() + TIMEOUT_S
    while not (started := read_started(coordinator.sweep.trial_folder(number))):
        assert time.monotonic() < until, "the trial did not start"
        time.sleep(0.01)
    return started[-1][2]


def test_sigterm_ends_a_trial_where_it_can_be_resumed_and_ctrl_c_does_not_reach_it(
    coordinator: FakeCoordinator,
) -> None:
    with start(coordinator, coordinator.assign("hang")) as executor:
        pid = wait_until_started(coordinator, 0)
        os.kill(pid, signal.SIGINT)
        assert executor.wait(0.2) == []
        os.kill(pid, signal.SIGTERM)
        assert executor.wait(TIMEOUT_S) == [Ended(0, signal=0, exit_code=0)]
    assert (coordinator.sweep.trial_folder(0) / LOG_FILE).read_text() == ""
    assert (coordinator.trial(0).state, coordinator.trial(0).user_attrs[REASON]) == (
        TrialState.FAIL,
        "interrupted",
    )
