"""Output that cannot be written ends nothing but the output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from sweeps.output import lost_output, protect_output
protect_output()
protect_output()
for number in range(20_000):
    print("лист", number)
    if number == 10_000:
        sys.stdout.flush()
open("reached", "w").write(str(lost_output()))
"""

SLOW_READER = """
import os, sys
from sweeps.output import protect_output
protect_output()
print("first", flush=True)
sys.stdin.readline()  # until the reader is gone
for stream in (sys.stdout, sys.stderr):
    print("second", file=stream, flush=True)
os._exit(7)
"""


def run(redirection: str, folder: Path, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Return the exit code, the standard error, and what the program found at its end."""
    command = f"'{sys.executable}' -c '{PROGRAM}' {redirection}; exit ${{PIPESTATUS[0]}}"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, (folder / "reached").read_text()


@pytest.mark.parametrize(
    ("redirection", "lost"),
    [
        ("> out", "None"),
        ("| head -1 > out", "None"),  # its reader has seen enough
        ("> /dev/full", "stdout cannot be written (No space left on device); redirect it to another place"),
        (">&-", "None"),
        ("<&- >&- 2>&-", "None"),
    ],
)
def test_a_program_outlives_its_output(redirection: str, lost: str, tmp_path: Path) -> None:
    assert run(redirection, tmp_path) == (0, "", lost)
    if "out" in redirection:
        assert (tmp_path / "out").read_text().startswith("лист 0\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_letters_that_an_encoding_lacks_are_escaped(encoding: str, tmp_path: Path) -> None:
    assert run("> out", tmp_path, encoding) == (0, "", "None")
    assert (tmp_path / "out").read_text().splitlines()[1] == r"\u043b\u0438\u0441\u0442 1"


def test_closed_streams_get_no_file_of_the_program(tmp_path: Path) -> None:
    program = (
        "from sweeps.output import protect_output; protect_output(); open('kept', 'w').fileno() > 2 or 1/0"
    )
    command = f'exec "{sys.executable}" -c "{program}" <&- >&- 2>&-'
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False).returncode == 0


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_reader_that_goes_away_ends_nothing_but_the_output(is_terminal: bool) -> None:
    reading, writing = os.openpty() if is_terminal else os.pipe()
    program = subprocess.Popen(
        [sys.executable, "-c", SLOW_READER],
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=writing,
        start_new_session=True,
    )
    os.close(writing)
    assert os.read(reading, 5) == b"first"
    os.close(reading)
    program.communicate(b"\n")
    assert program.returncode == 7
