"""Options of the small entry points, KEY=VALUE each, without a config to compose."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from nca.cli.errors import ConfigError, nearest

__all__ = ["read_number", "read_options", "read_out", "writing"]


def read_options(
    words: Sequence[str], known: Collection[str], usage: str, needs: str | None = None
) -> dict[str, str]:
    """Return options by key.

    Args:
        words: Those of a command line that hold a `=`.
        known: Keys that are allowed.
        usage: What is said of a mistake.
        needs: The key that must be given.

    Raises:
        ConfigError: If a key is unknown, or a value or what is needed is missing.
    """
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            raise ConfigError(f"unknown key '{key}'{nearest(key, known)}; {usage}")
        if not value:
            raise ConfigError(f"{word}: give a value; {usage}")
        options[key] = value
    if needs is not None and needs not in options:
        raise ConfigError(f"say which {needs}: {usage}")
    return options


def read_out(options: dict[str, str], key: str, default: str, kinds: Collection[str] = ()) -> Path:
    """Return where to write.

    Args:
        options: By key.
        key: Of the place.
        default: The place if none is given.
        kinds: Endings that are allowed; any if empty.

    Raises:
        ConfigError: If it ends otherwise, or what it would lie in is no folder.
    """
    out = Path(options.get(key, default)).expanduser()
    if kinds and out.suffix not in kinds:
        raise ConfigError(f"{key}={out}: must end with one of {', '.join(kinds)}")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{key}={out}: {folder} is not a folder")
    return out


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Give a place to write to, which becomes the file, or the files of the folder, only when all is written.

    Args:
        out: The file; for a folder, create the place and what it then holds is moved into `out`.

    Raises:
        ConfigError: If it cannot be written; nothing is left then but what was there before.
    """
    place = out.absolute()  # that of "." has a name
    partial = place.with_name(f".{place.stem}.{os.getpid()}.partial{place.suffix}")
    try:
        yield partial
        if partial.is_dir():
            out.mkdir(exist_ok=True)
            for file in partial.iterdir():
                file.replace(out / file.name)
        else:
            partial.replace(out)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"{out}: cannot be written ({reason}); make room there, or give another place"
        ) from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def read_number(options: dict[str, str], key: str, default: int, at_least: int, at_most: int) -> int:
    """Return a whole number of the options.

    Raises:
        ConfigError: If it is none, or out of its range.
    """
    text = options.get(key, str(default))
    if not text.isdecimal() or not at_least <= int(text) <= at_most:
        raise ConfigError(f"{key}={text}: must be a whole number from {at_least} to {at_most}")
    return int(text)
