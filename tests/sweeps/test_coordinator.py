"""A sweep keeps every slot busy, ends at its exact total, and continues where it was."""

from __future__ import annotations

import io
import itertools
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from optuna_dashboard import get_note, save_note
from rich.console import Console

import sweeps.coordinator
import sweeps.recovery
import sweeps.storage.optuna_storage
from sweeps import SweepError
from sweeps.admin import Studies
from sweeps.application import DashboardNotes
from sweeps.assignment import read_assignment
from sweeps.coordinator import Coordinator
from sweeps.ownership import describe_owner
from sweeps.progress import Progress
from sweeps.space import to_distributions
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import FINGERPRINT, LINKS, UID, find_study, open_study, read_records, write_record
from sweeps.trials import (
    FIRST_ATTEMPT,
    OWNER,
    PREDICTED,
    REASON,
    RETRY_OF,
    SUGGESTED,
    WARM_START,
    final_trials,
    first_attempt,
)
from tests.refused_writes import refuse_writes
from tests.sweeps.fake_application import N_STEPS, SPACE, FakeSweep, Sweep, read_started
from tests.sweeps.in_process import InProcessExecutor

REFILL_S = 1.0


def study_of(sweep: Sweep) -> Study:
    study = find_study(open_storage(sweep.storage, create=False), "fake")
    assert study is not None
    return study


def trials_of(sweep: Sweep) -> list[FrozenTrial]:
    return study_of(sweep).get_trials(deepcopy=False)


def span_of(trial: FrozenTrial) -> tuple[datetime, datetime]:
    """Return when a trial began and ended."""
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    return trial.datetime_start, trial.datetime_complete


def study_names(sweep: Sweep) -> list[str]:
    return optuna.get_all_study_names(open_storage(sweep.storage, create=False))


def records(sweep: Sweep) -> list[str]:
    return sweep.records.read_text().splitlines()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_sweep_ends_at_its_exact_total(tmp_path: Path, workers: int) -> None:
    sweep = Sweep(str(tmp_path), n_trials=4, workers=workers)
    summary = sweep.run()
    assert summary.counts == {"complete": 4}
    assert not summary.interrupted
    assert [trial.state for trial in trials_of(sweep)] == [TrialState.COMPLETE] * 4
    assert [len(read_started(sweep.trial_folder(number))) for number in range(4)] == [1] * 4


def test_a_freed_slot_is_refilled_at_once_while_a_long_trial_runs(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=5, workers=2, acts={"0": ["after 4"]}, processes=True)
    assert sweep.run().counts == {"complete": 5}
    long, *short = trials_of(sweep)
    spans = [span_of(trial) for trial in short]
    gaps_s = [(start - end).total_seconds() for (_, end), (start, _) in itertools.pairwise(spans)]
    # The shortest: what the engine needs, where a busy machine may add to each of them.
    assert min(gaps_s) < REFILL_S
    # The last one's own record: it really ran beside the long one, it was not only asked for.
    assert read_started(sweep.trial_folder(4))[0][1] < span_of(long)[1].timestamp()


def test_no_more_trials_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=4, workers=2, otherwise="sleep 0.2", processes=True)
    sweep.run()
    spans = [span_of(trial) for trial in trials_of(sweep)]
    at_once = [sum(a <= start < b for a, b in spans) for start, _ in spans]
    assert max(at_once) == 2


def test_the_same_command_starts_nothing_at_its_total_and_goes_on_to_a_raised_one(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2)
    sweep.run()
    before = trials_of(sweep)
    summary = sweep.run()
    assert summary.counts == {"complete": 2}
    assert trials_of(sweep) == before
    raised = replace(sweep, n_trials=3)
    assert raised.run().counts == {"complete": 3}
    assert len(trials_of(raised)) == 3
    assert trials_of(raised)[:2] == before


def test_a_worker_gets_what_was_drawn_and_its_own_config(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2)
    sweep.run()
    for trial in trials_of(sweep):
        assignment = read_assignment(sweep.trial_folder(trial.number))
        assert assignment.config == sweep.compose(trial.params, trial.number)
        assert trial.params.keys() == SPACE.keys()
        assert trial.values == [float(trial.number)]
        assert trial.user_attrs["n_steps"] == N_STEPS
        assert trial.system_attrs[OWNER] == describe_owner()


def test_the_summary_names_the_best_trial_and_closes_the_records(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=3, values={"0": 0.3, "1": 0.1, "2": 0.2})
    summary = sweep.run()
    assert summary.best is not None
    assert (summary.best.number, summary.best.values) == (1, [0.1])
    opened, shown, closed = records(sweep)
    assert opened == "open fake"
    assert sorted(shown.split()) == ["0:complete:0.3", "1:complete:0.1", "2:complete:0.2", "show"]
    assert closed == 'close fake {"n_trials": 3.0, "best_value": 0.1}'


def test_the_study_is_shown_as_trials_end_and_what_goes_wrong_there_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.coordinator, "SHOW_EVERY_S", 0.0)
    sweep = Sweep(str(tmp_path), n_trials=3, workers=1, acts={"1": ["diverge"]})
    sweep.run()
    shown = [line for line in records(sweep) if line.startswith("show ")]
    assert shown[0] == "show 0:complete:0.0"
    assert shown[-1] == "show 0:complete:0.0 1:diverged:None 2:complete:2.0"

    def fail(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(FakeSweep, "show_study", fail)
    out = io.StringIO()
    assert replace(sweep, study="other").run(Console(file=out)).counts == {"complete": 2, "diverged": 1}
    assert "the study could not be shown: OSError: disk is full" in out.getvalue()


def test_a_study_that_is_slow_to_be_shown_delays_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.coordinator, "SHOW_EVERY_S", 0.0)
    sweep = Sweep(str(tmp_path), n_trials=3, workers=1)
    shown: list[int] = []  # trials that had ended when it was shown, and when that was done

    def show(*arguments: Any) -> DashboardNotes:
        shown.append(len(arguments[-1]))
        until = time.monotonic() + 60
        while (finished := len(trials_of(sweep))) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        shown.append(finished)
        return DashboardNotes()

    monkeypatch.setattr(FakeSweep, "show_study", show)
    assert sweep.run().counts == {"complete": 3}
    assert shown[:2] == [1, 3]
    assert shown[-2:] == [3, 3]


def test_notes_reach_the_dashboard_and_what_a_person_wrote_there_stays(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2)
    sweep.run()
    study = study_of(sweep)
    assert get_note(study).startswith("study ")
    first, second = (Trial(study, trial._trial_id) for trial in study.get_trials())
    assert (get_note(first), get_note(second)) == ("trial 0", "trial 1")
    save_note(first, "my own words")
    replace(sweep, n_trials=3).run()
    notes = [get_note(Trial(study, trial._trial_id)) for trial in study.get_trials()]
    assert notes == ["my own words", "trial 1", "trial 2"]


def test_queued_configurations_run_first_and_on_top_of_the_total(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, acts={"2": ["kill", "succeed"]})
    assert sweep.run().counts == {"complete": 2}
    queued = [{"x": 0.25, "y": 2}, {"x": 0.75, "y": 3}]
    predictions = [{SUGGESTED: "pca", f"{PREDICTED}rating": rating} for rating in (4.0, 3.0)]
    Studies(sweep.storage).queue("fake", queued, predictions)
    summary = sweep.run()
    assert (summary.counts, summary.interrupted) == ({"complete": 4}, False)
    assert sweep.run().counts == {"complete": 4}
    assert replace(sweep, n_trials=3).run().counts == {"complete": 5}
    ended = final_trials(trials_of(sweep))
    assert [trial.params for trial in ended[2:4] if trial.params in queued] == [
        trial.params for trial in ended[2:4]
    ]
    suggested = {t.params["x"]: t.user_attrs for t in ended if t.params in queued}
    assert {x: known[f"{PREDICTED}rating"] for x, known in suggested.items()} == {0.25: 4.0, 0.75: 3.0}
    assert any(RETRY_OF in known for known in suggested.values())  # the attempt after the killed one


def test_links_are_kept_with_the_study_and_reach_every_worker(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1)
    assert sweep.run().links == {"opened": "fake"}
    write_record(study_of(sweep), LINKS, {"opened": "kept from before"})
    raised = replace(sweep, n_trials=2)
    assert raised.run().links == {"opened": "kept from before"}
    started = (sweep.trial_folder(1) / "started.txt").read_text()
    assert started.strip().endswith("kept from before")


def test_a_study_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    sweeps = [Sweep(str(tmp_path / name), n_trials=2, sampler="tpe") for name in ("now", "earlier")]
    for sweep in sweeps:
        Path(sweep.folder).mkdir()
        sweep.run()
        study = study_of(sweep)
        study.enqueue_trial({"x": 0.5, "y": 2})
        with pytest.warns(UserWarning, match="Heartbeat of storage"):
            orphan = study.ask(to_distributions(SPACE))
        study._storage.set_trial_system_attr(orphan._trial_id, OWNER, describe_owner())
    now, earlier = sweeps
    uid = read_records(study_of(earlier))[UID]
    with sqlite3.connect(Path(earlier.folder) / "optuna.db") as database:  # where these were
        for kind, keys in {"study": (FINGERPRINT, LINKS, UID), "trial": (OWNER,)}.items():
            for key in keys:
                columns = f"{kind}_id, key, value_json"
                database.execute(
                    f"INSERT INTO {kind}_user_attributes ({columns}) "
                    f"SELECT {columns} FROM {kind}_system_attributes WHERE key = ?",
                    (key,),
                )
                database.execute(f"DELETE FROM {kind}_system_attributes WHERE key = ?", (key,))
    assert {FINGERPRINT, LINKS, UID} <= study_of(earlier).user_attrs.keys()
    assert all(OWNER in trial.user_attrs for trial in trials_of(earlier))
    status = Studies(earlier.storage).status("fake")
    assert (status.uid, status.links) == (uid, {"opened": "fake"})
    here = describe_owner()
    orphans = [(trial.number, trial.owner) for trial in status.orphaned]
    assert orphans == [(2, f"{here['host']}, process {here['pid']}")]
    with pytest.raises(SweepError, match=r"sweep\.objectives value -> other"):
        replace(earlier, objectives=("other",)).run()
    for sweep in sweeps:
        assert replace(sweep, n_trials=5).run().links == {"opened": "fake"}
    first, second = ([(t.params, t.values, t.state) for t in trials_of(sweep)] for sweep in sweeps)
    assert first == second
    assert read_records(study_of(earlier))[UID] == uid


def test_without_a_terminal_the_output_is_a_line_per_start_and_end(tmp_path: Path) -> None:
    out = io.StringIO()
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, acts={"1": ["diverge"]})
    sweep.run(Console(file=out))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("trial 0 starts: x=0.")
    assert lines[1].startswith("trial 0 complete 0 after ")
    assert lines[3].startswith("trial 1 diverged after ")
    assert lines[3].endswith(f"see {sweep.trial_folder(1) / 'log.txt'}")


def test_a_retried_trial_is_called_by_the_number_of_its_first_attempt(tmp_path: Path) -> None:
    out = io.StringIO()
    acts, values = {"1": ["crash", "succeed"]}, {"1": -1.0}
    sweep = Sweep(str(tmp_path), n_trials=3, workers=1, acts=acts, values=values)
    summary = sweep.run(Console(file=out))
    assert summary.best is not None
    assert (first_attempt(summary.best), summary.best.number > 1) == (1, True)
    lines = [line.partition(":")[0].partition(" after")[0] for line in out.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("trial 1")] == [
        "trial 1 starts",
        "trial 1 crashed",
        "trial 1 resumes (attempt 2)",
        "trial 1 complete -1",
    ]
    assert {int(line.split()[1]) for line in lines} == {first_attempt(t) for t in trials_of(sweep)}


class Interrupting(io.StringIO):
    """A file, which is not reentrant; a signal arrives while the start of trial 0 is written to it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self._number = number
        self._is_writing = False

    def write(self, text: str) -> int:
        if self._is_writing:
            raise RuntimeError("reentrant call")
        self._is_writing = True
        if "trial 0 starts" in text:
            signal.raise_signal(self._number)
        self._is_writing = False
        return super().write(text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_line_is_printed_stops_the_sweep_as_at_any_time(
    tmp_path: Path, number: signal.Signals
) -> None:
    handler, out = signal.getsignal(number), Interrupting(number)
    summary = Sweep(str(tmp_path), workers=1).run(Console(file=out))
    assert (summary.interrupted, summary.counts) == (True, {})
    assert "stopping: trials save checkpoints; press Ctrl-C again to stop now" in out.getvalue()
    assert signal.getsignal(number) == handler


def test_signals_are_passed_on_while_the_storage_is_unavailable(tmp_path: Path) -> None:
    out, executor = io.StringIO(), InProcessExecutor(1)
    coordinator = Coordinator(Sweep(str(tmp_path)).spec(), executor, Progress(Console(file=out)))
    coordinator._report_unavailable("no connection")
    coordinator._interrupt(signal.SIGINT, None)
    coordinator._report_unavailable("no connection")
    assert out.getvalue().splitlines() == [
        "the storage does not answer, retrying for up to 0 s: no connection",
        "stopping: trials save checkpoints; press Ctrl-C again to stop now",
    ]
    coordinator._interrupt(signal.SIGINT, None)
    with pytest.raises(SweepError, match="the same command resumes the running trials"):
        coordinator._report_unavailable("no connection")


def test_nohup_keeps_a_sweep_running_when_its_terminal_is_closed(tmp_path: Path) -> None:
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        summary = Sweep(str(tmp_path), workers=1).run(Console(file=Interrupting(signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert (summary.interrupted, summary.counts) == (False, {"complete": 4})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "grid"}, "grid needs choices or ranges"),
        ({"sampler": "anneal"}, "sampler=anneal: must be tpe, random"),
        ({"pruner": "always"}, "pruner=always: must be none, median, asha or hyperband"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_created(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        replace(Sweep(str(tmp_path)), **changes).run()
    assert list(tmp_path.iterdir()) == []


def test_a_grid_stops_at_its_size_and_below_it_at_the_total(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=3, sampler="grid", grid=True)
    assert sweep.run().counts == {"complete": 3}
    whole = replace(sweep, n_trials=50)
    summary = whole.run()
    assert summary.counts == {"complete": 4}
    assert not summary.interrupted
    configurations = sorted((trial.params["x"], trial.params["y"]) for trial in trials_of(sweep))
    assert configurations == [(1, 1), (1, 2), (2, 1), (2, 2)]
    whole.run()
    assert len(trials_of(sweep)) == 4


PRUNERS = {
    "median": {"n_startup_trials": 1, "n_warmup_steps": 1},
    "asha": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "reduction_factor": 4},
}


@pytest.mark.parametrize("pruner", PRUNERS)
def test_bad_trials_are_pruned_beside_each_other_and_count_toward_the_total(
    tmp_path: Path, pruner: str
) -> None:
    sweep = Sweep(
        str(tmp_path), n_trials=5, otherwise="report", pruner=pruner, pruner_options=PRUNERS[pruner]
    )
    summary = sweep.run()
    trials = trials_of(sweep)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert summary.counts == {"complete": 5 - len(pruned), "pruned": len(pruned)}
    # Every trial is worse than the one before it.
    assert trials[0].state == TrialState.COMPLETE
    assert len(trials[0].intermediate_values) == N_STEPS
    assert pruned  # how many, the pace of the workers decides
    for trial in pruned:
        assert trial.user_attrs["n_steps"] == len(trial.intermediate_values)
    assert min(len(trial.intermediate_values) for trial in pruned) < N_STEPS
    assert summary.best is not None
    assert summary.best.number == 0


def test_without_a_pruner_every_trial_runs_to_its_end(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, otherwise="report")
    assert sweep.run().counts == {"complete": 1}
    assert len(trials_of(sweep)[0].intermediate_values) == N_STEPS


def test_a_trial_of_another_host_is_run_again_once_its_heartbeats_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1)
    sweep.run()
    monkeypatch.setattr(sweeps.storage.optuna_storage, "GRACE_PERIOD_S", 2)
    monkeypatch.setattr(sweeps.storage.optuna_storage, "HEARTBEAT_INTERVAL_S", 1)
    storage = open_storage(sweep.storage)
    lost = storage.create_new_trial(storage.get_study_id_from_name("fake"))
    storage.set_trial_user_attr(lost, OWNER, {**describe_owner(), "host": "elsewhere"})
    storage.record_heartbeat(lost)
    summary = replace(sweep, n_trials=2).run()
    assert (summary.counts, summary.interrupted) == ({"complete": 2}, False)
    failed, retry = trials_of(sweep)[1:]
    assert failed.state == TrialState.FAIL
    assert (retry.user_attrs[FIRST_ATTEMPT], retry.user_attrs[RETRY_OF]) == (1, 1)
    assert "trial 1 killed" in records(sweep)
    assert len(final_trials(trials_of(sweep))) == 2


@pytest.mark.parametrize(
    ("reason", "retried"), [("killed", True), ("interrupted", True), ("diverged", False)]
)
def test_a_coordinator_that_died_between_failing_a_trial_and_queueing_it_again_loses_nothing(
    tmp_path: Path, reason: str, retried: bool
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1)
    sweep.run()
    storage = open_storage(sweep.storage)
    lost = storage.create_new_trial(storage.get_study_id_from_name("fake"))
    storage.set_trial_user_attr(lost, OWNER, describe_owner())
    storage.set_trial_user_attr(lost, REASON, reason)
    storage.set_trial_state_values(lost, TrialState.FAIL)
    counts = replace(sweep, n_trials=2).run().counts
    assert counts == ({"complete": 2} if retried else {"complete": 1, reason: 1})
    assert len(trials_of(sweep)) == (3 if retried else 2)


def test_a_retry_that_a_dead_coordinator_of_another_host_and_time_zone_has_not_queued_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.recovery, "RETRY_DELAY_S", 0.5)
    monkeypatch.setattr(sweeps.recovery, "WAITING_CHECK_S", 0.1)
    sweep = Sweep(str(tmp_path), n_trials=1)
    sweep.run()
    storage = open_storage(sweep.storage)
    lost = storage.create_new_trial(storage.get_study_id_from_name("fake"))
    storage.set_trial_user_attr(lost, OWNER, {**describe_owner(), "host": "elsewhere"})
    storage.set_trial_user_attr(lost, REASON, "killed")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-9")
        time.tzset()
        storage.set_trial_state_values(lost, TrialState.FAIL)
    time.tzset()
    out = io.StringIO()
    assert replace(sweep, n_trials=2).run(Console(file=out)).counts == {"complete": 2}
    assert "waiting for trials of other sweeps: 1" in out.getvalue()


def test_a_living_trial_that_has_not_beaten_for_long_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after the machine was suspended: the coordinator checks before the worker's next heartbeat.
    monkeypatch.setattr(sweeps.storage.optuna_storage, "GRACE_PERIOD_S", 2)
    monkeypatch.setattr(sweeps.storage.optuna_storage, "HEARTBEAT_INTERVAL_S", 1)
    monkeypatch.setattr(sweeps.recovery, "STALE_CHECK_S", 0.1)
    sweep = Sweep(str(tmp_path), n_trials=1, otherwise="sleep 2.5", processes=True)
    assert sweep.run().counts == {"complete": 1}
    assert len(trials_of(sweep)) == 1


def test_a_sweep_ends_when_its_time_is_over_and_goes_on_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = {"1": ["hang", "succeed"]}
    sweep = Sweep(str(tmp_path), n_trials=3, workers=2, acts=acts, timeout_s=60.0, processes=True)
    out = io.StringIO()

    def monotonic() -> float:
        return time.monotonic() + 60.0 * (out.getvalue().count(" complete ") == 2)

    monkeypatch.setattr(sweeps.coordinator, "time", SimpleNamespace(monotonic=monotonic))
    summary = sweep.run(Console(file=out))
    assert (summary.interrupted, summary.at_limit) == (True, True)
    assert summary.counts == {"complete": 2}
    assert "stopping after 1 min 0 s: trials save checkpoints" in out.getvalue()
    summary = sweep.run()
    assert (summary.interrupted, summary.at_limit, summary.counts) == (False, False, {"complete": 3})


def test_a_sweep_ends_at_its_training_steps_and_counts_a_retried_trial_once(tmp_path: Path) -> None:
    sweep = Sweep(
        str(tmp_path), n_trials=9, workers=1, max_steps=2 * N_STEPS, acts={"0": ["kill", "succeed"]}
    )
    summary = sweep.run()
    assert (summary.at_limit, summary.counts) == (True, {"complete": 2})
    # The same limit starts nothing; a larger one continues.
    assert sweep.run().counts == {"complete": 2}
    assert replace(sweep, max_steps=3 * N_STEPS).run().counts == {"complete": 3}


def test_running_trials_count_toward_the_steps(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), max_steps=N_STEPS // 2, workers=1, otherwise="report 0.4", processes=True)
    out = io.StringIO()
    assert sweep.run(Console(file=out)).at_limit
    output = out.getvalue()
    assert output.index("training steps: trials save checkpoints") < output.index("trial 0 complete")
    assert [trial.state for trial in trials_of(sweep)] == [TrialState.COMPLETE]


def test_failures_of_trials_do_not_change_the_configurations_that_are_drawn(tmp_path: Path) -> None:
    drawn = []
    for name, acts in (
        ("calm", {}),
        ("killed", {"0": ["kill", "succeed"], "1": ["kill", "crash", "succeed"]}),
    ):
        sweep = Sweep(str(tmp_path / name), n_trials=4, workers=1, acts=acts)
        (tmp_path / name).mkdir()
        assert sweep.run().counts == {"complete": 4}
        drawn.append({first_attempt(trial): trial.params for trial in trials_of(sweep)})
    calm, killed = (list(params.values()) for params in drawn)
    assert calm == killed


def test_folders_of_trials_that_the_storage_does_not_know_are_refused_and_kept(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1)
    assert sweep.run().counts == {"complete": 1}
    other = replace(sweep, server=f"sqlite:///{tmp_path / 'other.db'}")
    before = read_started(sweep.trial_folder(0))
    with pytest.raises(SweepError, match=r"holds trial 0 of a study that sweep\.storage=.* does not know"):
        other.run()
    assert study_names(other) == []
    uid = read_records(study_of(sweep))[UID]
    assert read_started(sweep.trial_folder(0)) == before
    assert replace(sweep, n_trials=2).run().counts == {"complete": 2}
    assert read_records(study_of(sweep))[UID] == uid


def test_a_trial_that_cannot_be_started_is_queued_again(tmp_path: Path) -> None:
    class Changed(Sweep):
        def compose(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
            if number == 1:
                raise SweepError("the texture has gone")
            return super().compose(params, number)

    with pytest.raises(SweepError, match="the texture has gone"):
        Changed(str(tmp_path), n_trials=3, workers=1).run()
    sweep = Sweep(str(tmp_path), n_trials=3, workers=1)
    assert [t.state.name for t in trials_of(sweep)] == ["COMPLETE", "FAIL", "WAITING"]
    assert sweep.run().counts == {"complete": 3}
    _, failed, retry, _ = trials_of(sweep)
    assert (failed.user_attrs[REASON], retry.params) == ("interrupted", failed.params)


@pytest.mark.parametrize(("act", "reason"), [("succeed", "complete"), ("exit 7", "crashed")])
def test_a_file_that_changes_after_the_last_trial_began_changes_nothing(
    tmp_path: Path, act: str, reason: str
) -> None:
    class Changed(Sweep):
        def compose(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
            if read_started(self.trial_folder(0)):
                raise SweepError("the texture has changed")
            return super().compose(params, number)

    sweep = Changed(str(tmp_path), n_trials=1, workers=1, retries=0, otherwise=act)
    assert sweep.run().counts == {reason: 1}
    assert records(sweep)[-1].startswith("close fake ")
    assert ("trial 0 crashed" in records(sweep)) == (reason == "crashed")


def test_an_error_that_ends_a_sweep_is_reported_although_its_records_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(FakeSweep, "close_study", fail)
    with pytest.raises(SweepError, match="the first 3 trials all failed"):
        Sweep(str(tmp_path), n_trials=4, retries=0, otherwise="crash").run()
    with pytest.raises(OSError, match="no space left"):
        Sweep(str(tmp_path), n_trials=1, study="complete").run()


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("queued", [{}, {"x": 0.25, "y": 3}])
def test_a_coordinator_that_dies_while_drawing_a_configuration_changes_none(
    tmp_path: Path, queued: dict[str, float]
) -> None:
    configurations = []
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
        sweep = Sweep(str(tmp_path / name), n_trials=3, workers=1)
        storage = open_storage(sweep.storage)
        study = open_study(sweep.spec().study, storage)
        if queued:
            study.enqueue_trial(queued)
        if name == "killed":
            study.ask()  # RUNNING, and no value drawn
        assert sweep.run().counts == {"complete": 3}
        ended = sorted(final_trials(trials_of(sweep)), key=first_attempt)
        configurations.append([trial.params for trial in ended])
    assert configurations[0] == configurations[1]
    assert not queued or configurations[0][0] == queued


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_configuration_that_another_program_drew_whole_is_kept(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1)
    study = open_study(sweep.spec().study, open_storage(sweep.storage))
    drawn = study.ask(to_distributions(SPACE)).params  # it leaves no owner
    assert sweep.run().counts == {"complete": 2}
    assert [trial.params for trial in trials_of(sweep) if first_attempt(trial) == 0] == [drawn] * 2


def test_several_objectives_leave_a_front(tmp_path: Path) -> None:
    values = {"0": 2.0, "1": 1.0, "2": 3.0}
    sweep = Sweep(str(tmp_path), n_trials=3, objectives=("loss", "size"), values=values)
    summary = sweep.run()
    assert summary.counts == {"complete": 3}
    assert [trial.number for trial in summary.front] == [1, 0, 2]  # each is best in one or between
    assert study_of(sweep).metric_names == ["loss", "size"]
    with pytest.raises(SweepError, match=r"sweep\.objectives loss,size -> value"):
        replace(sweep, objectives=("value",)).run()


def test_several_objectives_are_pruned_by_the_first_and_resume_exactly(tmp_path: Path) -> None:
    """TPE draws the last trials: it models what ten finished ones have left."""
    n_trials, n_before = 16, 13
    whole = Sweep(
        str(tmp_path / "whole"),
        n_trials=n_trials,
        workers=1,
        otherwise="report",
        values={str(n): float(-n if n in (5, 9) else 7 * n % n_trials) for n in range(n_trials)},
        sampler="tpe",
        pruner="asha",
        pruner_options=PRUNERS["asha"],
        objectives=("loss", "size"),
    )
    resumed = replace(whole, folder=str(tmp_path / "resumed"))
    for folder in ("whole", "resumed"):
        (tmp_path / folder).mkdir()
    summary = whole.run()
    replace(resumed, n_trials=n_before).run()
    resumed.run()

    def outcomes(sweep: Sweep) -> list[tuple[object, ...]]:
        trials = trials_of(sweep)
        return [(t.params, t.state, t.values, t.intermediate_values) for t in trials]

    assert outcomes(resumed) == outcomes(whole)
    states = Counter(trial.state for trial in trials_of(whole))
    assert states.keys() == {TrialState.COMPLETE, TrialState.PRUNED}
    assert {trial.number for trial in summary.front} == {trial.number for trial in summary.ranking}
    assert len(summary.front) == states[TrialState.COMPLETE] > 1


def test_a_warm_start_tries_another_studys_best_configurations_first(tmp_path: Path) -> None:
    values = {str(number): float(abs(number - 5)) for number in range(8)}
    source = Sweep(str(tmp_path), n_trials=8, values=values)
    with pytest.raises(SweepError, match=r"^sweep\.warm_start=fale: no such study; there are: none$"):
        replace(source, study="next", warm_start="fale").run()
    assert not list(tmp_path.rglob("*.db"))
    source.run()
    best = sorted(trials_of(source), key=lambda trial: trial.values[0])
    with pytest.raises(SweepError, match=r"^sweep\.warm_start=fale: no such study; there are: fake$"):
        replace(source, study="next", warm_start="fale").run()
    warm = replace(source, study="next", warm_start="fake", n_trials=6, workers=1, folder=str(tmp_path))
    assert warm.run().counts == {"complete": 6}
    study = find_study(open_storage(warm.storage), "next")
    assert study is not None
    assert [trial.params for trial in study.trials[:3]] == [trial.params for trial in best[:3]]
    sources = [trial.user_attrs.get(WARM_START) for trial in study.trials]
    assert sources == [*(f"fake {trial.number}" for trial in best[:3]), None, None, None]


def test_a_storage_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(self: Coordinator, *_: object) -> None:
        with refuse_writes():
            assert self._storage is not None
            self._storage.set_study_user_attr(1, "key", "value")

    sweep = Sweep(str(tmp_path), n_trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "_loop", fill_up)
        message = r"^sweep\.storage=.*: attempt to write a readonly database; .* continues$"
        with pytest.raises(SweepError, match=message):
            sweep.run()
    assert sweep.run().counts == {"complete": 1}
