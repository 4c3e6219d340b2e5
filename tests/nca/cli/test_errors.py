"""How an entry point ends: one line, and an exit code."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError, exit_on_error, nearest
from nca.cli.options import check_text


def test_nearest_name_or_none() -> None:
    assert nearest("distil", ["srnca", "distill"]) == ", did you mean 'distill'?"
    assert nearest("xyz", ["srnca", "distill"]) == ""


def test_ctrl_c_is_one_line_and_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted; run the same command again\n"


def test_ctrl_c_ends_a_process(tmp_path: Path) -> None:
    program = """
import pathlib, time
from nca.cli.errors import exit_on_error
with exit_on_error():
    pathlib.Path("ready").touch()
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=50)[1] == "interrupted; run the same command again\n"
    assert process.returncode == 130


def test_a_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending, exit_on_error():
        raise ConfigError("seed=-1: must be a whole number, 0 or more")
    assert ending.value.code == 2
    assert capsys.readouterr() == ("", "error: seed=-1: must be a whole number, 0 or more\n")


def test_what_a_message_quotes_of_a_file_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_error():
        raise ConfigError("seed=a\n  b\x1b[31m\x00\ud800 лист: must be a number")
    assert capsys.readouterr().err == "error: seed=a b\\x1b[31m\\x00\\ud800 лист: must be a number\n"


def test_other_errors_pass_unless_they_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), exit_on_error():
        raise KeyError("a bug")
    with pytest.raises(SystemExit) as ending, exit_on_error(LookupError):
        raise KeyError("expected")
    assert ending.value.code == 2
    assert capsys.readouterr().err == "error: 'expected'\n"


@pytest.mark.parametrize("command", ["nca.sweep texture=roundleaf", "nca.sweep --help", "nca.studies --help"])
@pytest.mark.parametrize(
    ("redirection", "code", "line"),
    [
        ("> /dev/full", 2, r"error: stdout cannot be written \(No space left on device\); redirect it.*\n"),
        ("| head -1", 0, ""),
        (">&-", 0, ""),
    ],
)
def test_what_only_prints_ends_well_or_with_one_line(
    command: str, redirection: str, code: int, line: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m {command} {redirection}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert re.fullmatch(line, done.stderr)


@pytest.mark.parametrize("code", [0, 1])
def test_a_program_that_ends_itself_well_says_that_its_output_is_lost(code: int) -> None:
    program = (
        f"from nca.cli.errors import exit_on_error\nwith exit_on_error(): print(1); raise SystemExit({code})"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == (code or 2)
    assert done.stderr.startswith("error: stdout cannot be written") == (code == 0)


def test_words_that_are_no_text_are_refused_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nca.sweep", "texture=roundleaf", b"sweep.study=\xff"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: sweep\.study=\\udcff: is not text in utf-8; .*\n", done.stderr)


def test_an_error_of_the_system_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ending, exit_on_error(OSError):
        (tmp_path / "nothing").read_text()
    assert ending.value.code == 2
    (log,) = tmp_path.glob("nca-error-*.log")
    line = f"error: [Errno 2] No such file or directory: '{tmp_path / 'nothing'}'; traceback in {log}\n"
    assert capsys.readouterr().err == line
    assert "test_an_error_of_the_system_keeps_its_traceback" in log.read_text()


def test_a_full_disk_is_no_fault_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit), exit_on_error(OSError):
        raise OSError(errno.ENOSPC, "No space left on device", "x")
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'x'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_folder_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir '{gone}'; exec '{sys.executable}' -m nca.sweep texture=roundleaf"
    done = subprocess.run(["bash", "-c", command], cwd=gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the current folder was deleted; go to one that exists\n"


def test_a_home_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")  # restored at the end
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)  # a user id without a name
    with exit_on_error():
        assert Path("~/x").expanduser() == Path("/nonexistent/x")
    with pytest.raises(ConfigError, match=r"^texture\.path=~nobodyy/x: no user of that name; begin"):
        check_text(["texture.path=~nobodyy/x"])


def test_matplotlib_prints_nothing_without_a_writable_home(tmp_path: Path) -> None:
    program = "from nca.cli.errors import exit_on_error\nwith exit_on_error(): import matplotlib"
    environment = {**os.environ, "HOME": "/proc/nobody", "TMPDIR": str(tmp_path)}
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
