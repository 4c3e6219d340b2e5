"""The overrides of a command line: parsed by Hydra's grammar, sorted, and their domains read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException

from nca.cli.errors import ConfigError
from nca.config.custom_class import CUSTOM, CUSTOM_GROUPS, is_custom, is_custom_option
from nca.config.files import CONF, is_config_dir
from sweeps import SweepError
from sweeps.space import Choice, Domain, Interval, Scalar

TEXT_KEYS = {  # of paths, addresses and names, in which commas, brackets and the like mean nothing
    "runs_dir",
    "texture.path",
    "features.weights",
    "sweep.study",
    "sweep.preview",
    "sweep.warm_start",
    "sweep.storage",
    "tracking.uri",
    "executor.address",
    "executor.storage_path",
}
SPACE_SUFFIXES = (".yaml", ".yml")
SHOWN_CHARS = 40  # of a long word
COMMAS = "commas separate the choices of a sweep, and the decimal sign is a point"


@dataclass(frozen=True)
class Overrides:
    """The overrides of a command line by kind.

    Args:
        plain: Overrides with one value.
        groups: Names by option group where several are given.
        domains: Domains to search, by dotted key.
    """

    plain: list[str]
    groups: dict[str, list[str]]
    domains: dict[str, Domain]


def sort_overrides(argv: Sequence[str]) -> Overrides:
    """Sort overrides into plain values, groups with several options, and domains.

    Raises:
        ConfigError: If one cannot be parsed.
        SweepError: If a domain is empty.
    """
    sorted_ = Overrides([], {}, {})
    for word in argv:
        if is_config_dir(word):
            sorted_.plain.append(word)
            continue
        override = parse(word)
        key = str(override.key_or_group)
        if not override.is_sweep_override():
            sorted_.plain.append(word)
        elif (CONF / key).is_dir():
            sorted_.groups[key] = [str(name) for name in _options(override)]
        else:
            sorted_.domains[key] = _to_domain(override)
    return sorted_


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Return the dotted key or the option group that each override sets."""
    return [str(parse(word).key_or_group) for word in overrides if not is_config_dir(word)]


def read_domain(key: str, text: Any) -> Domain | None:
    """Return the domain of a value such as `choice(4, 5)`, None for a plain value.

    Raises:
        ConfigError: If it cannot be parsed.
        SweepError: If the domain is empty.
    """
    override = parse(f"{key}={text}")
    return _to_domain(override) if override.is_sweep_override() else None


def quote(override: str) -> str:
    """Quote the value of a key of text, so that Hydra takes it as it is; what is quoted, and null, stays."""
    key, _, value = override.partition("=")
    is_text = key.lstrip("+") in TEXT_KEYS or (key == "search" and is_space_file(value))
    if not is_text or re.fullmatch(r"""'.*'|".*"|null|""", value, re.DOTALL):
        return override
    return f"{key}={quote_text(value)}"


def quote_text(text: str) -> str:
    """Return a text in quotes, so that Hydra takes it as it is."""
    return str(QuotedString(text, Quote.single).with_quotes())


def name_custom(override: str) -> list[str]:
    """Return `model=MODULE.CLASS` as the option and the name that it stands for; others as they are.

    An option of the class, `model.options.KEY`, need not be in conf/.
    """
    key, _, value = override.partition("=")
    if key in CUSTOM_GROUPS and is_custom(value):
        return [f"{key}={CUSTOM}", f"++{key}.name={value}"]
    return [f"++{override}" if is_custom_option(key) else override]


def is_space_file(value: str) -> bool:
    """Return whether the value of `search` is the path of a file."""
    return value.strip("'\"").endswith(SPACE_SUFFIXES)


def parse(word: str) -> Override:
    """Parse an override.

    Raises:
        ConfigError: If it cannot be parsed.
    """  # noqa: DOC501 - the other one is caught here
    # To the parser this is a syntax error like any other.
    if re.fullmatch(r"[^=]+=\s*choice\(\s*\)\s*", word):
        raise ConfigError(f"{word}: an empty domain; give at least one value")
    try:
        if word.startswith("="):
            raise HydraException("no key")
        return OverridesParser.create().parse_override(quote(word))
    except ValueError as error:  # of Python, as it guards against the time that such a number takes
        limit = sys.get_int_max_str_digits()
        raise ConfigError(f"{word[:SHOWN_CHARS]}...: holds a number of more than {limit} digits") from error
    except HydraException as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"'{word}' cannot be read as key=value ({lines[0]}); try quotes: 'key=\"value\"'"
        ) from error


def _options(override: Override) -> Iterator[Any]:
    """Yield a sweep's values one by one.

    Raises:
        ConfigError: If it is a glob, which needs Hydra's own sweeper.
    """
    try:
        yield from override.sweep_iterator(Transformer.identity)
    except HydraException as error:
        raise ConfigError(f"{override.input_line}: give the values one by one, as in a,b") from error


def _to_domain(override: Override) -> Domain:
    key, value = override.key_or_group, override.value()
    unknown: set[str] = getattr(value, "tags", set()) - {"log"}
    if unknown:
        raise ConfigError(f"{key}: unknown tag '{min(unknown)}', only log")
    try:
        if isinstance(value, IntervalSweep):
            low, high = _as_floats(value.start, value.end)
            return Interval(low, high, log="log" in value.tags)
        if isinstance(value, RangeSweep):
            low, high, step = _as_floats(value.start, value.stop, value.step)
            return Interval(low, high, step=step)
        return Choice(tuple(_scalar(option) for option in _options(override)))
    except (SweepError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error


def _as_floats(*values: Any) -> list[float]:
    return [float(value) for value in values]


def _scalar(value: Any) -> Scalar:
    if isinstance(value, QuotedString):
        return str(value.text)
    if not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(f"{value} is not a single value")
    return value
