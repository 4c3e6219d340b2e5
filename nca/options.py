"""Options of the small entry points, KEY=VALUE each, without a config to compose."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from nca.places import Places
from nca.schema import ConfigError, nearest

__all__ = ["PLACES", "read_number", "read_options", "read_places"]

PLACES = ("runs_dir", "sweep.storage", "tracking.uri")  # what `read_places` reads


def read_options(words: Sequence[str], known: Collection[str], usage: str) -> dict[str, str]:
    """Return options by key.

    Args:
        words: Those of a command line that hold a `=`.
        known: Keys that are allowed.
        usage: What is said of a mistake.

    Raises:
        ConfigError: If a key is unknown or a value is missing.
    """
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            raise ConfigError(f"unknown key '{key}'{nearest(key, known)}; {usage}")
        if not value:
            raise ConfigError(f"{word}: give a value; {usage}")
        options[key] = value
    return options


def read_places(options: dict[str, str]) -> Places:
    """Return where records are, as `runs_dir`, `sweep.storage` and `tracking.uri` say."""
    runs = Path(options.get("runs_dir", "mlruns")).expanduser().absolute()
    usual = Places.under(runs)
    tracking = options.get("tracking.uri", usual.tracking)
    return Places(runs, options.get("sweep.storage", usual.storage), None if tracking == "none" else tracking)


def read_number(options: dict[str, str], key: str, default: int, at_least: int, at_most: int) -> int:
    """Return a whole number of the options.

    Raises:
        ConfigError: If it is none, or out of its range.
    """
    text = options.get(key, str(default))
    if not text.isdecimal() or not at_least <= int(text) <= at_most:
        raise ConfigError(f"{key}={text}: must be a whole number from {at_least} to {at_most}")
    return int(text)
