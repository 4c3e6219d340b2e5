"""Slots divide a machine; a local trial is held to its slot and kept apart from the terminal."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sweeps import SweepError, executor
from sweeps.executor import (
    LOG_FILE,
    THREAD_VARIABLES,
    LocalExecutor,
    Slot,
    fit_trials_per_gpu,
    make_slots,
    visible_gpus,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.os, "sched_getaffinity", lambda pid: {3, 4, 5, 6, 7, 8, 9, 10})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("workers", "threads", "n_slots", "n_threads", "last_cores"),
    [
        ("auto", "auto", 8, 1, (10,)),
        ("auto", 4, 2, 4, (7, 8, 9, 10)),
        ("auto", 16, 1, 16, ()),
        (2, "auto", 2, 4, (7, 8, 9, 10)),
        (3, "auto", 3, 2, (7, 8)),
        (2, 1, 2, 1, (4,)),
        (16, "auto", 16, 1, ()),
        (4, 4, 4, 4, ()),
    ],
)
def test_cores_are_divided_and_pinned_only_while_they_suffice(
    workers: int, threads: int, n_slots: int, n_threads: int, last_cores: tuple[int, ...]
) -> None:
    slots = make_slots(workers, threads, "auto")
    assert [slot.index for slot in slots] == list(range(n_slots))
    assert {slot.threads for slot in slots} == {n_threads}
    assert slots[-1].cores == last_cores
    pinned = [core for slot in slots for core in slot.cores]
    assert len(pinned) == len(set(pinned))


@pytest.mark.usefixtures("machine")
def test_one_slot_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [slot.gpu for slot in make_slots("auto", "auto", "auto")] == ["2", "5"]
    assert [slot.threads for slot in make_slots("auto", "auto", "auto")] == [4, 4]
    assert [slot.gpu for slot in make_slots(3, "auto", "auto")] == ["2", "5", "2"]
    assert [slot.gpu for slot in make_slots("auto", "auto", 1)] == ["2"]


@pytest.mark.usefixtures("machine")
def test_gpus_0_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    slots = make_slots(2, "auto", 0)
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["", ""]


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ("-1", []),
        ("NoDevFiles", []),
        ("0, 1", ["0", "1"]),
        ("3,-1,4", ["3"]),
        ("GPU-8f6d,MIG-2", ["GPU-8f6d", "MIG-2"]),
    ],
)
def test_gpus_are_those_that_cuda_would_read_from_the_list(
    monkeypatch: pytest.MonkeyPatch, named: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    slots = make_slots("auto", "auto", "auto")
    assert [slot.gpu for slot in slots if slot.gpu is not None] == names
    if not names:
        assert len(slots) == len(os.sched_getaffinity(0))


def test_gpus_are_listed_by_the_driver_where_the_environment_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: B (UUID: y)'\n")
    listing.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "2"] or visible_gpus() == ["0", "1"]
    listing.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert visible_gpus() == []


def test_a_slot_without_a_gpu_leaves_the_environment_as_it_is() -> None:
    assert Slot(0, 3).environment() == dict.fromkeys(THREAD_VARIABLES, "3")


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


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a stand-in for nvidia-smi that says what is written to it."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return program


@pytest.mark.usefixtures("machine")
def test_trials_per_gpu_are_what_the_smallest_gpu_and_the_cores_hold(driver: Path) -> None:
    driver.write_text("#!/bin/sh\necho 24000\necho 8000\n")
    assert fit_trials_per_gpu(4000, "auto") == 1
    assert fit_trials_per_gpu(2500, "auto") == 3
    assert fit_trials_per_gpu(100, "auto") == 4  # 8 cores for two GPUs
    assert fit_trials_per_gpu(1e9, 0) == 1  # no GPU is used
    slots = make_slots("auto", "auto", "auto", 3)
    assert [slot.gpu for slot in slots] == ["0", "1"] * 3
    with pytest.raises(SweepError, match="a trial is estimated at 9000 MB and a GPU has 8389"):
        fit_trials_per_gpu(9000, "auto")


@pytest.mark.parametrize("answer", ["exit 9", "echo '[N/A]'", "true"])
def test_a_driver_that_does_not_tell_its_memory_is_refused(driver: Path, answer: str) -> None:
    driver.write_text(f"#!/bin/sh\n{answer}\n")
    with pytest.raises(SweepError, match="trials_per_gpu=auto: nvidia-smi does not tell"):
        fit_trials_per_gpu(1000, "auto")
