"""Studies are administered from another terminal: real sweeps are seen, stopped, repaired and deleted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nca.tracking.store import MlflowStore
from tests.integration.commands import SMALL, begun, listing, run_module, sweep, wait_until
from tests.integration.conftest import STUDY, Finished
from tests.integration.records import Records, copy_folder, copy_records, load_study, study_names
from tests.templates import make_mlflow_database

LONG = ("train.steps=100000", "train.checkpoint_every=50", "train.checkpoint_every_s=0")
SOON_S = 60.0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return make_mlflow_database(tmp_path / "runs")


def run_studies(runs: Path, *argv: str, code: int = 0) -> str:
    done = run_module("nca.studies", *argv, f"runs_dir={runs}", folder=runs.parent)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def has_checkpoint(runs: Path, number: int) -> bool:
    return bool(list((runs / "trials" / STUDY / str(number)).glob("checkpoints/*.safetensors")))


def test_a_running_sweep_is_seen_and_its_trials_and_itself_are_stopped(runs: Path) -> None:
    with begun(runs, *LONG, "sweep.n_trials=9") as process:
        wait_until(lambda: has_checkpoint(runs, 0) and has_checkpoint(runs, 1), process)
        assert STUDY in run_studies(runs, "list")
        shown = run_studies(runs, "show", STUDY)
        assert f"process {process.pid}" in shown
        assert shown.count("running  trial ") == 2
        assert "/100000 loss " in shown
        assert "trials: 0, 1" in run_studies(runs, "delete", STUDY, "--yes", code=2)
        assert "trial 7 does not exist" in run_studies(runs, "stop", STUDY, "7", code=2)

        run_studies(runs, "stop", STUDY, "0")
        wait_until(lambda: has_checkpoint(runs, 2), process)  # on the slot that has become free
        asked = time.monotonic()
        run_studies(runs, "stop", STUDY)
        output = process.communicate(timeout=SOON_S)[0]
        assert time.monotonic() - asked < SOON_S / 2
    assert process.returncode == 130
    assert "trial 0 stopped" in output
    assert "asked to stop: trials save checkpoints" in output

    records = Records(runs, STUDY)
    trial = records.study.get_trials()[0]
    assert (trial.state.name, trial.user_attrs["reason"]) == ("PRUNED", "stopped")
    assert trial.user_attrs["last_loss"] == records.children[0].data.metrics["last_loss"]
    assert records.children[0].data.tags["reason"] == "stopped"
    assert {run.info.status for run in records.children.values()} == {"KILLED"}
    assert "1 stopped" in run_studies(runs, "show", STUDY)
    assert "no trial is running" in run_studies(runs, "stop", STUDY, code=2)
    # The request is over: the same command goes on with what was interrupted.
    with begun(runs, *LONG, "sweep.n_trials=9") as process:
        wait_until(lambda: "running  trial 1" in run_studies(runs, "show", STUDY), process)


def test_records_of_a_killed_sweep_are_listed_and_repaired(runs: Path) -> None:
    with begun(runs, *LONG, "sweep.n_trials=2") as process:
        wait_until(lambda: has_checkpoint(runs, 0) and has_checkpoint(runs, 1), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(1.0)  # for its workers
    orphans = run_studies(runs, "repair", code=2)
    assert orphans.count(" is RUNNING, ") == 5  # two trials, their runs, the parent run
    assert "pass --yes to confirm repair" in orphans
    assert "2 orphaned" in run_studies(runs, "list")
    assert "2 trials queued again, 3 MLflow runs ended" in run_studies(runs, "repair", "--yes")
    assert "nothing to repair" in run_studies(runs, "repair")
    records = Records(runs, STUDY)
    assert [t.state.name for t in records.study.get_trials()] == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert {run.info.status for run in (*records.parents, *records.children.values())} == {"KILLED"}


def test_a_run_of_another_program_is_ended_and_a_finished_trial_keeps_no_checkpoint(
    finished: Finished, tmp_path: Path
) -> None:
    runs = copy_records(finished.runs, tmp_path / "runs")
    store = MlflowStore(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = store.experiments.open("single-runs", runs / "artifacts" / "single-runs")
    run_id = store.create_run(experiment, "orphan")
    checkpoints = runs / "trials" / STUDY / "1" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "00000004.safetensors").write_bytes(bytes(5000))
    output = run_studies(runs, "repair", "--yes")
    assert f"run {run_id} is RUNNING, its trial is killed" in output
    assert f"{checkpoints}: 5.0 kB, no longer needed" in output
    assert "1 MLflow runs ended, 1 files deleted" in output
    assert not checkpoints.exists()
    assert "nothing to repair" in run_studies(runs, "repair")


def test_copied_records_are_relocated_before_anything_is_written(finished: Finished, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    copy_folder(finished.runs, runs)
    before = listing(finished.runs / "artifacts")
    larger = (*SMALL, "train.steps=12", "sweep.n_trials=4")
    line = (
        f"error: {runs}: was moved or copied, and MLflow would write and delete in "
        f"{(finished.runs / 'artifacts' / STUDY).as_uri()}; python -m nca.studies repair runs_dir={runs} "
        "updates its artifact URIs"
    )
    done = run_module("nca.sweep", "-m", *larger, f"runs_dir={runs}", folder=tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (2, [line])
    assert line in run_studies(runs, "delete", STUDY, "--yes", code=2)
    assert "not a terminal: pass --yes to confirm repair" in run_studies(runs, "repair", code=2)
    assert "artifact URIs of 1 MLflow experiments updated" in run_studies(runs, "repair", "--yes")
    assert "nothing to repair" in run_studies(runs, "repair")
    sweep(runs, *larger, folder=tmp_path)
    records = Records(runs, STUDY)
    assert sorted(records.children) == [0, 1, 2, 3]
    for run in (*records.parents, *records.children.values()):
        assert records.files(run).is_relative_to(runs)
        assert listing(records.files(run))
    assert "deleted" in run_studies(runs, "delete", STUDY, "--yes")
    assert listing(finished.runs / "artifacts") == before


def test_a_deleted_study_leaves_nothing_and_its_name_is_free(runs: Path) -> None:
    command = ("train.steps=2", "sweep.n_trials=1")
    sweep(runs, *command, folder=runs.parent)
    assert "pass --yes to confirm deletion" in run_studies(runs, "delete", STUDY, code=2)
    assert study_names(runs) == [STUDY]
    assert f"deleted {STUDY}" in run_studies(runs, "delete", STUDY, "--yes")
    assert study_names(runs) == []
    assert not [path for path in listing(runs) if STUDY in path]
    assert list((runs / "artifacts" / "optuna").iterdir()) == []
    assert "no studies yet" in run_studies(runs, "list")
    assert "no such study" in run_studies(runs, "delete", STUDY, "--yes", code=2)
    sweep(runs, *command, folder=runs.parent)
    assert len(load_study(runs, STUDY).get_trials()) == 1
    assert sorted(Records(runs, STUDY).children) == [0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("shwo", "x"), "unknown subcommand 'shwo', did you mean 'show'?; give one of list, show"),
        ((), "error: give one of list, show, stop, delete"),
        (("show",), "error: give show STUDY; see python -m nca.studies --help"),
        (("list", "run_dir=b"), "unknown key 'run_dir', did you mean 'runs_dir'?"),
        (("list", "--yes"), "error: give list; see"),
        (("stop", STUDY, "two"), "must be a trial's number"),
        (("show", "leaf"), f"study 'leaf': no such study; there are: {STUDY}"),
        (("delete", "../other", "--yes"), "not a study's name"),
        (("list", "sweep.storage=sqlite:////nowhere.db"), "no such file; a sweep creates it"),
    ],
)
def test_mistakes_are_one_line(finished: Finished, argv: tuple[str, ...], message: str) -> None:
    text = run_studies(finished.runs, *argv, code=2)
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert message in text


def test_a_yes_is_asked_for_on_a_terminal(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    sweep(runs, "train.steps=2", "sweep.n_trials=1", "tracking=none", folder=tmp_path)
    command = f"{sys.executable} -m nca.studies delete {STUDY} runs_dir={runs}"
    for answer, code in (("n", 1), ("y", 0)):
        script = ["script", "--quiet", "--return", "--command", command, "/dev/null"]
        done = subprocess.run(script, input=f"{answer}\n", text=True, capture_output=True, check=False)
        assert done.returncode == code, done.stdout
        assert "confirm deletion? [y/N]" in done.stdout
    assert study_names(runs) == []
