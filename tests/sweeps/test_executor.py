"""A local trial is held to its slot and kept apart from the terminal."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sweeps.executor import LOG_FILE, LocalExecutor
from sweeps.slots import Slot

APPLICATION = "class Nothing:\n    def warm_up(self):\n        pass\n"
PROGRAM = "import os, sys\nfrom sweeps.worker import wait_for_trial\nwait_for_trial(sys.argv[1:])\n"


def run_once(tmp_path: Path, slot: Slot, lines: str, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "program.py").write_text(PROGRAM + lines + "\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    local = LocalExecutor([slot], "application:Nothing", module="program")
    local.start(0, tmp_path)
    ended = local.wait(30)
    assert [(item.number, item.exit_code) for item in ended] == [(0, 0)]
    return (tmp_path / LOG_FILE).read_text().strip()


def test_a_trial_is_held_to_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = min(os.sched_getaffinity(0))
    # The affinity is set just after the start, so the trial looks a little later.
    lines = (
        "import time\ntime.sleep(0.1)\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'], os.sched_getaffinity(0))"
    )
    slot = Slot(0, 3, cores=(core,), gpu="7")
    assert run_once(tmp_path, slot, lines, monkeypatch) == f"3 7 {{{core}}}"


def test_a_trial_has_a_process_group_of_its_own_and_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "import sys\nprint(os.getpgrp() == os.getpid(), repr(sys.stdin.read()))"
    assert run_once(tmp_path, Slot(0, 1), lines, monkeypatch) == "True ''"


def test_wait_sleeps_without_work_no_longer_than_asked(tmp_path: Path) -> None:
    began = time.process_time(), time.monotonic()
    assert LocalExecutor([Slot(0, 1)], "none:None").wait(0.3) == []
    assert time.monotonic() - began[1] >= 0.29
    assert time.process_time() - began[0] < 0.1
