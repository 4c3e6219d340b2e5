"""Dataclasses as a schema: built from a composed mapping, every value checked against its type and range.

Standard library only, so that entry points can refuse bad input before anything heavy is imported.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, Literal

from nca.cli.errors import ConfigError, nearest

__all__ = ["build", "flatten", "leaf"]


T = typing.TypeVar("T")


def leaf(**allowed: Any) -> Any:
    """Declare a config value with what is allowed for it.

    Args:
        allowed: Any of `at_least`, `at_most`, `above` (numbers), `multiple_of` (integer), `default`.
    """
    default = allowed.pop("default", MISSING)
    return field(default=default, metadata=allowed)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def build(schema: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a schema's dataclass from a composed mapping.

    Args:
        schema: The dataclass.
        values: Plain nested mappings, lists and scalars.
        where: Dotted prefix of the keys, for messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has another type or lies out of its range.
    """
    hints = typing.get_type_hints(schema)
    known = {item.name: item for item in fields(schema)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{where}{key}'{nearest(key, known)}")
    built: dict[str, Any] = {}
    for name, item in known.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{where}{name}", item.metadata)
        elif item.default is MISSING:
            raise ConfigError(f"'{where}{name}' is missing: give {where}{name}=VALUE")
    return schema(**built)


def _convert(hint: Any, value: Any, key: str, allowed: Mapping[str, Any]) -> Any:
    options = list(_options(hint))
    nested = [option for option in options if is_dataclass(option)]
    if nested:
        return _build_nested(typing.cast("list[type]", nested), value, key)
    for option in options:
        if _fits(option, value):
            converted = float(value) if option is float else value
            if option in (int, float):
                _check_range(converted, key, allowed)
            return converted
    raise ConfigError(f"{key}={_shown(value)}: must be {_describe(options, allowed)}")


def _options(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
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
        return value in typing.get_args(option) and not isinstance(value, bool)
    if typing.get_origin(option) is dict:
        return isinstance(value, Mapping)
    if typing.get_origin(option) is list:
        (element,) = typing.get_args(option)
        return isinstance(value, list) and bool(value) and all(_fits(element, each) for each in value)
    if option is types.NoneType:
        return value is None
    if isinstance(value, bool):
        return option is bool
    return isinstance(value, (int, float) if option is float else option)


def _check_range(value: float, key: str, allowed: Mapping[str, Any]) -> None:
    inside = (
        value == value  # noqa: PLR0124 - NaN lies in no range
        and value >= allowed.get("at_least", value)
        and value <= allowed.get("at_most", value)
        and ("above" not in allowed or value > allowed["above"])
        and ("multiple_of" not in allowed or value % allowed["multiple_of"] == 0)
    )
    if not inside:
        raise ConfigError(f"{key}={_shown(value)}: must be {_describe([type(value)], allowed)}")


def _describe(options: list[Any], allowed: Mapping[str, Any]) -> str:
    return " or ".join(_describe_option(option, allowed) for option in options)


def _describe_option(option: Any, allowed: Mapping[str, Any]) -> str:
    if typing.get_origin(option) is Literal:
        words = [str(word) for word in typing.get_args(option)]
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    if typing.get_origin(option) is list:
        return f"a list [A,B], each {_describe_option(typing.get_args(option)[0], {})}"
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "null",
    }
    text = names.get(option, "a mapping")
    if option in (int, float):
        low = allowed.get("at_least")
        text += "" if low is None else f", at least {low}"
        text += f", above {allowed['above']}" if "above" in allowed else ""
        text += f", at most {allowed['at_most']}" if "at_most" in allowed else ""
        text += f", a multiple of {allowed['multiple_of']}" if "multiple_of" in allowed else ""
    return text


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
