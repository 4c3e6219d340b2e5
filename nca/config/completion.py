"""What completes a word of a command line of nca.sweep or nca.train; reads conf/ without Hydra."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nca.cli.errors import ConfigError
from nca.cli.options import CONFIG_DIR, OVERRIDE_FLAGS, PLAIN_FLAG, split_overrides
from nca.config import schema
from nca.config.files import CONF, custom_folder, find_option, option_names, read_comments

SCHEMAS: dict[str, type] = {
    "model": schema.ModelConfig,
    "loss": schema.LossConfig,
    "features": schema.FeaturesConfig,
    "train": schema.TrainConfig,
    "outputs": schema.OutputsConfig,
    "sampler": schema.SamplerConfig,
    "pruner": schema.PrunerConfig,
    "executor": schema.ExecutorConfig,
    "sweep": schema.SweepSettings,
}
CHOICE = re.compile(r"^ *- (?:override )?/?(\w+): (\S+)", re.MULTILINE)


def complete_overrides(config_name: str, words: Sequence[str], word: str) -> Iterator[str]:
    """Yield flags, `GROUP=` and `KEY=`, or after one of these its names or values.

    Args:
        config_name: `train` or `sweep`.
        words: The words before the one to complete.
        word: The beginning of a word.
    """
    if word.startswith("-"):
        yield from sorted([*OVERRIDE_FLAGS, CONFIG_DIR, *[PLAIN_FLAG] * (config_name == "sweep")])
        return
    folder: Path | None = None
    with contextlib.suppress(ConfigError):  # a word that is not finished, or a mistake
        folder = custom_folder(split_overrides(words)[1])
    chosen = _choose(config_name, words, folder)
    key, equals, _ = word.partition("=")
    if not equals:
        yield from (f"{group}=" for group in chosen)
        yield from (f"{name}=" for name in _keys(config_name, chosen, folder))
    elif key in chosen:
        yield from (f"{key}={name}" for name in option_names(key, folder, chosen))
    else:
        yield from (f"{key}={value}" for value in _values(key))


def _choose(config_name: str, words: Sequence[str], folder: Path | None) -> dict[str, str]:
    """Return the chosen option of each group, as far as it can be told without composition."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    chosen = dict(CHOICE.findall((CONF / f"{config_name}.yaml").read_text(encoding="utf-8")))
    experiment = find_option("experiment", given.get("experiment", ""), folder)
    if experiment.is_file():
        chosen |= dict(CHOICE.findall(experiment.read_text(encoding="utf-8")))
    chosen |= {group: name for group, name in given.items() if group in chosen}
    return {group: chosen["model"] if name == "${model}" else name for group, name in chosen.items()}


def _keys(config_name: str, chosen: dict[str, str], folder: Path | None) -> list[str]:
    comments = read_comments(CONF / f"{config_name}.yaml", "")
    found = [key for key in comments if not re.match(r"hydra|defaults|name$", key)]
    for group, name in chosen.items():
        if group not in {"experiment", "search"}:
            found += list(read_comments(find_option(group, name, folder), f"{group}."))
    return [key for key in found if not key.endswith((".name", ".defaults")) and not is_parent(key, found)]


def is_parent(key: str, keys: Iterable[str]) -> bool:
    """Return whether a dotted key holds others."""
    return any(other.startswith(f"{key}.") for other in keys)


def _values(key: str) -> list[str]:
    """Return the values of a key that takes one of a few texts."""
    group, _, name = key.partition(".")
    if group not in SCHEMAS or name not in {item.name for item in fields(SCHEMAS[group])}:
        return []
    hint: Any = get_type_hints(SCHEMAS[group])[name]
    kinds = [hint, *get_args(hint)]
    texts = [str(text) for kind in kinds if get_origin(kind) is Literal for text in get_args(kind)]
    return texts + ["true", "false"] * (bool in kinds) + ["null"] * (type(None) in kinds)
