"""A local trial is held to its slot and kept apart from the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sweeps.assignment import LOG_FILE
from sweeps.executors.base import Ended
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot

DEATH_S = 1.0
PROGRAM = """
class Nothing:
    def warm_up(self):
        pass

def warm_up():
    pass

def run_worker(folder):
"""


def make_executor(tmp_path: Path, slot: Slot, lines: str, monkeypatch: pytest.MonkeyPatch) -> LocalExecutor:
    name = f"program_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PROGRAM + textwrap.indent(lines, "    ") + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    return LocalExecutor([slot], f"{name}:Nothing", module=name)


def run_once(tmp_path: Path, slot: Slot, lines: str, monkeypatch: pytest.MonkeyPatch) -> str:
    local = make_executor(tmp_path, slot, lines, monkeypatch)
    local.start(0, tmp_path)
    ended = local.wait(30)
    local.close()
    assert [(item.number, item.exit_code) for item in ended] == [(0, 0)]
    return (tmp_path / LOG_FILE).read_text().strip()


def test_a_trial_is_held_to_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = min(os.sched_getaffinity(0))
    lines = (
        "import os\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'], os.sched_getaffinity(0))"
    )
    slot = Slot(0, 3, cores=(core,), gpu="7")
    assert run_once(tmp_path, slot, lines, monkeypatch) == f"3 7 {{{core}}}"


def test_a_trial_has_a_process_group_of_its_own_and_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "import os, sys\nprint(os.getpgrp() == os.getpid(), repr(sys.stdin.read()))"
    assert run_once(tmp_path, Slot(0, 1), lines, monkeypatch) == "True ''"


def test_wait_sleeps_without_work_no_longer_than_asked(tmp_path: Path) -> None:
    began = time.process_time(), time.monotonic()
    assert LocalExecutor([Slot(0, 1)], "none:None").wait(0.3) == []
    assert time.monotonic() - began[1] >= 0.29
    assert time.process_time() - began[0] < 0.1


HANG = "import os, time\nprint(os.getppid(), os.getpid(), flush=True)\ntime.sleep(60)"


def test_trials_end_with_what_forks_them_and_others_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, pids = make_hanging(tmp_path, monkeypatch)
    os.kill(pids[0], signal.SIGKILL)
    assert local.wait(30) == [Ended(0, signal=signal.SIGKILL, exit_code=0)]
    until = time.monotonic() + DEATH_S
    while lives(pids[1]):
        assert time.monotonic() < until, "the trial outlives what forked it"
        time.sleep(0.01)
    local.start(1, tmp_path)
    assert read_pids(tmp_path, after=pids)[1] not in pids
    local.close()


@pytest.mark.slow
def test_what_forks_trials_has_one_thread_and_no_gpu() -> None:
    """A fork takes along one thread and no context of a GPU; jemalloc, of pyarrow, knows what to do then."""
    program = (
        "import pathlib, nca.study.application, sweeps.study, torch\n"
        "nca.study.application.TextureSweep().warm_up()\n"
        "names = [file.read_text().strip() for file in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "print(len(names), names.count('jemalloc_bg_thd'), torch.cuda.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **Slot(0, 1).environment()},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    n_threads, of_jemalloc, initialized = done.stdout.split()
    assert int(n_threads) - int(of_jemalloc) == 1
    assert initialized == "False"


# Runs a trial in a folder, where the server or the trial's process fails before the trial has a log.
BROKEN = """
import sys
from pathlib import Path
from sweeps import SweepError
from sweeps.executors import forkserver
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot

folder, module = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(folder))
forkserver.RESTART_TIMEOUT_S = 0.0
local = LocalExecutor([Slot(0, 1)], f"{module}:Nothing", module=module)
try:
    local.start(0, folder)
    print(local.wait(60)[0].exit_code)
except SweepError as error:
    print(error)
"""


def run_broken(folder: Path, module: str, text: str) -> str:
    (folder / f"{module}.py").write_text(text)
    command = [sys.executable, "-c", BROKEN, str(folder), module]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_a_server_that_dies_at_its_start_is_quoted(tmp_path: Path) -> None:
    dies = PROGRAM.replace(
        "def warm_up():\n    pass",
        "def warm_up():\n    import os\n    os.write(2, b'no such GPU')\n    os._exit(1)",
    )
    assert dies != PROGRAM
    assert "no such GPU" in run_broken(tmp_path, "dies", dies + "    pass\n")


def test_a_process_that_ends_while_its_server_starts_leaves_no_traceback() -> None:
    program = (
        "from sweeps.executors.local import LocalExecutor\n"
        "from sweeps.executors.slots import Slot\n"
        "LocalExecutor([Slot(0, 1)], 'none:None').prepare()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_trial_that_fails_before_it_has_a_log_gets_one(tmp_path: Path) -> None:
    # As the module is loaded, each file that a trial's process would open for its log is refused.
    refuses = (
        "import pathlib\n"
        "def refuse(self, mode='r', **options):\n"
        "    if self.name == 'log.txt':\n"
        "        raise OSError('no inodes left')\n"
        "    return before(self, mode, **options)\n"
        "before, pathlib.Path.open = pathlib.Path.open, refuse\n"
    )
    assert run_broken(tmp_path, "refuses", refuses + PROGRAM + "    pass\n") == "1\n"
    log = (tmp_path / LOG_FILE).read_text()
    assert log.startswith("the process that forks trials printed: ")
    assert "OSError: no inodes left" in log


def make_hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LocalExecutor, list[int]]:
    local = make_executor(tmp_path, Slot(0, 1), HANG, monkeypatch)
    local.start(0, tmp_path)
    return local, read_pids(tmp_path)


def read_pids(folder: Path, after: Sequence[int] = ()) -> list[int]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        log = folder / LOG_FILE
        pids = [int(pid) for pid in log.read_text().split()] if log.exists() else []
        if len(pids) > len(after):
            return pids[-2:]
        time.sleep(0.02)
    raise TimeoutError(log)


def lives(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
