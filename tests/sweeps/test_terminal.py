"""A terminal is asked what it can show, and never waited for."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sweeps.terminal import Graphics, read_answers
from tools.terminal import IN_SESSION, ROOT, run_in_terminal

KITTY, XTERM, SIXEL = "\x1b_Gi=1;OK\x1b\\", "\x1b[?64;1;2;6;22c", "\x1b[?63;1;2;4;6c"
CELL, EXACT = "\x1b[6;20;10t", "\x1bP1$r0;38:2::1:2:3m\x1b\\"
FIND = """
from rich.console import Console
from sweeps.terminal import find_graphics
print("found", find_graphics(Console()))
"""


@pytest.mark.parametrize(
    ("answers", "color_system", "cell_px", "graphics"),
    [
        ("", "truecolor", (0, 0), Graphics("blocks")),
        ("", "256", (9, 18), Graphics("blocks", exact_colors=False)),
        ("", "standard", (9, 18), None),
        ("", None, (0, 0), None),
        (XTERM, "256", (9, 18), Graphics("blocks", exact_colors=False)),
        (EXACT + XTERM, "standard", (0, 0), Graphics("blocks")),
        ("\x1bP1$r38;2;1;2;3m\x1b\\" + XTERM, "256", (0, 0), Graphics("blocks")),
        ("\x1bP1$r0;38:5:16m\x1b\\" + XTERM, "256", (0, 0), Graphics("blocks", exact_colors=False)),
        (SIXEL, "256", (9, 18), Graphics("sixel", cell_px=(9, 18))),
        (CELL + SIXEL, "256", (0, 0), Graphics("sixel", cell_px=(10, 20))),
        (SIXEL, "256", (0, 0), Graphics("blocks", exact_colors=False)),  # a sixel picture of what size?
        ("\x1b[?4;1c", "256", (9, 18), Graphics("blocks", exact_colors=False)),  # a VT132, not an attribute
        (KITTY + CELL + EXACT + XTERM, "256", (0, 0), Graphics("kitty", cell_px=(10, 20))),
        (KITTY + XTERM, "256", (0, 0), Graphics("kitty")),
        (KITTY + CELL + SIXEL, "256", (0, 0), Graphics("kitty", cell_px=(10, 20))),
        ("\x1b_Gi=1;ENOTSUPPORTED:no\x1b\\" + XTERM, "256", (0, 0), Graphics("blocks", exact_colors=False)),
        ("typed meanwhile" + XTERM, "256", (0, 0), Graphics("blocks", exact_colors=False)),
    ],
)
def test_a_terminal_shows_what_it_says_that_it_can(
    answers: str, color_system: str | None, cell_px: tuple[int, int], graphics: Graphics | None
) -> None:
    assert read_answers(answers, color_system, cell_px) == graphics


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (KITTY + CELL + EXACT + XTERM, Graphics("kitty", cell_px=(10, 20))),
        (CELL + EXACT + SIXEL, Graphics("sixel", cell_px=(10, 20))),
        (EXACT + XTERM, Graphics("blocks")),
        (XTERM, Graphics("blocks", exact_colors=False)),
        ("", Graphics("blocks", exact_colors=False)),  # it never answers
        ("\x1b[?6", Graphics("blocks", exact_colors=False)),  # nor to the end
    ],
)
def test_a_terminal_is_asked_once_and_left_as_it_was(answers: str, found: Graphics) -> None:
    session = run_in_terminal(FIND, answers=answers.encode())
    assert session.code == 0
    assert session.is_restored
    assert session.output.count(b"\x1b[c") == 1
    assert session.text[0] + session.text[1] == f"found {found}"
    assert not any(session.text[2:])  # no answer is echoed


def test_a_program_in_the_background_does_not_ask() -> None:
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FIND!r}], process_group=0)"
    session = run_in_terminal(command, answers=(KITTY + XTERM).encode())
    assert "found Graphics(kind='blocks'" in session.text[0]
    assert b"\x1b[c" not in session.output


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "latin-1"}, {"TERM": "unknown"}]
)
def test_a_terminal_of_text_is_not_asked(environment: dict[str, str]) -> None:
    session = run_in_terminal(FIND, answers=(KITTY + XTERM).encode(), environment=environment)
    assert session.output == b"found None\r\n"


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-"])
def test_without_an_input_the_terminal_is_asked_all_the_same(redirection: str) -> None:
    shell = f'"$0" -c "$1" {redirection}'
    command = f"import subprocess, sys; subprocess.run(['bash', '-c', {shell!r}, sys.executable, {FIND!r}])"
    session = run_in_terminal(command, answers=(KITTY + XTERM).encode())
    assert "found Graphics(kind='kitty'" in session.text[0]


SHOW_ON = """
import os, signal, sys
from pathlib import Path
from sweeps.output import protect_output
from sweeps.pictures import Picture
from sweeps.progress import Progress, TrialProgress

signal.signal(signal.SIGHUP, signal.SIG_IGN)
protect_output()
progress = Progress()
with progress:
    for step in range(9):
        trial = TrialProgress(3, 0, Path(), {}, n_steps=step, total_steps=40)
        progress.show("leaf", [trial], [Picture("target", Path("a.png"))])
        if step == 4:
            os.mkfifo("closed")
            open("closed").read()  # until it is
            progress.print("trial 3 complete")
progress.print_pictures([Picture("target", Path("a.png"))])
os._exit(7)
"""


@pytest.mark.parametrize("kind", ["blocks", "kitty"])
def test_a_terminal_that_is_closed_ends_neither_table_nor_pictures(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (24, 24), "red").save(tmp_path / "a.png")
    ours, theirs = os.openpty()
    environment = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONUTF8": "1"}
    program = subprocess.Popen(
        [sys.executable, "-c", IN_SESSION + SHOW_ON],
        cwd=tmp_path,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while (can_read := bool(select.select([ours], [], [], 0.05)[0])) or not (tmp_path / "closed").exists():
        if can_read:
            shown += os.read(ours, 65536)
        if kind == "kitty" and shown.endswith(b"\x1b[c"):
            os.write(ours, (KITTY + XTERM).encode())
    assert (b"\x1b_Ga=T" if kind == "kitty" else "▀".encode()) in shown
    os.close(ours)
    (tmp_path / "closed").write_text("")
    assert program.wait() == 7
