"""Whatever dies, worker or coordinator, a sweep ends at its exact total with nothing left running."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

import sweeps.executors.cgroups
import sweeps.executors.local
import sweeps.trial_queue
from sweeps import SweepError
from sweeps.coordinator import TICK_S
from sweeps.ownership import describe_owner
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import find_study
from sweeps.trials import FIRST_ATTEMPT, LOW_MEMORY, OWNER, REASON, RETRY_OF, final_trials, first_attempt
from tests.sweeps.fake_application import N_STEPS, Sweep, read_started
from tests.sweeps.launching import Launch, launching, read_trials

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240.0
DEATH_S = 1.0
HANG_TWICE = {"0": ["hang", "succeed"], "1": ["hang", "succeed"]}
DEAF_TWICE = {"0": ["hang deaf", "succeed"], "1": ["hang deaf", "succeed"]}


def children() -> set[str]:
    """Return the process ids of this process's children, unreaped ones too."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    """A child that a test has not reaped is a worker that nobody waits for."""
    before = children()
    yield
    assert children() <= before


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


def trials_of(sweep: Sweep) -> list[FrozenTrial]:
    return read_trials(sweep.storage)


def reasons(sweep: Sweep) -> list[str]:
    return [trial.user_attrs.get(REASON, trial.state.name) for trial in trials_of(sweep)]


def wait_until_started(sweep: Sweep, *numbers: int) -> list[int]:
    """Return the process ids of the trials' workers, once all of them run."""
    until = time.monotonic() + TIMEOUT_S
    while not all(read_started(sweep.trial_folder(number)) for number in numbers):
        assert time.monotonic() < until, "the trials did not start"
        time.sleep(0.01)
    return [read_started(sweep.trial_folder(number))[-1][2] for number in numbers]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_at_its_total(sweep: Sweep) -> None:
    trials = trials_of(sweep)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert len(final_trials(trials)) == sweep.n_trials
    assert len({first_attempt(trial) for trial in final_trials(trials)}) == sweep.n_trials


def test_a_killed_worker_fails_as_killed_and_its_trial_is_run_again(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, acts={"0": ["kill", "succeed"]}, processes=True)
    summary = sweep.run()
    killed, *_, retry = sorted(trials_of(sweep), key=lambda trial: (first_attempt(trial) != 0, trial.number))[
        :2
    ]
    assert (killed.state, killed.user_attrs[REASON]) == (TrialState.FAIL, "killed")
    assert retry.state == TrialState.COMPLETE
    assert retry.params == killed.params
    assert (retry.user_attrs[FIRST_ATTEMPT], retry.user_attrs[RETRY_OF]) == (0, 0)
    assert summary.counts == {"complete": 2}
    assert "trial 0 killed" in sweep.records.read_text().splitlines()
    assert_at_its_total(sweep)


def test_a_trial_that_another_coordinator_failed_and_queued_is_not_queued_a_second_time(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1, acts={"0": ["sleep 2", "succeed"]})
    process = launch(sweep)
    wait_until_started(sweep, 0)
    storage = open_storage(sweep.storage, create=False)
    study = find_study(storage, "fake")
    assert study is not None
    (trial,) = study.trials
    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={FIRST_ATTEMPT: 0, RETRY_OF: 0})
    process.communicate(timeout=TIMEOUT_S)
    assert [trial.state for trial in trials_of(sweep)] == [TrialState.FAIL, TrialState.COMPLETE]
    assert_at_its_total(sweep)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_trial_that_is_always_killed_is_retried_up_to_retries_and_counted_once(
    tmp_path: Path, retries: int
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=2, retries=retries, acts={"1": ["kill"]})
    summary = sweep.run()
    assert summary.counts == {"complete": 1, "killed": 1}
    assert not summary.interrupted
    assert len(read_started(sweep.trial_folder(1))) == retries + 1
    assert_at_its_total(sweep)


def test_out_of_memory_is_retried_once_with_less_and_then_counts(tmp_path: Path) -> None:
    acts = {"0": ["exhaust", "kill", "exhaust"], "1": ["exhaust always"]}
    sweep = Sweep(str(tmp_path), n_trials=2, workers=2, acts=acts)
    assert sweep.run().counts == {"complete": 1, "out_of_memory": 1}
    group_attempts = {first: [t for t in trials_of(sweep) if first_attempt(t) == first] for first in (0, 1)}
    # A retry after low_memory keeps it, whatever fails later.
    assert [trial.user_attrs.get(LOW_MEMORY, False) for trial in group_attempts[0]] == [False, True, True]
    assert [trial.user_attrs[REASON] for trial in group_attempts[1]] == ["out_of_memory"] * 2
    assert_at_its_total(sweep)


def test_a_worker_that_the_system_killed_for_its_memory_has_a_reason_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = itertools.count(10**9)  # than this machine has had
    monkeypatch.setattr(sweeps.executors.local, "count_oom_kills", more.__next__)
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1, acts={"0": ["kill", "succeed"]}, processes=True)
    assert sweep.run().counts == {"complete": 1}
    assert reasons(sweep) == ["out_of_memory", "complete"]
    assert trials_of(sweep)[1].user_attrs[LOW_MEMORY]


@pytest.mark.parametrize(
    ("own", "file", "text", "number"),
    [
        ("0::/box", "box/memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("5:cpu:/\n4:memory:/box", "memory/box/memory.oom_control", "under_oom 0\noom_kill 7\n", 7),
        ("0::/box", "elsewhere", "", 0),
    ],
)
def test_kills_for_want_of_memory_are_counted_by_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, file: str, text: str, number: int
) -> None:
    counter = tmp_path / file
    counter.parent.mkdir(parents=True, exist_ok=True)
    counter.write_text(text)
    (tmp_path / "cgroup").write_text(own)
    monkeypatch.setattr(sweeps.executors.cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(sweeps.executors.cgroups, "OWN_CGROUP", tmp_path / "cgroup")
    assert sweeps.executors.cgroups.count_oom_kills() == number


def test_a_worker_whose_trial_others_have_ended_leaves_at_its_next_report(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1, acts={"0": ["report 1", "succeed"]})
    process = launch(sweep)
    wait_until_started(sweep, 0)
    storage = open_storage(sweep.storage, create=False)
    storage.set_trial_state_values(trials_of(sweep)[0]._trial_id, TrialState.FAIL)
    process.communicate(timeout=TIMEOUT_S)
    first, second = read_started(sweep.trial_folder(0))
    assert second[1] - first[1] < N_STEPS - 1  # seconds; it would have gone on for longer
    assert "another process has ended this trial" in (sweep.trial_folder(0) / "log.txt").read_text()
    assert_at_its_total(sweep)


@pytest.mark.parametrize(("retries", "n_attempts"), [(0, 1), (3, 2)])
def test_a_crash_is_retried_once_at_most_and_keeps_its_error(
    tmp_path: Path, retries: int, n_attempts: int
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=2, retries=retries, acts={"0": ["crash"]})
    summary = sweep.run()
    assert summary.counts == {"complete": 1, "crashed": 1}
    crashed = [trial for trial in trials_of(sweep) if trial.state == TrialState.FAIL]
    assert len(crashed) == len(read_started(sweep.trial_folder(0))) == n_attempts
    error = "ValueError: crashed on purpose in trial 0"
    assert {trial.user_attrs["error"] for trial in crashed} == {error}
    assert (sweep.trial_folder(0) / "log.txt").read_text().count(error) == n_attempts
    assert_at_its_total(sweep)


def test_a_worker_that_exits_without_a_result_counts_as_crashed(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1, retries=0, acts={"0": ["exit 7"]})
    assert sweep.run().counts == {"crashed": 1}
    assert "trial 0 crashed" in sweep.records.read_text().splitlines()


def test_a_diverged_trial_is_not_run_again(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, acts={"0": ["diverge"]})
    assert sweep.run().counts == {"diverged": 1, "complete": 1}
    assert len(trials_of(sweep)) == 2


def test_a_complete_trial_without_a_number_for_a_value_counts_as_crashed(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, retries=0, values={"0": float("nan")})
    assert sweep.run().counts == {"crashed": 1, "complete": 1}
    assert "a complete trial needs values that are numbers" in trials_of(sweep)[0].user_attrs["error"]


@pytest.mark.parametrize(
    ("act", "workers", "message"),
    [
        (
            "crash",
            1,
            r"the first 3 trials all failed \(crashed\): ValueError: crashed on purpose in trial \d",
        ),
        (
            "crash",
            4,
            r"the first 3 trials all failed \(crashed\): ValueError: crashed on purpose in trial \d",
        ),
        ("kill", 2, r"the first 3 trials all failed \(killed\): see .*trials/fake/\d/log\.txt"),
    ],
)
def test_three_first_failures_for_one_reason_end_the_sweep(
    tmp_path: Path, act: str, workers: int, message: str
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    sweep = Sweep(str(tmp_path), n_trials=20, workers=workers, otherwise=act, retries=1)
    with pytest.raises(SweepError, match=message):
        sweep.run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    trials = trials_of(sweep)
    assert {trial.state for trial in trials} <= {TrialState.FAIL, TrialState.WAITING}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    # With one worker the first two trials use up their retries before the third begins.
    assert len({first_attempt(trial) for trial in failed}) < 3 + workers
    assert len(failed) <= 2 * (1 + sweep.retries) + workers
    assert any(line.startswith("close fake ") for line in sweep.records.read_text().splitlines())


def test_a_sweep_that_was_ended_goes_on_once_its_cause_is_gone(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=3, workers=1, otherwise="crash")
    with pytest.raises(SweepError, match="all failed"):
        sweep.run()
    fixed = replace(sweep, otherwise="succeed")
    summary = fixed.run()
    assert summary.counts.get("complete", 0) >= 1
    assert_at_its_total(fixed)


def test_one_trial_that_dies_again_and_again_does_not_end_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, acts={"0": ["kill"]})
    assert sweep.run().counts == {"killed": 1, "complete": 1}
    assert len(read_started(sweep.trial_folder(0))) == 3


INTERRUPTED = ["interrupt at once"] * 8 + ["succeed"]


def test_a_trial_that_is_interrupted_at_each_start_is_not_started_for_ever(tmp_path: Path) -> None:
    acts = {"0": INTERRUPTED, "1": ["interrupt"] * 8 + ["succeed"]}
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, retries=0, acts=acts)
    assert sweep.run().counts == {"interrupted": 1, "complete": 1}
    assert len(read_started(sweep.trial_folder(0))) == 5
    assert_at_its_total(sweep)


def test_interruptions_of_every_trial_end_the_sweep(tmp_path: Path) -> None:
    acts = {str(number): INTERRUPTED for number in range(60)}
    sweep = Sweep(str(tmp_path), n_trials=6, workers=1, acts=acts)
    with pytest.raises(SweepError, match=r"the last 5 trials all failed \(interrupted\): see .*log\.txt"):
        sweep.run()


def test_failures_after_a_success_do_not_end_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(str(tmp_path), n_trials=4, workers=1, otherwise="crash", retries=0, acts={"0": ["succeed"]})
    assert sweep.run().counts == {"complete": 1, "crashed": 3}


class Waiting(Sweep):
    def compose(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        if number == 1:
            wait_until_started(self, 0)
        return super().compose(params, number)


class Changing(Waiting):
    def compose(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        config = super().compose(params, number)
        if number == 1:
            raise SweepError("the texture has changed")
        return config


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param(Waiting, "the first 3 trials all failed", marks=pytest.mark.slow),
        (Changing, "the texture has changed"),
    ],
)
def test_an_error_that_ends_a_sweep_lets_running_trials_save_checkpoints(
    tmp_path: Path, kind: type[Sweep], message: str
) -> None:
    sweep = kind(str(tmp_path), retries=0, acts={"0": ["hang"]}, otherwise="crash", processes=True)
    with pytest.raises(SweepError, match=message):
        sweep.run()
    assert trials_of(sweep)[0].user_attrs["n_steps"] == N_STEPS // 2  # written by the trial as it stops


def test_many_failures_in_a_row_for_one_reason_end_a_sweep_that_goes_on_later(tmp_path: Path) -> None:
    acts = {str(number): ["succeed"] for number in (0, 5)}
    sweep = Sweep(str(tmp_path), n_trials=30, workers=1, otherwise="crash", retries=1, acts=acts)
    message = r"the last 5 trials all failed \(crashed\): ValueError: .* trial 18; the same command continues"
    with pytest.raises(SweepError, match=message):
        sweep.run()
    assert sum(t.state == TrialState.COMPLETE for t in trials_of(sweep)) == 2
    fixed = replace(sweep, n_trials=14, otherwise="succeed")
    assert fixed.run().counts["complete"] == 14 - 4 - 5
    assert_at_its_total(fixed)


def test_more_trials_may_diverge_in_a_row_than_fail_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.trial_queue, "DIVERGED_IN_A_ROW", 8)
    acts = {"0": ["succeed"]}
    sweep = Sweep(str(tmp_path), n_trials=8, workers=1, otherwise="diverge", acts=acts)
    assert sweep.run().counts == {"complete": 1, "diverged": 7}
    with pytest.raises(SweepError, match=r"the last 8 trials all failed \(diverged\): loss nan"):
        replace(sweep, n_trials=100).run()
    assert len(trials_of(sweep)) == 16


def test_an_interrupted_sweep_ends_cleanly_and_the_same_command_brings_it_to_its_total(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=3, acts=HANG_TWICE)
    first = launch(sweep)
    pids = wait_until_started(sweep, 0, 1)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 0, output
    assert "stopping: trials save checkpoints" in output
    assert "Traceback" not in output
    assert not any(is_alive(pid) for pid in pids)
    assert reasons(sweep) == ["interrupted", "interrupted", "WAITING", "WAITING"]
    second = launch(sweep)
    output, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, output
    assert json.loads(output.splitlines()[-1]) == {"complete": 3}
    assert_at_its_total(sweep)
    retried = [trial.user_attrs.get(RETRY_OF) for trial in trials_of(sweep)]
    assert retried[:2] == [None, None]
    assert {*retried[2:4]} == {0, 1}
    assert retried[4:] == [None]


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGHUP]])
def test_an_interruption_saves_a_checkpoint_and_does_not_use_up_retries(
    tmp_path: Path, launch: Launch, signals: list[signal.Signals]
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1, retries=0, acts={"0": ["hang", "succeed"]})
    first = launch(sweep)
    wait_until_started(sweep, 0)
    for number in signals:
        first.send_signal(number)
        time.sleep(0.1)  # pending signals of a number are one
    output, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 0, output
    assert trials_of(sweep)[0].user_attrs["n_steps"] == N_STEPS // 2  # written by the trial as it stops
    assert sweep.run().counts == {"complete": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_to_all_processes_of_a_job_saves_checkpoints(
    tmp_path: Path, launch: Launch, number: signal.Signals
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1, acts={"0": ["hang", "succeed"]})
    first = launch(sweep)
    (worker,) = wait_until_started(sweep, 0)
    server = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (server, worker, first.pid):
        os.kill(pid, number)
    output, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 0, output
    assert trials_of(sweep)[0].user_attrs["n_steps"] == N_STEPS // 2
    assert sweep.run().counts == {"complete": 1}


def test_a_sweep_whose_output_nobody_reads_any_more_reaches_its_total(tmp_path: Path, launch: Launch) -> None:
    sweep = Sweep(str(tmp_path), n_trials=3, workers=1)
    process = launch(sweep)
    assert process.stdout.readline().startswith("trial 0 starts")
    process.stdout.close()
    assert process.wait() == 0
    assert_at_its_total(sweep)


def test_a_second_signal_ends_at_once_trials_that_do_not_listen(tmp_path: Path, launch: Launch) -> None:
    sweep = Sweep(str(tmp_path), n_trials=3, acts=DEAF_TWICE)
    first = launch(sweep)
    pids = wait_until_started(sweep, 0, 1)
    first.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=5)
    assert first.returncode == 0, output
    assert not any(is_alive(pid) for pid in pids)
    assert reasons(sweep) == ["interrupted", "interrupted", "WAITING", "WAITING"]
    assert sorted(sweep.records.read_text().splitlines())[-2:] == [
        "trial 0 interrupted",
        "trial 1 interrupted",
    ]


def test_a_killed_coordinator_ends_its_workers_and_the_same_command_recovers(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=4, acts=DEAF_TWICE)
    first = launch(sweep)
    pids = wait_until_started(sweep, 0, 1)
    first.kill()
    first.wait()
    until = time.monotonic() + DEATH_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < until, "a worker outlives its coordinator"
        time.sleep(0.01)
    assert reasons(sweep) == ["RUNNING", "RUNNING"]
    second = launch(sweep)
    output, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, output
    assert json.loads(output.splitlines()[-1]) == {"complete": 4}
    assert_at_its_total(sweep)
    assert reasons(sweep)[:2] == ["interrupted", "interrupted"]
    assert {trial.user_attrs.get(RETRY_OF) for trial in trials_of(sweep)} == {None, 0, 1}


def test_a_killed_coordinator_ends_a_worker_that_has_just_been_started(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=1, workers=1)
    first = launch(sweep)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    until = time.monotonic() + TIMEOUT_S
    while not (sweep.trial_folder(0) / "log.txt").exists() or not (pids := children.read_text().split()):
        assert time.monotonic() < until, "the trial did not start"
        time.sleep(0.005)
    first.kill()
    first.wait()
    until = time.monotonic() + DEATH_S
    while any(is_alive(int(pid)) for pid in pids):
        assert time.monotonic() < until, "a worker outlives its coordinator"
        time.sleep(0.01)
    assert sweep.run().counts == {"complete": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_coordinator_waits_for_the_trials_of_another_and_takes_them_up_where_it_ends(
    tmp_path: Path, launch: Launch, number: signal.Signals
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1, acts={"0": ["hang", "succeed"]})
    first = launch(sweep)
    (pid,) = wait_until_started(sweep, 0)
    second = launch(sweep)
    assert second.stdout is not None
    while "waiting for trials of other sweeps: 0" not in (line := second.stdout.readline()):
        assert line, "the second coordinator has ended"
    assert is_alive(pid)
    assert reasons(sweep) == ["RUNNING", "complete"]
    first.send_signal(number)
    first.wait(timeout=TIMEOUT_S)
    output, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, output
    assert reasons(sweep) == ["interrupted", "complete", "complete"]
    assert len(final_trials(trials_of(sweep))) == 2


def test_a_coordinator_waits_for_the_retry_that_another_is_about_to_queue(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=2, workers=1)
    replace(sweep, n_trials=1).run()
    storage = open_storage(sweep.storage, create=False)
    study = find_study(storage, "fake")
    assert study is not None
    with pytest.warns(UserWarning, match="Heartbeat"):
        theirs = study.ask(study.trials[0].distributions)
    theirs.set_user_attr(OWNER, describe_owner())
    process = launch(sweep)
    assert process.stdout is not None
    while "waiting for trials of other sweeps: 1" not in (line := process.stdout.readline()):
        assert line, "the coordinator has ended"
    storage.set_trial_user_attr(theirs._trial_id, REASON, "interrupted")
    storage.set_trial_state_values(theirs._trial_id, TrialState.FAIL)
    time.sleep(2 * TICK_S)
    assert process.poll() is None, "it has not waited"
    study.enqueue_trial(theirs.params, user_attrs={FIRST_ATTEMPT: 1, RETRY_OF: 1})
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert reasons(sweep) == ["complete", "interrupted", "complete"]
    assert_at_its_total(sweep)


def test_a_grid_stops_at_its_size_although_a_worker_dies(tmp_path: Path) -> None:
    sweep = Sweep(
        str(tmp_path),
        n_trials=20,
        sampler="grid",
        grid=True,
        retries=1,
        acts={"1": ["kill"]},
    )
    summary = sweep.run()
    assert summary.counts == {"complete": 3, "killed": 1}
    assert not summary.interrupted
    ended = final_trials(trials_of(sweep))
    configurations = sorted((trial.params["x"], trial.params["y"]) for trial in ended)
    assert configurations == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_several_coordinators_that_contend_for_the_last_trials_end_at_the_exact_total(
    tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(str(tmp_path), n_trials=21, workers=4, otherwise="sleep 0.05")
    started = [launch(sweep) for _ in range(4)]
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
    assert reasons(sweep) == ["complete"] * 21
