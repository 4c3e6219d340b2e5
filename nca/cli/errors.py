"""A user's mistake as one line, and how an entry point ends."""

from __future__ import annotations

import contextlib
import difflib
import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from sweeps.output import lost_output, protect_output

EXIT_BAD_INPUT = 2
NO_HOME = "/nonexistent"  # Debian's home of users without one
EXIT_INTERRUPTED = 130  # as shells report ctrl-C


# Errors of a full or protected disk, of memory or of a user's path, and never of the program.
EXPECTED_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOMEM,
    errno.ENAMETOOLONG,
}


class ConfigError(ValueError):
    """A user's mistake, as one line: what was wrong, the value, what is allowed and how to go on."""


@contextlib.contextmanager
def exit_on_error(*also: type[Exception]) -> Iterator[None]:
    """End the process with one line on stderr after a user's mistake (exit code 2) or ctrl-C (130).

    Output that cannot be printed stops nothing before that. An error of the operating system may be a fault
    of the program: its traceback is kept in a file, which the line names.

    Args:
        also: Further exceptions whose message is such a line.

    Raises:
        SystemExit: With the exit code.
    """
    protect_output()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # not where its cache is without a writable HOME
    mistakes: tuple[type[Exception], ...] = (ConfigError, *also)
    try:
        _check_surroundings()
        try:
            yield
        except SystemExit as end:
            if end.code:
                raise
            check_output()
            raise
        check_output()
    except mistakes as error:
        kept = ""
        if isinstance(error, OSError) and error.errno not in EXPECTED_ERRORS:
            kept = f"; traceback in {_keep_traceback(error)}"
        print(f"error: {_one_line(error)}{kept}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


def _check_surroundings() -> None:
    """Check that there is a working directory, and name a home folder for libraries that fail without one.

    Raises:
        ConfigError: If the working directory was deleted.
    """
    try:
        Path.home()
    except RuntimeError:  # a user id without a name, as in containers, and no HOME
        os.environ["HOME"] = NO_HOME
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError("the current folder was deleted; go to one that exists") from error


def _one_line(error: Exception) -> str:
    """Return an error's text with single spaces and escaped control characters: it may quote a file."""
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _keep_traceback(error: OSError) -> str:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", prefix="nca-error-", suffix=".log", delete=False
    ) as log:
        traceback.print_exception(error, file=log)
    return log.name


def check_output() -> None:
    """Check that all was printed, but what a reader that went away did not take.

    Raises:
        ConfigError: If it was not.
    """
    if lost := lost_output():
        raise ConfigError(lost)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""
