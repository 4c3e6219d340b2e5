"""A program in a pseudo-terminal, and what a person would see there, as text or as a picture.

`python -m tools.terminal OUT COLUMNS LINES OVERRIDES` runs a sweep in a terminal of any color, and draws the
screen before the first trial ends, OUT-running.png, and at the end, OUT-end.png.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pyte
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
SWEEP = "import runpy, sys; sys.argv[1:] = {!r}; runpy.run_module('nca.sweep', run_name='__main__')"
ANY_COLOR = b"\x1bP1$r0;38:2::1:2:3m\x1b\\\x1b[?64;22c"  # answers of a terminal that shows no pictures
CELL_PX = 9, 18
FONT_PX = 15
AT_END = 14  # lines of a sweep's end: its last one, the pictures and their captions; paths stand above
COLORS = {"fg": "#d0d0d0", "bg": "#101010"}  # where a program chose none
UPPER_HALF, FIRST_EIGHTH, FULL_BLOCK = "▀", "▁", "█"
COLUMNS, LINES = 80, 24
OF_TERMINALS = {
    "NO_COLOR",
    "COLORTERM",
    "FORCE_COLOR",
    "COLUMNS",
    "LINES",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
}
ASKED = b"\x1b[c"  # the end of what a terminal is asked
STRINGS = re.compile(rb"\x1b[_P].*?\x1b\\", re.DOTALL)  # of Kitty's protocol and of sixels, which pyte prints
IN_SESSION = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"  # the pseudo-terminal is its own


@dataclass(frozen=True)
class Session:
    """A program that has ended.

    Args:
        output: All that it wrote.
        is_restored: Whether it has left the terminal's modes as they were.
    """

    code: int
    output: bytes
    is_restored: bool
    columns: int
    lines: int

    @property
    def text(self) -> list[str]:
        """The lines that a person sees at the end."""
        return [line.rstrip() for line in self.screen().display]

    def screen(self, n_bytes: int | None = None) -> pyte.Screen:
        """Return the screen at the end, or after the first bytes of the output."""
        screen = pyte.Screen(self.columns, self.lines)
        pyte.ByteStream(screen).feed(STRINGS.sub(b"", self.output[:n_bytes]))
        return screen


def run_in_terminal(
    code: str | Sequence[str],
    *,
    answers: bytes = b"",
    columns: int = COLUMNS,
    lines: int = LINES,
    environment: Mapping[str, str] | None = None,
) -> Session:
    """Run Python code, or a command, to its end in a terminal of 256 colors.

    Args:
        code: What runs.
        answers: What the terminal answers when it is asked what it can show; nothing if empty.
        columns: Width.
        lines: Height.
        environment: Variables that differ from those of this process.
    """
    command = [sys.executable, "-c", IN_SESSION + code] if isinstance(code, str) else list(code)
    kept = {key: value for key, value in os.environ.items() if key not in OF_TERMINALS}
    kept |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONUTF8": "1"} | dict(environment or {})
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (lines, columns))
    mode = termios.tcgetattr(theirs)
    program = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=kept, start_new_session=True
    )
    try:
        output = _follow(ours, program, answers)
        restored = termios.tcgetattr(theirs) == mode
    finally:
        program.kill()
        program.wait()
        os.close(theirs)
        os.close(ours)
    return Session(program.returncode, output, restored, columns, lines)


def _follow(terminal: int, program: subprocess.Popen[bytes], answers: bytes) -> bytes:
    """Return what a program writes until it ends; answer it once."""
    output, has_answered = b"", False
    while True:
        has_ended = program.poll() is not None  # before the last look
        while select.select([terminal], [], [], 0 if has_ended else 0.05)[0]:
            output += os.read(terminal, 65536)
            if answers and not has_answered and ASKED in output:
                os.write(terminal, answers)
                has_answered = True
        if has_ended:
            return output


def draw_screen(screen: pyte.Screen, n_shown: int | None = None) -> Image.Image:
    """Return a picture of a screen's last lines, or of all, but for empty ones at the end."""
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    plain, bold = (ImageFont.truetype(fonts / f"DejaVuSansMono{kind}.ttf", FONT_PX) for kind in ("", "-Bold"))
    n_lines = max(row for row, line in enumerate(screen.display) if line.strip()) + 1
    width, height = CELL_PX
    first = 0 if n_shown is None else max(0, n_lines - n_shown)
    image = Image.new("RGB", (screen.columns * width, (n_lines - first) * height), COLORS["bg"])
    pen = ImageDraw.Draw(image)
    for row in range(first, n_lines):
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            left, top = column * width, (row - first) * height
            fg, bg = _color(cell.fg, "fg"), _color(cell.bg, "bg")
            pen.rectangle((left, top, left + width - 1, top + height - 1), fill=bg)
            if cell.data == UPPER_HALF:
                pen.rectangle((left, top, left + width - 1, top + height // 2 - 1), fill=fg)
            elif FIRST_EIGHTH <= cell.data <= FULL_BLOCK:
                filled = height * (ord(cell.data) - ord(FIRST_EIGHTH) + 1) // 8
                pen.rectangle((left, top + height - filled, left + width - 1, top + height - 1), fill=fg)
            elif cell.data != " ":
                pen.text((left, top), cell.data, fill=fg, font=bold if cell.bold else plain)
    return image


def _color(name: str, default: str) -> str:
    return COLORS[default] if name == "default" else f"#{name}"


def main() -> None:
    """Draw what a sweep shows."""
    out, columns, lines, *overrides = sys.argv[1:]
    code = SWEEP.format(["-m", *overrides])
    session = run_in_terminal(code, answers=ANY_COLOR, columns=int(columns), lines=int(lines))
    drawn = session.output.rindex(b"\x1b8", 0, session.output.index(b" complete ")) + len(b"\x1b8")
    draw_screen(session.screen(drawn)).save(f"{out}-running.png", optimize=True)
    draw_screen(session.screen(), AT_END).save(f"{out}-end.png", optimize=True)


if __name__ == "__main__":
    main()
