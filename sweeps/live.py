"""A live display at the end of a terminal, of which only what has changed is sent: ssh may be slow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text


class _Frame:
    """Lines of text, with codes that draw pictures over them."""

    def __init__(self, text: RenderableType, overlays: str) -> None:
        self.text = text
        self.overlays = overlays

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Not with the options of what is printed above: where that is not wrapped, a table would be too wide.
        yield from console.render(self.text, console.options)
        if self.overlays:
            yield _codes(self.overlays)


class _Shown(NamedTuple):
    """What a terminal shows."""

    lines: list[str]
    overlays: Sequence[str]
    size: ConsoleDimensions

    @property
    def shape(self) -> tuple[int, int, ConsoleDimensions]:
        return len(self.lines), len(self.overlays), self.size


class LiveDisplay:
    """Rich's live display, which stays below all that is printed, and goes at the end.

    Rich sends a whole frame each time. So it draws a frame where lines were added, removed or printed, and of
    all others this class sends the lines and the overlays that differ.

    Args:
        console: A terminal.
        erase: Codes that delete overlays that writing text over them does not erase.
    """

    def __init__(self, console: Console, erase: str) -> None:
        self._console = console
        self._erase = erase
        self._frame = _Frame(Text(), "")
        self._shown = _Shown([], (), console.size)
        self._live = Live(self._frame, console=console, auto_refresh=False, transient=True)

    def start(self) -> None:
        """Begin; printed text goes above the display from now on."""
        self._live.start()

    def stop(self) -> None:
        """Remove the display, for good."""
        self._frame.text, self._frame.overlays = Text(), ""
        self._live.stop()
        self._send(self._erase)

    def show(self, text: RenderableType, overlays: Sequence[str] = ()) -> None:
        """Show text, and draw over it.

        Args:
            text: What the display holds from now on.
            overlays: Codes that draw, each from the line below the text, where they leave the cursor.
        """
        before, self._shown = (
            self._shown,
            _Shown(draw_lines(self._console, text), overlays, self._console.size),
        )
        self._frame.text, self._frame.overlays = text, "".join(overlays)
        if self._shown.shape == before.shape:
            self._send(_find_changes(before, self._shown))
        else:
            self._send(self._erase)
            self._live.refresh()

    def _send(self, codes: str) -> None:
        if codes:
            self._console.control(_codes(codes))


def draw_lines(console: Console, text: RenderableType) -> list[str]:
    """Return text as the lines, with their codes, that a console would print."""
    pen = Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system=console.color_system,  # type: ignore[arg-type] # a name of one
        width=console.width,
        height=console.height,
    )
    with pen.capture() as capture:
        pen.print(text)
    return capture.get().split("\n")[:-1]


def print_frame(console: Console, text: RenderableType, overlays: Sequence[str]) -> None:
    """Print text that stays, and draw over it."""
    console.print(text)
    console.control(_codes("".join(overlays)))


def _codes(text: str) -> Control:
    """Return codes that Rich sends as they are."""
    control = Control()
    control.segment = Segment(text, control=[(ControlType.CURSOR_FORWARD, 0)])
    return control


def _find_changes(before: _Shown, now: _Shown) -> str:
    """Return codes that replace the lines and overlays that differ, of as many."""
    below = len(now.lines) if now.overlays else len(now.lines) - 1  # line of the cursor
    lines = [
        f"\x1b7\r{_up(below - at)}\x1b[2K{new}\x1b8"
        for at, (new, old) in enumerate(zip(now.lines, before.lines, strict=True))
        if new != old
    ]
    return "".join(lines + [n for n, old in zip(now.overlays, before.overlays, strict=True) if n != old])


def _up(n_lines: int) -> str:
    return f"\x1b[{n_lines}A" if n_lines else ""
