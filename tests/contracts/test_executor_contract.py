"""Every executor starts, watches, stops and ends trials in the same way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.assignment import LOG_FILE
from sweeps.executors.base import Ended, Executor
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot

N_SLOTS = 2
SOON_S = 30.0

# What a trial's process does is a program in its folder.
MODULE = """
import runpy

class Nothing:
    def warm_up(self):
        pass

def warm_up():
    pass

def run_worker(folder):
    runpy.run_path(str(folder / "program.py"), run_name="__main__")
"""
APPLICATION = "contract_trial:Nothing"

HANG = "import time; print('begun', flush=True); time.sleep(60)"
SAVE = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
time.sleep(60)
"""


def make_local(folder: Path) -> Executor:
    return LocalExecutor([Slot(index, 1) for index in range(N_SLOTS)], APPLICATION, module="contract_trial")


EXECUTORS: dict[str, Callable[[Path], Executor]] = {"local": make_local}


@pytest.fixture(params=EXECUTORS)
def executor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Executor]:
    (tmp_path / "contract_trial.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    made = EXECUTORS[request.param](tmp_path)
    yield made
    made.close()


def start(executor: Executor, folder: Path, number: int, program: str) -> int:
    trial = folder / str(number)
    trial.mkdir(exist_ok=True)
    (trial / "program.py").write_text(program)
    return executor.start(number, trial)


def log(folder: Path, number: int) -> str:
    file = folder / str(number) / LOG_FILE
    return file.read_text() if file.exists() else ""


def wait_for(executor: Executor, n: int = 1) -> list[Ended]:
    ended: list[Ended] = []
    until = time.monotonic() + SOON_S
    while len(ended) < n and time.monotonic() < until:
        ended += executor.wait(0.5)
    return sorted(ended, key=lambda item: item.number)


def wait_until_begun(executor: Executor, folder: Path, *numbers: int) -> None:
    until = time.monotonic() + SOON_S
    while not all("begun" in log(folder, number) for number in numbers):
        assert time.monotonic() < until
        assert executor.wait(0.02) == []


def test_slots_are_taken_and_freed(executor: Executor, tmp_path: Path) -> None:
    assert (executor.n_slots, executor.n_free()) == (N_SLOTS, N_SLOTS)
    slots = [start(executor, tmp_path, number, "") for number in range(N_SLOTS)]
    assert sorted(slots) == list(range(N_SLOTS))
    assert executor.n_free() == 0
    wait_for(executor, N_SLOTS)
    assert executor.n_free() == N_SLOTS


def test_the_freed_slot_is_the_next_one(executor: Executor, tmp_path: Path) -> None:
    assert start(executor, tmp_path, 0, "") == 0
    assert start(executor, tmp_path, 1, HANG) == 1
    assert [ended.number for ended in wait_for(executor)] == [0]
    assert start(executor, tmp_path, 2, "") == 0


def test_without_a_free_slot_a_start_is_refused(executor: Executor, tmp_path: Path) -> None:
    for number in range(N_SLOTS):
        start(executor, tmp_path, number, HANG)
    with pytest.raises(RuntimeError, match="no free slot"):
        start(executor, tmp_path, N_SLOTS, "")
    assert executor.n_free() == 0


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("", Ended(7, signal=0, exit_code=0)),
        ("raise SystemExit(3)", Ended(7, signal=0, exit_code=3)),
        ("1 / 0", Ended(7, signal=0, exit_code=1)),
        ("import os; os.kill(os.getpid(), 9)", Ended(7, signal=signal.SIGKILL, exit_code=0)),
        ("import os; os.abort()", Ended(7, signal=signal.SIGABRT, exit_code=0)),
    ],
)
def test_how_a_trial_ended(executor: Executor, tmp_path: Path, program: str, ended: Ended) -> None:
    start(executor, tmp_path, 7, program)
    assert wait_for(executor) == [ended]
    assert executor.wait(0.0) == []


def test_wait_returns_as_soon_as_a_trial_ends(executor: Executor, tmp_path: Path) -> None:
    start(executor, tmp_path, 0, "import time; time.sleep(0.3)")
    start(executor, tmp_path, 1, HANG)
    began = time.monotonic()
    assert [ended.number for ended in executor.wait(SOON_S)] == [0]
    assert time.monotonic() - began < SOON_S / 2


def test_wait_returns_nothing_after_its_time(executor: Executor, tmp_path: Path) -> None:
    start(executor, tmp_path, 0, HANG)
    began = time.monotonic()
    assert executor.wait(0.2) == []
    assert 0.19 < time.monotonic() - began < SOON_S / 2


def test_output_and_errors_are_appended_to_the_log(executor: Executor, tmp_path: Path) -> None:
    start(executor, tmp_path, 0, "import sys; print('one'); print('two', file=sys.stderr)")
    wait_for(executor)
    start(executor, tmp_path, 0, "1 / 0")
    wait_for(executor)
    text = log(tmp_path, 0)
    assert "one" in text
    assert "two" in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")


def test_stop_lets_a_trial_save_what_it_has(executor: Executor, tmp_path: Path) -> None:
    start(executor, tmp_path, 0, SAVE)
    start(executor, tmp_path, 1, HANG)
    wait_until_begun(executor, tmp_path, 0, 1)
    executor.stop()
    assert wait_for(executor, 2) == [
        Ended(0, signal=0, exit_code=0),
        Ended(1, signal=signal.SIGTERM, exit_code=0),
    ]
    assert log(tmp_path, 0) == "begun\nsaved\n"


def test_close_ends_every_trial_at_once(executor: Executor, tmp_path: Path) -> None:
    deaf = "import os, signal\nsignal.signal(15, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\n" + HANG
    for number in range(N_SLOTS):
        start(executor, tmp_path, number, deaf)
    wait_until_begun(executor, tmp_path, *range(N_SLOTS))
    executor.close()
    for number in range(N_SLOTS):
        with pytest.raises(ProcessLookupError):
            os.kill(int(log(tmp_path, number).split()[0]), 0)
    assert executor.n_free() == N_SLOTS
    assert executor.wait(0.0) == []
    executor.close()


def test_an_executor_leaves_no_open_files(executor: Executor, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("counts open files in /proc")

    def n_open() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of a folder that is no file

    def run(first: int) -> None:
        for number in range(first, first + 3):
            start(executor, tmp_path, number, "")
            wait_for(executor)
        start(executor, tmp_path, first + 3, HANG)
        executor.close()

    run(0)  # opens a cluster's connections, which are kept
    before = n_open()
    run(4)
    until = time.monotonic() + SOON_S
    while n_open() > before:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_trials_begin_and_log_the_same_where_it_was_prepared(executor: Executor, tmp_path: Path) -> None:
    executor.prepare()
    executor.prepare()
    for number in range(2 * N_SLOTS):
        start(executor, tmp_path, number, f"print('out of {number}')")
        assert wait_for(executor) == [Ended(number, signal=0, exit_code=0)]
        assert log(tmp_path, number) == f"out of {number}\n"


def test_what_was_prepared_ends_with_the_executor(executor: Executor) -> None:
    executor.prepare()
    executor.stop()
    executor.close()
    assert executor.wait(0.0) == []


def test_after_its_end_an_executor_can_be_used_again(executor: Executor, tmp_path: Path) -> None:
    start(executor, tmp_path, 0, HANG)
    executor.close()
    start(executor, tmp_path, 1, "")
    assert wait_for(executor) == [Ended(1, signal=0, exit_code=0)]
