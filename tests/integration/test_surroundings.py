"""What surrounds a sweep misbehaves: full disks, locked or deleted files, a clock that jumps, its twin."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

import nca.training.provenance
from nca.training.provenance import git_state
from tests.integration.commands import SMALL, TIMEOUT_S, begun, environment_of, run_module, wait_until
from tests.integration.conftest import Finished
from tests.integration.records import Records
from tests.templates import make_mlflow_database

pytestmark = pytest.mark.slow

STUDY = "roundleaf-srnca-random_filters"
LOCKED_FOR_S = 30.0
HOUR_S = 3600
ROOT = Path(__file__).parents[2]
CLOCK = Path(__file__).with_name("clock.c")


def trains(folder: Path) -> bool:
    return (folder / "progress.json").exists()


def expect_all_complete(runs: Path, n_trials: int, name: str = STUDY) -> Records:
    records = Records(runs, name)
    assert [trial.state.name for trial in records.study.get_trials()] == ["COMPLETE"] * n_trials
    assert {run.info.status for run in (*records.parents, *records.children.values())} == {"FINISHED"}
    assert sorted(records.children) == list(range(n_trials))
    return records


@pytest.mark.parametrize(
    ("module", "overrides"),
    [
        ("analysis.gallery", ["study=STUDY", "out=x.html"]),
        ("analysis.report", ["study=STUDY", "out=x"]),
        ("analysis.export", ["study=STUDY", "out=x.csv"]),
        ("nca.render", ["run=RUN", "frames=20", "size=64", "out=x.gif"]),
    ],
)
def test_a_full_disk_leaves_no_half_of_a_page_or_a_picture(
    small_disk: Path, finished: Finished, module: str, overrides: list[str]
) -> None:
    run = next((finished.runs / "artifacts" / STUDY).glob("*/artifacts/output.png")).parts[-3]
    overrides = [override.replace("=STUDY", f"={STUDY}").replace("=RUN", f"={run}") for override in overrides]
    (small_disk / "other").write_bytes(bytes(12 * 1024**2))
    tracking = ["tracking.uri=none"] * (module == "analysis.report")  # the study is not to be changed
    done = run_module(module, *overrides, *tracking, f"runs_dir={finished.runs}", folder=small_disk)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cannot be written (No space left on device); make room there" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [file.name for file in small_disk.iterdir()] == ["other"]


def test_a_full_disk_in_the_middle_of_a_trial_is_reported_in_its_line(small_disk: Path, folder: Path) -> None:
    runs = make_mlflow_database(small_disk / "runs")
    (small_disk / "other").write_bytes(bytes(5_000_000))
    overrides = [
        "sweep.n_trials=2",
        "train.steps=64",
        "train.checkpoint_every=8",
        "train.checkpoint_every_s=0",
    ]
    overrides += ["model.channels=15", "train.batch_size=4", "train.pool_size=512"]  # checkpoints of 8 MB
    done = run_module("nca.sweep", "-m", *SMALL, *overrides, f"runs_dir={runs}", folder=folder)
    text = done.stdout + done.stderr
    assert done.returncode in (1, 2), text
    assert "No space left on device" in text
    assert "Traceback" not in text
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    resumed = run_module(
        "nca.sweep", "-m", *SMALL, *overrides, "sweep.n_trials=4", f"runs_dir={runs}", folder=folder
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    records = Records(runs, STUDY)
    assert sum(trial.state.name == "COMPLETE" for trial in records.study.get_trials()) >= 2
    assert not any(run.info.status == "RUNNING" for run in (*records.parents, *records.children.values()))


def test_databases_locked_for_long_are_waited_for(tmp_path: Path) -> None:
    runs = make_mlflow_database(tmp_path / "runs")
    with begun(runs, "sweep.n_trials=3", "train.steps=300") as process:
        wait_until(lambda: trains(runs / "trials" / STUDY / "1"), process)
        with ExitStack() as held:
            for name in ("optuna.db", "mlflow.db"):
                lock = sqlite3.connect(runs / name, isolation_level=None, timeout=60)
                held.callback(lock.close)  # which gives the lock back
                lock.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_FOR_S)
        output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, output
    expect_all_complete(runs, 3)


def test_a_deleted_trial_folder_costs_that_trial_its_steps_alone(tmp_path: Path) -> None:
    runs = make_mlflow_database(tmp_path / "runs")
    with begun(runs, "sweep.n_trials=2", "train.steps=300") as process:
        victim = runs / "trials" / STUDY / "0"
        wait_until(lambda: trains(victim), process)
        shutil.rmtree(victim, ignore_errors=True)
        output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, output
    assert "trial 0 crashed" in output
    assert "FileNotFoundError" in output
    records = Records(runs, STUDY)
    states = [trial.state.name for trial in records.study.get_trials()]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "RUNNING" not in {run.info.status for run in (*records.parents, *records.children.values())}


def test_a_clock_that_jumps_ends_no_trial(tmp_path: Path) -> None:
    compiler, library = shutil.which("cc"), tmp_path / "clock.so"
    if compiler is None:
        assert os.environ.get("NCA_TESTS_MAY_SKIP") != "0", "install a C compiler"
        pytest.skip("there is no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, CLOCK, "-ldl"], check=True)
    runs, clock = make_mlflow_database(tmp_path / "runs"), tmp_path / "clock"
    set_clock(clock, 0)
    fake = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(clock)}
    with begun(runs, "sweep.n_trials=4", "train.steps=200", environment=fake) as process:
        for number, hours in ((1, 2), (2, -3), (3, 1)):
            wait_until(partial(trains, runs / "trials" / STUDY / str(number)), process)
            set_clock(clock, hours * HOUR_S)
        output = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, output
    records = expect_all_complete(runs, 4)
    starts = []
    for trial in records.study.get_trials():
        assert trial.datetime_start is not None
        starts.append(trial.datetime_start)
    assert max(starts) - min(starts) > timedelta(hours=2)
    assert not re.search(r"after (-|\d+ [dh])", output), "durations that follow the wall clock"


def set_clock(file: Path, offset_s: int) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(f"{offset_s}\n")
    partial.replace(file)


def test_two_sweeps_that_begin_at_once_on_no_database_share_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    overrides = ("sweep.n_trials=6", "train.steps=12")
    with begun(runs, *overrides) as one, begun(runs, *overrides) as other:
        outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], outputs
    records = expect_all_complete(runs, 6)
    assert len(records.parents) == 1
    assert all(" starts: " in text for text in outputs)


@pytest.mark.parametrize(
    ("redirection", "environment"),
    [
        ("| head -1", {}),
        ("> /dev/full", {}),
        ("<&- >&- 2>&-", {}),
        ("> out", {"PYTHONIOENCODING": "latin-1"}),
    ],
)
def test_a_sweep_outlives_its_output(redirection: str, environment: dict[str, str], tmp_path: Path) -> None:
    overrides = [*SMALL, "executor.workers=2", "sweep.n_trials=2", "train.steps=4", "sweep.study=лист"]
    command = shlex.join([sys.executable, "-m", "nca.sweep", "-m", *overrides, f"runs_dir={tmp_path}/runs"])
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=environment_of(environment),
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lost = "error: stdout cannot be written (No space left on device); redirect it to another place\n"
    assert (done.returncode, done.stderr) == ((2, lost) if "full" in redirection else (0, ""))
    expect_all_complete(tmp_path / "runs", 2, "лист")


def test_a_sweep_runs_in_an_unusual_but_honest_environment(tmp_path: Path) -> None:
    folder = tmp_path / "a folder (лист)"
    folder.mkdir()
    overrides = [*SMALL, "executor.workers=2", "sweep.n_trials=2", "train.steps=4"]
    command = shlex.join([sys.executable, "-m", "nca.sweep", "-m", *overrides])
    done = subprocess.run(
        ["bash", "-c", f"umask 077; ulimit -n 64; exec {command} <&-"],
        cwd=folder,
        env=environment_of({"HOME": "/proc/nobody", "TZ": "Nowhere/City", "LANG": "xx_YY.UTF-8"}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    expect_all_complete(folder / "mlruns", 2)


# A user id without a name; it may read everything, as an interpreter may be in root's home folder.
CAPABILITIES = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
NOBODY = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *CAPABILITIES)
# Runs a command where the checkout is on a read-only disk, with its virtual environment.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$PWD" && exec "$@"'


@pytest.mark.parametrize(
    ("is_nobody", "is_read_only", "model"),
    [(True, False, "srnca"), (False, True, "srnca"), (True, True, "distill")],
)
def test_a_sweep_by_a_nameless_user_from_a_read_only_checkout(
    tmp_path: Path, is_nobody: bool, is_read_only: bool, model: str
) -> None:
    prefix = [
        *(["unshare", "--mount", "bash", "-c", READ_ONLY, str(ROOT)] * is_read_only),
        *(NOBODY * is_nobody),
    ]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        assert os.environ.get("NCA_TESTS_MAY_SKIP") != "0", "run this test as root"
        pytest.skip("another user id, or a mount, is not allowed")
    runs, temporary = tmp_path / "mlruns", tmp_path / "tmp"
    for folder in (tmp_path, temporary):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    environment = environment_of({"TMPDIR": str(temporary), "HOME": "/proc/nobody"})
    for name in ("PYTHONDONTWRITEBYTECODE", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", *["HOME"] * is_nobody):
        environment.pop(name, None)
    overrides = [*SMALL, f"model={model}", "executor.workers=1", "sweep.n_trials=1", "train.steps=4"]
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "nca.sweep", "-m", *overrides],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    records = expect_all_complete(runs, 1, STUDY.replace("srnca", model))
    commits = {run.data.tags["git_commit"] for run in records.children.values()}
    assert commits == {git_state(Path(nca.training.provenance.__file__))[0]}
    kept = list(temporary.glob("nca-sweep-*/*/*/*.nbi"))  # machine code, which further trials load
    assert kept
    assert not is_nobody or {file.stat().st_uid for file in (runs, *kept)} == {54321}
