"""What the terminal of a user can show: text alone, colored half blocks, sixels, or Kitty's pictures."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import time
import tty
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

TIMEOUT_S = 1.0  # for all answers of a terminal; a slow ssh connection takes 0.3 s
MAX_ANSWER_BYTES = 4096
QUESTIONS = (
    b"\x1b_Gi=1,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # may a pixel be sent by Kitty's protocol?
    b"\x1b[16t"  # the size of a cell in pixels
    b"\x1b[38;2;1;2;3m\x1bP$qm\x1b\\\x1b[m"  # the color that this one became
    b"\x1b[c"  # the attributes; last, as every terminal answers it, and in the order of the questions
)
ATTRIBUTES = re.compile(r"\x1b\[\?([\d;]+)c")
CELL = re.compile(r"\x1b\[6;(\d+);(\d+)t")
EXACT_COLOR = re.compile(r"38[:;]2[:;]+1[:;]2[:;]3")
SIXEL = "4"  # an attribute
WINDOW_SIZE = struct.Struct("HHHH")  # lines, columns, width and height in pixels
FORGET_LINE = b"\r\x1b[K"  # a terminal may have printed a question that it does not know


@dataclass(frozen=True)
class Graphics:
    """How a terminal shows pictures.

    Args:
        kind: Blocks are letters of two colors each.
        exact_colors: Whether blocks may have any color, and not only one of 256.
        cell_px: Width and height of a letter's cell in pixels; (0, 0) if not known.
    """

    kind: Literal["blocks", "sixel", "kitty"]
    exact_colors: bool = True
    cell_px: tuple[int, int] = (0, 0)


def shows_text_alone(console: Console) -> bool:
    """Return whether lines of text are all that an output should get.

    It is no terminal, or a dumb one, or one that cannot show all letters of UTF-8; or NO_COLOR is set.
    """
    return (
        not console.is_terminal
        or console.is_dumb_terminal
        or console.no_color
        or not console.encoding.startswith("utf")
    )


def find_graphics(console: Console) -> Graphics | None:
    """Ask the terminal of a console how it shows pictures; None if it has too few colors for them."""
    if shows_text_alone(console):
        return None
    answers, cell_px = "", (0, 0)
    with contextlib.suppress(OSError, termios.error):  # it writes elsewhere, or to another session's terminal
        cell_px = read_cell_px(console.file.fileno())
        answers = ask(os.ttyname(console.file.fileno()), TIMEOUT_S)
    return read_answers(answers, console.color_system, cell_px)


def read_cell_px(terminal: int) -> tuple[int, int]:
    """Return width and height of a cell in pixels, as its system knows them; (0, 0) if it does not.

    Raises:
        OSError: If the descriptor is not that of a terminal.
    """
    size = fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(WINDOW_SIZE.size))
    lines, columns, width, height = WINDOW_SIZE.unpack(size)
    return (width // columns, height // lines) if lines and columns else (0, 0)


def ask(terminal: str, timeout_s: float) -> str:
    """Return what a terminal answers to `QUESTIONS` in time; keys pressed meanwhile are dropped.

    Nothing is asked from the background, where a change of the terminal's mode would stop the process.

    Args:
        terminal: Its device.
        timeout_s: For all answers.

    Raises:
        OSError: If it is not the terminal of this session.
        termios.error: If it has been closed.
    """
    opened = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    try:
        if os.tcgetpgrp(opened) != os.getpgrp():
            return ""
        mode = termios.tcgetattr(opened)
        try:
            tty.setcbreak(opened, termios.TCSANOW)  # answers are not echoed, nor kept until a line ends
            os.write(opened, QUESTIONS)
            return _read(opened, time.monotonic() + timeout_s)
        finally:
            os.write(opened, FORGET_LINE)
            termios.tcsetattr(opened, termios.TCSANOW, mode)
    finally:
        os.close(opened)


def _read(opened: int, until: float) -> str:
    """Return what is read before the end of the last answer, or before a time."""
    answers = b""
    while ATTRIBUTES.search(answers.decode("latin-1")) is None and len(answers) < MAX_ANSWER_BYTES:
        left_s = until - time.monotonic()
        if left_s <= 0 or not select.select([opened], [], [], left_s)[0]:
            break
        answers += os.read(opened, MAX_ANSWER_BYTES)
    return answers.decode("latin-1")


def read_answers(answers: str, color_system: str | None, cell_px: tuple[int, int]) -> Graphics | None:
    """Return how the terminal that gave these answers shows pictures; None if it does not.

    Args:
        answers: To `QUESTIONS`, in any order; those that are missing are a no.
        color_system: Rich's, from the environment; ssh does not pass on that a terminal shows any color.
        cell_px: Width and height of a cell if the terminal does not say them; (0, 0) if not known.
    """
    attributes, cell = ATTRIBUTES.search(answers), CELL.search(answers)
    if cell is not None:
        cell_px = int(cell[2]), int(cell[1])
    if "\x1b_Gi=1;OK" in answers:
        return Graphics("kitty", cell_px=cell_px)
    if attributes and SIXEL in attributes[1].split(";")[1:] and all(cell_px):
        return Graphics("sixel", cell_px=cell_px)
    exact_colors = color_system == "truecolor" or EXACT_COLOR.search(answers) is not None
    return Graphics("blocks", exact_colors) if exact_colors or color_system == "256" else None
