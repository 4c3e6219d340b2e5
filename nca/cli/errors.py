"""A user's mistake in one line, and how an entry point ends."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator

__all__ = ["ConfigError", "exit_on_error", "nearest"]


class ConfigError(ValueError):
    """A user's input was wrong: one line with the value, what is allowed and how to go on."""


INTERRUPTED = 130  # exit code, as shells give it after ctrl-C
PATIENCE_S = 3.0  # with a process that ctrl-C was to end


@contextlib.contextmanager
def exit_on_error(*also: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit code 2, ctrl-C into one and exit code 130.

    Args:
        also: Further exceptions whose message is such a line.

    Raises:
        SystemExit: With either code, after the line.
    """
    mistakes: tuple[type[Exception], ...] = (ConfigError, *also)
    interrupt = _Interrupt()
    try:
        with interrupt:
            yield
    except mistakes as error:
        if not interrupt.came:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
    except KeyboardInterrupt:
        interrupt.came = True
    except Exception:
        if not interrupt.came:  # else what a library made of it
            raise
    if interrupt.came:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED)


class _Interrupt:
    """Ctrl-C ends the process where nothing else handles it, and after a while even if it is swallowed.

    It raises KeyboardInterrupt, so that what is half-written is removed; libraries that are just being
    imported or called may swallow that.
    """

    def __init__(self) -> None:
        self.came = False
        self._ours = False

    def __enter__(self) -> None:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._ours = True
            signal.signal(signal.SIGINT, self._interrupt)
            signal.signal(signal.SIGALRM, _end_at_once)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            if signal.getsignal(signal.SIGINT) == self._interrupt:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, *_: object) -> None:
        self.came = True
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
        raise KeyboardInterrupt


def _end_at_once(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""
