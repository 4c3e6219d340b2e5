"""What a person sees stays short, right and readable, on a terminal and elsewhere."""

from __future__ import annotations

import io
import itertools
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console, ConsoleDimensions

from sweeps.pictures import Picture
from sweeps.progress import (
    CURVE_WIDTH,
    LINE_EVERY_S,
    Progress,
    TrialProgress,
    draw_curve,
    estimate_left_s,
    format_duration,
    format_params,
    make_table,
)
from sweeps.terminal import Graphics
from tools.terminal import Session, run_in_terminal

WIDTH = 100


HEADLINE = "[red] :leaf: <b>: 3/8 trials"


def row(number: int = 0, **changes: Any) -> TrialProgress:
    values = {"slot": number, "params": {"model.channels": 6}, "n_steps": 10, "total_steps": 40, "loss": 0.5}
    return TrialProgress(number, folder=Path(), **{**values, "rate": 2.0, **changes})


def render(rows: list[TrialProgress], width: int = WIDTH, height: int = 60) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(make_table(HEADLINE, rows, ConsoleDimensions(width, height)))
    return capture.get().rstrip().splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (18720, "5 h 12 min"),
        (2 * 86400 + 3 * 3600 + 59, "2 d 3 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_params_are_short() -> None:
    params = {"model.channels": 6, "train.learning_rate": 0.000123456, "model.mask": "cell", "x": None}
    assert format_params(params) == "channels=6 learning_rate=0.0001235 mask=cell x=None"


def test_a_trial_before_its_first_note_has_no_rate() -> None:
    trial = TrialProgress(3, 1, Path(), {"x": 1})
    trial.update({})
    assert (trial.n_steps, trial.total_steps, trial.rate) == (0, 0, 0.0)
    assert math.isnan(trial.loss)
    assert trial.left_s is None


def test_a_rate_counts_the_steps_since_the_first_note() -> None:
    first = {"n_steps": 100.0, "total_steps": 400.0, "loss": 2.0, "at": 50.0}
    trial = TrialProgress(3, 1, Path(), {})
    for each in ({}, first, first):
        trial.update(each)
    assert trial.left_s is None
    trial.update({"n_steps": 160.0, "total_steps": 400.0, "loss": 1.5, "at": 80.0})
    assert trial.losses == [2.0, 1.5]
    assert (trial.n_steps, trial.total_steps, trial.loss, trial.rate) == (160, 400, 1.5, 2.0)
    assert trial.left_s == 120.0


def test_time_left_covers_running_trials_and_those_to_come() -> None:
    rows = [row(0, n_steps=10, total_steps=40, rate=2.0), row(1, n_steps=20, total_steps=40, rate=2.0)]
    assert estimate_left_s(rows, [], 0, 2) == (15 + 10) / 2
    assert estimate_left_s(rows, [40.0], 3, 2) == (15 + 10 + 3 * (40 + 20 + 20) / 3) / 2


def test_time_left_is_not_known_until_every_running_trial_has_a_pace() -> None:
    assert estimate_left_s([], [10.0], 3, 2) is None
    assert estimate_left_s([row(0), row(1, rate=0.0)], [10.0], 3, 2) is None


def test_table_shows_a_running_and_a_starting_trial() -> None:
    lines = render([row(7), row(8, n_steps=0, total_steps=0, rate=0.0, loss=math.nan)], 120)
    text = "\n".join(lines)
    assert lines[0].strip() == HEADLINE
    assert "10/40" in text
    assert "0.5" in text
    assert "15 s" in text
    assert "starting" in text
    assert "nan" not in text
    assert "channels=6" in text


def test_a_curve_falls_as_the_loss_does_on_a_logarithmic_scale() -> None:
    assert draw_curve([]) == draw_curve([math.nan, 0.0]) == ""
    assert draw_curve([1e-3]) == "▁"
    assert draw_curve([1.0, 0.1, 0.01]) == "█▅▁"
    assert draw_curve([1.0, math.nan, 0.01]) == "█▁▁"
    long = draw_curve([10.0 ** (-step / 50) for step in range(500)])
    assert len(long) == CURVE_WIDTH
    assert list(long) == sorted(long, reverse=True)


def test_few_losses_are_kept_evenly() -> None:
    trial = TrialProgress(0, 0, Path(), {})
    for step in range(10_000):
        trial.update({"n_steps": step, "total_steps": 10_000, "loss": float(step), "at": float(step)})
    assert (trial.n_steps, trial.rate) == (9_999, 1.0)
    assert 32 <= len(trial.losses) <= 64
    steps = {round(b - a) for a, b in itertools.pairwise(trial.losses)}
    assert len(steps) == 1


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (200, 80)])
def test_table_of_64_trials_fits_the_terminal_and_counts_the_rest(width: int, height: int) -> None:
    params = {"model.channels": 15, "model.hidden_channels": 96, "train.learning_rate": 1e-3, "train.x": 2}
    lines = render([row(number, params=params) for number in range(64)], width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) < height
    n_shown = sum("10/40" in line for line in lines)
    assert n_shown == min(64, height - 8)
    assert (f"and {64 - n_shown} more" in lines[-1]) == (n_shown < 64)
    assert ("channels=15" in lines[4]) == (width >= 110)


def test_params_are_shown_whole_while_there_is_room() -> None:
    params = {f"model.parameter_{index}": 0.123456 for index in range(6)}
    text = "\n".join(render([row(0, params=params), row(1, params=params)], 120, 24))
    assert text.count("parameter_5=0.1235") == 2


def test_a_narrow_terminal_shows_every_column_of_a_long_trial_but_its_params() -> None:
    losses = [10.0 ** (-step / 9) for step in range(60)]
    changes = {"n_steps": 16000, "total_steps": 16384, "loss": 1.234e-5, "rate": 0.03, "losses": losses}
    lines = render([row(123, slot=12, **changes)], 80, 24)
    for text in ("123", "12", "16000/16384", "1.234e-05", "0.03", "3 h 33 min", draw_curve(losses)):
        assert text in lines[4]


def test_elsewhere_than_on_a_terminal_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    text = io.StringIO()
    shown = Progress(Console(file=text, width=40))
    with shown:
        shown.print("trial 0 starts: [bold]channels=6")
        shown.show(HEADLINE, [row(0)])
        clock[0] += LINE_EVERY_S
        shown.show(HEADLINE, [row(0), row(1, n_steps=0, total_steps=0, loss=math.nan)])
        shown.show(HEADLINE, [row(0)])
        clock[0] += LINE_EVERY_S
        shown.show(HEADLINE, [])
    assert text.getvalue().splitlines() == [
        "trial 0 starts: [bold]channels=6",
        f"{HEADLINE}; running 0: 10/40 loss 0.5, 1: starting",
        f"{HEADLINE}; running nothing",
    ]


def test_on_a_terminal_a_live_table_with_lines_above_it() -> None:
    text = io.StringIO()
    shown = Progress(Console(file=text, width=WIDTH, force_terminal=True, color_system=None))
    with shown:
        shown.show(HEADLINE, [row(5)])
        shown.print("trial 4 complete")
    assert "10/40" in text.getvalue()
    assert "trial 4 complete" in text.getvalue()


def test_of_the_live_table_nothing_stays_when_the_sweep_ends() -> None:
    text = io.StringIO()
    shown = Progress(Console(file=text, width=WIDTH, force_terminal=True, color_system=None))
    with shown:
        shown.show(HEADLINE, [row(5)])
        shown.print("trial 5 complete")
        shown.show(HEADLINE, [])
    assert "slot" in text.getvalue()
    assert screen(text.getvalue()) == ["trial 5 complete"]


def screen(text: str) -> list[str]:
    """Return the lines that a terminal shows: the cursor moves up and lines are erased."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[\??\d*[A-Za-z]|[^\x1b]", text):
        match part:
            case "\n":
                at += 1
                lines += [""] * (at == len(lines))
            case "\x1b[1A":
                at -= 1
            case "\x1b[2K":
                lines[at] = ""
            case _ if part[0] not in "\x1b\r":
                lines[at] += part
    return [line.rstrip() for line in lines if line.strip()]


SHOW = """
import sys
from pathlib import Path
from sweeps.output import protect_output
from sweeps.pictures import Picture
from sweeps.progress import Progress, TrialProgress

protect_output()
running = [TrialProgress(3, 0, Path(), {"x": 1}, n_steps=10, total_steps=40, loss=0.5)]
pictures = [Picture("target", Path(sys.argv[1])), Picture("trial 3", Path(sys.argv[2]))]
progress = Progress()
with progress:
    progress.print("trial 3 starts: x=1")
    progress.show("leaf: 3/8 trials, " + "a long headline " * 6, running, pictures)
    progress.print("SHOWN")
    progress.show("leaf: 4/8 trials", [])
progress.print("study leaf: 4 complete")
progress.print_pictures(pictures)
"""
EXACT = b"\x1bP1$r0;38:2::1:2:3m\x1b\\\x1b[?64;22c"


def show_in_terminal(tmp_path: Path, **options: Any) -> Session:
    """Run `SHOW` in a terminal, with a picture of four colors and a red one."""
    quarters = Image.new("RGB", (24, 24), "#102030")
    quarters.paste("#ff8040", (12, 0, 24, 12))
    quarters.save(tmp_path / "target.png")
    Image.new("RGB", (24, 24), "red").save(tmp_path / "trial.png")
    files = [str(tmp_path / name) for name in ("target.png", "trial.png")]
    return run_in_terminal(f"import sys; sys.argv[1:] = {files!r}\n{SHOW}", **options)


def test_a_terminal_shows_the_colors_of_pictures_below_the_table_and_at_the_end(tmp_path: Path) -> None:
    session = show_in_terminal(tmp_path, answers=EXACT)
    assert session.code == 0
    redrawn = session.output.index(b"SHOWN")
    for _ in range(2):  # pictures
        redrawn = session.output.index(b"\x1b8", redrawn) + len(b"\x1b8")
    for screen, words in ((session.screen(redrawn), "10/40"), (session.screen(), "4 complete")):
        assert any(words in line for line in screen.display)
        caption = next(row for row, line in enumerate(screen.display) if line.startswith("target  "))
        cells = [screen.buffer[caption - 12 + row] for row in range(12)]
        assert {cell.data for row in cells for cell in (row[0], row[23], row[26], row[49])} == {"▀"}
        assert [(cells[0][at].fg, cells[0][at].bg) for at in (0, 12, 26)] == [
            ("102030", "102030"),
            ("ff8040", "ff8040"),
            ("ff0000", "ff0000"),
        ]
        assert cells[6][12].fg == "102030"
        assert cells[0][24].data == cells[0][50].data == " "


def test_at_the_end_the_table_is_gone(tmp_path: Path) -> None:
    text = [line for line in show_in_terminal(tmp_path, answers=EXACT).text if line and "▀" not in line]
    assert text == ["trial 3 starts: x=1", "SHOWN", "study leaf: 4 complete", f"{'target':26}trial 3"]


@pytest.mark.parametrize("answers", [b"", b"\x1b[?6", b"\x1b[?62;22c"])
def test_a_terminal_that_answers_little_or_nothing_gets_256_colors(tmp_path: Path, answers: bytes) -> None:
    session = show_in_terminal(tmp_path, answers=answers)
    assert session.code == 0
    assert b"\x1b[38;5;196;48;5;196m" + "▀".encode() in session.output
    assert b"38;2;" not in session.output.replace(b"\x1b[38;2;1;2;3m\x1bP$qm", b"")  # but for the question


@pytest.mark.parametrize(
    ("answers", "codes"),
    [
        (b"\x1b_Gi=1;OK\x1b\\\x1b[?62;22c", b"\x1b_Ga=T,f=100,"),
        (b"\x1b[6;20;10t\x1b[?62;4;22c", b'\x1bP0;1;0q"1;1;240;240'),
    ],
)
def test_pictures_are_sent_as_the_terminal_takes_them(tmp_path: Path, answers: bytes, codes: bytes) -> None:
    session = show_in_terminal(tmp_path, answers=answers)
    assert session.output.count(codes) >= 2 * 2
    assert "▀".encode() not in session.output
    assert session.output.count(b"\x1b_Ga=d,d=I,") >= 32 * codes.startswith(b"\x1b_G")


@pytest.mark.parametrize(
    "environment",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=str,
)
def test_text_alone_where_a_terminal_should_get_no_more(tmp_path: Path, environment: dict[str, str]) -> None:
    session = show_in_terminal(tmp_path, answers=EXACT, environment=environment)
    lines = ["trial 3 starts: x=1", "SHOWN", "study leaf: 4 complete"]
    assert session.output.decode("ascii") == "".join(f"{line}\r\n" for line in lines)


def test_elsewhere_than_on_a_terminal_text_alone(tmp_path: Path) -> None:
    command = (
        f"import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', {SHOW!r}, 'a', 'b']))"
    )
    session = run_in_terminal(command)
    assert session.text[0] == repr(b"trial 3 starts: x=1\nSHOWN\nstudy leaf: 4 complete\n")
    assert b"\x1b" not in session.output


WITH_PICTURES = {(16, 1), (24, 1), (24, 3), (50, 1), (50, 3), (50, 12)}


@pytest.mark.parametrize("n_running", [1, 3, 12, 40])
@pytest.mark.parametrize(("columns", "lines"), [(20, 5), (80, 16), (80, 24), (160, 50)])
def test_table_and_pictures_are_never_higher_than_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_running: int, columns: int, lines: int
) -> None:
    monkeypatch.setattr("sweeps.progress.find_graphics", lambda _: Graphics("blocks"))
    Image.new("RGB", (24, 24), "red").save(tmp_path / "a.png")
    text = io.StringIO()
    shown = Progress(Console(file=text, width=columns, height=lines, force_terminal=True))
    pictures = [Picture(f"trial {number}", tmp_path / "a.png") for number in range(n_running)]
    with shown:
        shown.show(HEADLINE, [row(number) for number in range(n_running)], pictures)
        before = text.getvalue()
    assert ("▀" in before) == ((lines, n_running) in WITH_PICTURES)
    assert before.count("\n") < lines or "▀" not in before
