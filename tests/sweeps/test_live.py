"""The live display sends what has changed, and leaves nothing behind."""

from __future__ import annotations

import io

import pyte
import pytest
from rich.console import Console
from rich.text import Text

from sweeps.live import LiveDisplay, draw_lines, print_frame

COLUMNS, LINES = 30, 10
ERASE = "\x1b]2;erased\x07"  # not visible


class Shown:
    """A console, and the terminal that shows what it writes."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=COLUMNS, height=LINES, force_terminal=True)
        self.screen = pyte.Screen(COLUMNS, LINES)
        self.screen.set_mode(
            pyte.modes.LNM
        )  # a line feed returns the carriage, as a terminal's driver has it
        self._stream, self._n_fed = pyte.Stream(self.screen), 0

    def sent(self) -> str:
        """Return what was written since the last call."""
        new = self.file.getvalue()[self._n_fed :]
        self._stream.feed(new)
        self._n_fed += len(new)
        return new

    def lines(self) -> list[str]:
        self.sent()
        return [line.rstrip() for line in self.screen.display if line.strip()]


def over(letter: str, up: int) -> str:
    """Return codes that draw a letter in the lines above."""
    return f"\x1b7\x1b[{up}A{letter}\x1b8"


def test_only_changed_lines_and_pictures_are_sent() -> None:
    shown = Shown()
    live = LiveDisplay(shown.console, "")
    live.start()
    live.show(Text("step 1\nof 9\n\ncaption"), [over("A", 2)])
    assert shown.lines() == ["step 1", "of 9", "A", "caption"]
    live.show(Text("step 2\nof 9\n\ncaption"), [over("A", 2)])
    sent = shown.sent()
    assert "step 2" in sent
    assert "of 9" not in sent
    assert "A\x1b8" not in sent
    live.show(Text("step 2\nof 9\n\ncaption"), [over("B", 2)])
    assert shown.sent() == over("B", 2)
    assert shown.lines() == ["step 2", "of 9", "B", "caption"]
    live.show(Text("step 2\nof 9\n\ncaption"), [over("B", 2)])
    assert shown.sent() == ""


def test_what_is_printed_stands_above_the_newest_frame() -> None:
    shown = Shown()
    live = LiveDisplay(shown.console, "")
    live.start()
    live.show(Text("step 1\n\ncaption"), [over("A", 2)])
    live.show(Text("step 2\n\ncaption"), [over("B", 2)])
    for number in range(2 * LINES):
        shown.console.print(f"line {number}")
        live.show(Text("step 2\n\ncaption"), [over("B", 2)])
    assert shown.lines()[-5:] == ["line 18", "line 19", "step 2", "B", "caption"]
    assert shown.lines().count("step 2") == 1


@pytest.mark.parametrize("text", ["short", "longer than a line of this terminal, by far"])
def test_nothing_stays_but_what_was_printed(text: str) -> None:
    shown = Shown()
    live = LiveDisplay(shown.console, ERASE)
    live.start()
    live.show(Text(f"{text}\nrow\nrow"))
    shown.console.print("a line that is longer than the terminal", soft_wrap=True)
    live.show(Text(f"{text}\nrow"))
    shown.console.print("last", soft_wrap=True)
    live.stop()
    assert shown.file.getvalue().endswith(ERASE)
    assert shown.lines() == ["a line that is longer than the", " terminal", "last"]
    assert not shown.screen.cursor.hidden


def test_a_frame_of_another_shape_replaces_the_whole() -> None:
    shown = Shown()
    live = LiveDisplay(shown.console, "")
    live.start()
    live.show(Text("1\n\n\ncaptions"), [over("A", 3), over("\x1b[3CB", 3)])
    assert shown.lines() == ["1", "A  B", "captions"]
    live.show(Text("1\n\n\ncaptions"), [over("A", 3)])
    assert shown.lines() == ["1", "A", "captions"]
    live.show(Text("1"))
    assert shown.lines() == ["1"]


def test_a_frame_that_stays() -> None:
    shown = Shown()
    print_frame(shown.console, Text("\ncaption"), [over("A", 2)])
    shown.console.print("next")
    assert shown.lines() == ["A", "caption", "next"]


def test_lines_are_those_that_a_console_prints() -> None:
    console = Console(file=io.StringIO(), width=9, force_terminal=True, color_system="256")
    lines = ["\x1b[31mone two \x1b[0m", "\x1b[31mthree\u2028 \x1b[0m", "\x1b[31mfour\x1b[0m"]
    assert draw_lines(console, Text("one two three\u2028 four", "red")) == lines
