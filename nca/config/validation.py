"""Dataclasses as a schema: built from plain mappings, each value checked against its type and range.

Standard library only, so that entry points check their input before they import heavy packages.
"""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal

from nca.cli.errors import ConfigError, nearest

T = typing.TypeVar("T")

MAX_WHOLE = 10**18  # larger numbers fit neither torch's integers nor a database's


@dataclass(frozen=True)
class Range:
    """The allowed numbers of a config value; error messages and the comments of conf/ show its text."""

    low: float
    high: float = math.inf
    open_low: bool = False
    multiple_of: int | None = None

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value <= min(self.high, sys.float_info.max)
        return above and below and not (self.multiple_of and value % self.multiple_of)

    def __str__(self) -> str:
        if self.open_low:
            return f"in ({self.low:g}, {self.high:g}]"
        multiple = f"a multiple of {self.multiple_of}, " if self.multiple_of else ""
        return multiple + (f"{self.low} or more" if self.high == math.inf else f"{self.low} to {self.high}")


def in_range(low: float, high: float = math.inf, *, default: Any = MISSING, **more: Any) -> Any:
    """Declare a numeric field of a schema; `more` are further arguments of `Range`."""
    return field(default=default, metadata={"range": Range(low, high, **more)})


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def set_value(part: dict[str, Any], name: str, value: Any) -> None:
    """Set a value of a part, or one of its `options`, whose name is `options.KEY`."""
    key, dot, option = name.partition(".")
    part[key] = {**(part[key] or {}), option: value} if dot else value


def build(schema: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass of a schema from a plain mapping.

    Args:
        schema: The dataclass.
        values: Plain nested mappings, lists and scalars.
        where: Dotted prefix of the keys in messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    hints = typing.get_type_hints(schema)
    known = {item.name: item for item in fields(schema)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{where}{key}'{nearest(key, known)}")
    built: dict[str, Any] = {}
    for name, item in known.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{where}{name}", item.metadata.get("range"))
        elif item.default is MISSING:
            raise ConfigError(f"'{where}{name}' is missing: give {where}{name}=VALUE")
    return schema(**built)


def _convert(hint: Any, value: Any, key: str, allowed: Range | None) -> Any:
    options = list(_options(hint))
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(number, int) and abs(number) > MAX_WHOLE for number in numbers):
        raise ConfigError(f"{key}: a number of more than 18 digits; must be {_describe(options, allowed)}")
    nested = [option for option in options if is_dataclass(option)]
    if nested:
        return _build_nested(typing.cast("list[type]", nested), value, key)
    for option in options:
        if _fits(option, value):
            converted = float(value) if option is float else value
            if not allowed or option not in {int, float} or converted in allowed:
                return converted
    raise ConfigError(f"{key}={_shown(value)}: must be {_describe(options, allowed)}")


def _options(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        for option in typing.get_args(hint):
            yield from _options(option)
    else:
        yield hint


def _build_nested(schemas: list[type], value: Any, key: str) -> Any:
    if isinstance(value, tuple(schemas)):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={_shown(value)}: must be one of conf/{key}/ by name")
    if len(schemas) == 1:
        return build(schemas[0], value, f"{key}.")
    by_source = {s: c for c in schemas for s in typing.get_args(typing.get_type_hints(c)["source"])}
    source = value.get("source")
    same_keys = [s for s, c in by_source.items() if {f.name for f in fields(c)} == set(value)]
    if source not in by_source or (same_keys and source not in same_keys):
        raise ConfigError(
            f"{key}.source={_shown(source)}: must be one of {', '.join(same_keys or by_source)}"
        )
    return build(by_source[source], value, f"{key}.")


def _fits(option: Any, value: Any) -> bool:
    if typing.get_origin(option) is Literal:
        return any(type(value) is type(each) and value == each for each in typing.get_args(option))
    if typing.get_origin(option) is dict:
        return isinstance(value, Mapping)
    if typing.get_origin(option) is list:
        (element,) = typing.get_args(option)
        return isinstance(value, list) and bool(value) and all(_fits(element, each) for each in value)
    if option is NoneType:
        return value is None
    if isinstance(value, bool):
        return option is bool
    return isinstance(value, (int, float) if option is float else option)


def _describe(options: list[Any], allowed: Range | None) -> str:
    return " or ".join(_describe_option(option, allowed) for option in options)


def _describe_option(option: Any, allowed: Range | None) -> str:
    if typing.get_origin(option) is Literal:
        names = [str(name) for name in typing.get_args(option)]
        return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
    if typing.get_origin(option) is list:
        return f"a list [A,B], each {_describe_option(typing.get_args(option)[0], None)}"
    number = "a finite number" if allowed and allowed.high == math.inf else "a number"
    kinds = {int: "a whole number", float: number, str: "text", bool: "true or false", NoneType: "null"}
    text = kinds.get(option, "a mapping")
    return f"{text}, {allowed}" if option in {int, float} and allowed else text


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
