"""Sweeps on a Ray cluster: whatever dies, a worker, a node or the coordinator, the total is exact."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from sweeps.trials import FIRST_ATTEMPT, final_trials, reason_of
from tests.cluster.ray_cluster import run_cluster
from tests.forked import Forked
from tests.sweeps.fake_application import STARTED, Sweep, read_started
from tests.sweeps.launching import Launch, launching, read_trials, wait_until

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240.0
N_STEPS = 400


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of two nodes with two slots each."""
    with run_cluster(str(ROOT), cpus_per_node=2) as cluster:
        yield cluster


@pytest.fixture(params=["shared disk", "storage"])
def sweep(request: pytest.FixtureRequest, cluster: Any, tmp_path: Path) -> Sweep:
    sweep = Sweep(str(tmp_path), n_trials=8, workers=4, ray=cluster.address)
    if request.param == "storage":
        (tmp_path / "storage").mkdir()
        sweep.storage_path = f"file://{tmp_path}/storage"
    return sweep


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


def finish(process: Forked) -> tuple[int, str]:
    output = process.communicate(timeout=TIMEOUT_S)[0]
    return process.wait(), output


def check_total(sweep: Sweep, n_stored: int = 0) -> list[FrozenTrial]:
    """See that all trials are complete, and their folders here but those of a number that may not be.

    A trial that ends as its coordinator is killed leaves its folder in the storage, or loses it.
    """
    trials = read_trials(sweep.storage)
    assert [reason_of(trial) for trial in final_trials(trials)] == ["complete"] * sweep.n_trials
    assert not [trial for trial in trials if not trial.state.is_finished()]
    here, stored = ({file.parent.name for file in folder.glob(f"*/{STARTED}")} for folder in folders(sweep))
    assert not here & stored
    assert sweep.n_trials - n_stored <= len(here) <= sweep.n_trials
    assert len(here | stored) <= sweep.n_trials
    return trials


def folders(sweep: Sweep) -> tuple[Path, Path]:
    """Return the folder of the trials here, and the one where nodes keep them while they run."""
    if sweep.storage_path is None:
        return sweep.trials, sweep.trials / "none"
    return sweep.trials, Path(sweep.storage_path.removeprefix("file://")) / sweep.study


def worker_of(sweep: Sweep, number: int) -> int:
    folder = folders(sweep)[sweep.storage_path is not None] / str(number)
    started = wait_until(lambda: read_started(folder))
    return int(started[-1][2])


def test_a_killed_worker_is_tried_again(sweep: Sweep, launch: Launch) -> None:
    sweep.acts = {"0": ["hang", "succeed"]}
    process = launch(sweep)
    os.kill(worker_of(sweep, 0), signal.SIGKILL)
    code, output = finish(process)
    assert code == 0, output
    trials = check_total(sweep)
    assert [t.user_attrs.get(FIRST_ATTEMPT, t.number) for t in trials if reason_of(t) == "killed"] == [0]


def test_a_killed_coordinator_ends_its_trials_and_the_same_command_goes_on(
    sweep: Sweep, launch: Launch
) -> None:
    sweep.acts = {"0": ["hang", "succeed"], "1": ["hang", "succeed"]}
    process = launch(sweep)
    workers = [worker_of(sweep, 0), worker_of(sweep, 1)]
    process.kill()
    process.wait()
    wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])
    code, output = finish(launch(sweep))
    assert code == 0, output
    trials = check_total(sweep, n_stored=2)  # the others that ran may have ended at that moment
    assert {reason_of(trials[0]), reason_of(trials[1])} == {"interrupted"}
    assert "killed" not in map(reason_of, trials)


def test_ctrl_c_leaves_trials_that_the_same_command_resumes(sweep: Sweep, launch: Launch) -> None:
    sweep.acts = {"0": ["hang", "succeed"], "1": ["hang deaf", "succeed"]}
    process = launch(sweep)
    workers = [worker_of(sweep, 0), worker_of(sweep, 1)]
    process.send_signal(signal.SIGINT)
    wait_until(lambda: not Path(f"/proc/{workers[0]}").exists())
    process.send_signal(signal.SIGINT)  # the second ends those that do not listen
    finish(process)
    wait_until(lambda: not Path(f"/proc/{workers[1]}").exists())
    assert not [trial for trial in read_trials(sweep.storage) if trial.state == TrialState.RUNNING]
    code, output = finish(launch(sweep))
    assert code == 0, output
    check_total(sweep)


def test_every_slot_is_kept_busy(cluster: Any, tmp_path: Path, launch: Launch) -> None:
    acts = {"0": ["sleep 4"]}
    sweep = Sweep(str(tmp_path), 8, workers=4, acts=acts, otherwise="sleep 1", ray=cluster.address)
    code, output = finish(launch(sweep))
    assert code == 0, output
    began = {number: read_started(sweep.trial_folder(number))[0][1] for number in range(8)}
    ended = {
        trial.number: trial.datetime_complete.timestamp()
        for trial in check_total(sweep)
        if trial.datetime_complete
    }
    # While the long trial runs on one slot, the others' seven go through three: no barrier.
    assert sum(ended[n] < ended[0] for n in range(1, 8)) >= 6
    for one, other in itertools.pairwise(sorted(began.values())[4:]):
        assert other - one < 4
