"""Classes of a user's own code, by dotted path: found without an import, and imported.

Only a command line or a user's own config folder names one. No file of a run does: whoever reads it must
give the name again.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from nca.cli.errors import ConfigError, nearest

T = TypeVar("T")

CUSTOM = "custom"  # option of a group that has the class's other values
CUSTOM_GROUPS = ("model", "loss")


class CustomClassError(ConfigError):
    """A class of a user's own that cannot be used, or that a file names and the user does not."""


def is_custom(name: str) -> bool:
    """Return whether the name of a part is a dotted path, `MODULE.CLASS`."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name) is not None


def is_custom_option(key: str) -> bool:
    """Return whether a dotted key is an option of such a class."""
    return key.startswith(tuple(f"{group}.options." for group in CUSTOM_GROUPS))


def check_name(group: str, name: str, ours: tuple[str, ...]) -> None:
    """Check that a part is one of ours, or a dotted path.

    Raises:
        ConfigError: If it is neither.
    """
    if name not in ours and not is_custom(name):
        raise ConfigError(
            f"{group}.name={name}: must be one of {', '.join(ours)}, or a class as MODULE.CLASS"
        )


def check_values(group: str, options: Mapping[str, object] | None) -> None:
    """Check that the options of a class are single values.

    Raises:
        ConfigError: If one is a list or a mapping, or its key is no name.
    """
    for key, value in (options or {}).items():
        if not re.fullmatch(r"[^\W\d]\w*", key):
            raise ConfigError(f"{group}.options.{key}: must be a name of letters, digits and _")
        if not isinstance(value, bool | int | float | str | None):
            raise ConfigError(f"{group}.options.{key}={value}: must be one number, text, true, false or null")


def custom_overrides(classes: Mapping[str, str], *groups: str) -> list[str]:
    """Return the overrides that name classes by group, all of them or those of some groups."""
    return [f"{group}={name}" for group, name in classes.items() if not groups or group in groups]


def check_named(what: object, group: str, name: str, given: str | None) -> None:
    """Check that a user has given the class that a file names, before its code is run.

    Raises:
        CustomClassError: If it is not given.
    """
    if is_custom(name) and given != name:
        raise CustomClassError(
            f"{what}: its {group} is {name}, code that is not of this package; if you know it, run it by "
            f"{group}={name}"
        )


def find_source(group: str, name: str) -> Path:
    """Return the file that a class is imported from, without an import of its module or of torch.

    The working folder is searched too, last if the program was not started by `python -m`.

    Raises:
        CustomClassError: If there is no such module.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    top, *others = name.split(".")[:-1]
    module = ".".join([top, *others])
    try:
        spec = importlib.util.find_spec(top)
        for index in range(len(others)):
            path = spec.submodule_search_locations if spec else None
            spec = PathFinder.find_spec(".".join([top, *others[: index + 1]]), path or [])
    except ValueError:  # of a module without a spec, as __main__
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise CustomClassError(
            f"{group}={name}: there is no module {module} in the working folder or on PYTHONPATH"
        )
    return Path(spec.origin)


def load_class(group: str, name: str, base: type[T]) -> type[T]:
    """Import a class.

    Args:
        group: Of the part, for messages.
        name: Dotted path of the class.
        base: The interface that it must be a subclass of.

    Raises:
        CustomClassError: If it cannot be imported, or is no such class, or has not all methods.
    """
    file = find_source(group, name)
    path, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(path)
    except Exception as error:
        raise CustomClassError(
            f"{group}={name}: {path} cannot be imported: {describe_error(error, file)}"
        ) from error
    return _check_class(f"{group}={name}", module, class_name, base)


def _check_class(given: str, module: ModuleType, name: str, base: type[T]) -> type[T]:
    found = getattr(module, name, None)
    interface = f"{base.__module__}.{base.__name__}"
    if not isinstance(found, type):
        known = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise CustomClassError(f"{given}: {module.__name__} has no class {name}{nearest(name, known)}")
    if not issubclass(found, base):
        raise CustomClassError(f"{given}: must be a subclass of {interface}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise CustomClassError(f"{given}: lacks {missing}, which {interface} asks for")
    return found


@contextlib.contextmanager
def custom_code(group: str, name: str) -> Iterator[None]:
    """Turn any exception of a user's class into one line.

    Raises:
        CustomClassError: In its place.
    """  # noqa: DOC501 - the other one is passed on
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise CustomClassError(
            f"{group}={name}: {describe_error(error, find_source(group, name))}"
        ) from error


def describe_error(error: Exception, file: Path) -> str:
    """Return an error of a user's code as one line, with its last line in the file of that code."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    text = error.msg if isinstance(error, SyntaxError) else str(error).strip().partition("\n")[0]
    where = "" if line is None else f" ({file.name}, line {line})"
    return f"{type(error).__name__}: {text}{where}"
