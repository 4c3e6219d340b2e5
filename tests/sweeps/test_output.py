"""Whatever happens to what reads a program's output, the program runs to its end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from sweeps.output import protect_output
protect_output()
print("first", flush=True)
sys.stdin.readline()  # until the reader is gone
for stream in (sys.stdout, sys.stderr):
    print("second", file=stream, flush=True)
os._exit(7)
"""


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_reader_that_goes_away_ends_nothing_but_the_output(is_terminal: bool) -> None:
    reading, writing = os.openpty() if is_terminal else os.pipe()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
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


def test_what_an_encoding_lacks_is_escaped() -> None:
    program = "from sweeps.output import protect_output; protect_output(); print('лист')"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert run.stdout.decode("latin-1") == "\\u043b\\u0438\\u0441\\u0442\n"
