"""A sweep in a terminal shows its outputs, and leaves the terminal tidy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.commands import SMALL
from tools.terminal import Session, run_in_terminal

ANSWERS = b"\x1bP1$r0;38:2::1:2:3m\x1b\\\x1b[?64;22c"  # any color


def sweep_in_terminal(runs: Path, *argv: str, lines: int) -> Session:
    """Run a sweep of two trials in a terminal of 80 columns."""
    words = [*argv, "-m", *SMALL, f"runs_dir={runs}", "train.steps=100", "sweep.n_trials=2", "tracking=none"]
    code = f"import runpy, sys; sys.argv[1:] = {words!r}; runpy.run_module('nca.sweep', run_name='__main__')"
    return run_in_terminal(code, answers=ANSWERS, lines=lines, environment={"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("lines", [24, 50])
def test_a_sweep_shows_running_outputs_and_at_the_end_the_best_beside_the_target(
    tmp_path: Path, lines: int
) -> None:
    session = sweep_in_terminal(tmp_path, lines=lines)
    assert session.code == 0
    assert re.search(rb"target +trial 0", session.output)  # while it ran
    text = session.text
    captions = next(row for row, line in enumerate(text) if line.startswith("target  "))
    assert re.fullmatch(r"target +best: trial [01] +2nd: trial [01]", text[captions])
    assert all(re.fullmatch("▀{24} {2}▀{24} {2}▀{24}", line) for line in text[captions - 12 : captions])
    assert not any("slot" in line for line in text)  # the table
    assert not any(text[captions + 1 :])
    assert not list(tmp_path.rglob("latest.png*"))
    assert session.is_restored


@pytest.mark.slow
def test_a_plain_sweep_is_text_alone(tmp_path: Path) -> None:
    session = sweep_in_terminal(tmp_path, "--plain", lines=50)
    assert session.code == 0
    assert b"\x1b" not in session.output
    for line in ("trial 1 starts", "trial 1 complete", "best: trial"):
        assert any(shown.startswith(line) for shown in session.text)
