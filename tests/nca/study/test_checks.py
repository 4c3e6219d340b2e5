"""A coordinator has its config checked by another process, and loads neither torch nor the dashboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.study import checks
from nca.study.checks import Call, check_environment, check_inputs, separate_process
from sweeps import SweepError
from tests.builders import trial_config

# Runs a sweep, and then says what its coordinator has loaded.
PROGRAM = """
import sys
HEAVY = {"torch", "torchvision", "sklearn", "optuna_dashboard", "flask"}
from nca.sweep import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    print("loaded", sorted(HEAVY & sys.modules.keys()), done.code)
"""
SWEEP = ("texture=roundleaf", "model=distill", "features=random_filters", "train.size=32", "train.steps=2")
SMALL = ("train.min_ca_steps=null", "train.max_ca_steps=4", "outputs.robustness=false", "sweep.n_trials=1")


@pytest.mark.slow
def test_a_coordinator_loads_no_torch_and_no_dashboard(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "-m",
        *SWEEP,
        *SMALL,
        "executor.workers=1",
        f"runs_dir={tmp_path / 'runs'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "loaded [] 0", done.stdout + done.stderr


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Return what calls functions in another process, as in a process that has not loaded torch."""
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "torch")
            call = stack.enter_context(separate_process())
        yield call


def test_a_separate_process_returns_results_and_mistakes(call: Call, tmp_path: Path) -> None:
    assert call(os.getpid) != os.getpid()
    config = trial_config(tmp_path)
    assert call(check_inputs, config) == check_inputs(config)
    with pytest.raises(ConfigError, match=r"device=cuda:99: .* use device=cpu"):
        call(check_environment, replace(config, device="cuda:99"), False)


def die_once(file: Path) -> int:
    """Kill this process, but for the second time."""
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_a_separate_process_that_is_killed_is_started_anew(call: Call, tmp_path: Path) -> None:
    assert call(die_once, tmp_path / "killed") == 7


def test_the_death_of_the_separate_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(checks, "RESTART_TIMEOUT_S", 0.0)
    with (
        pytest.raises(SweepError, match="the process that checks the config died"),
        separate_process() as call,
    ):
        call(os._exit, 1)


def test_where_torch_is_loaded_there_is_no_separate_process() -> None:
    with separate_process() as call:
        assert call(os.getpid) == os.getpid()
