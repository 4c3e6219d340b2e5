"""A run's folder is held by one process, and by none that is dead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.tracking import run_lock
from nca.tracking.run_lock import hold, is_held

HOLD = """
import sys, time
from pathlib import Path
from nca.tracking.run_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    with holder(tmp_path / "run", 60) as process:
        assert is_held(tmp_path / "run")
        with (
            pytest.raises(ConfigError, match=f"process {process.pid} trains this run"),
            hold(tmp_path / "run"),
        ):
            pass
        process.kill()
    assert not is_held(tmp_path / "run")
    with hold(tmp_path / "run"):
        pass


def test_a_timeout_waits_for_the_holder_to_end(tmp_path: Path) -> None:
    with holder(tmp_path, 0.5), hold(tmp_path, timeout_s=30):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_process_that_looks_whether_a_folder_is_held_refuses_it_to_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([False, True])
    monkeypatch.setattr(run_lock, "_try_lock", lambda descriptor: next(results))
    with hold(tmp_path):
        assert next(results, None) is None


def test_a_folder_that_nobody_held_is_not_held(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "none")
