"""Composition of conf/ into plain values; a user's mistake gives one line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nca.cli.errors import ConfigError, nearest
from nca.cli.options import FLAGS_HELP, HELP_FLAGS, PRINTING_FLAGS, read_runs_dir, read_text
from nca.config.custom_class import CUSTOM_GROUPS
from nca.config.files import CONF, custom_folder, find_option, is_config_dir, option_names, read_comments
from nca.config.overrides import COMMAS, is_space_file, name_custom, parse, quote, quote_text
from nca.config.schema import clean_name
from nca.config.validation import flatten

ANY_TEXTURE = "texture=roundleaf"  # composition needs one
MORE_OPTIONS = {"search": ", or the path of a FILE.yaml"}
MORE_OPTIONS |= dict.fromkeys(CUSTOM_GROUPS, ", or a class of yours as MODULE.CLASS")

# ${stem:${texture.path}} in names of studies
OmegaConf.register_new_resolver("stem", lambda path: clean_name(Path(path).stem), replace=True)


def compose_plain(config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose conf/ into plain nested values, every interpolation resolved, `runs_dir` absolute.

    Args:
        config_name: `train` or `sweep`.
        overrides: Hydra overrides with one value each, and perhaps `--config-dir=DIR`.

    Raises:
        ConfigError: If an override is wrong, or a mandatory value is missing.
    """
    with _composing(config_name, overrides) as words:
        config = compose(config_name, words, return_hydra_config=True)
        OmegaConf.set_struct(config, False)
        _check_names(config, config.pop("hydra").runtime.choices)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"'{missing[0]}' is missing: give {missing[0]}=VALUE")
        if not isinstance(runs := config.get("runs_dir"), str) or not runs.strip():
            raise ConfigError(f"runs_dir={runs}: must be the path of a folder")
        config.runs_dir = str(read_runs_dir(config.runs_dir))
        return _to_dict(config, resolve=True)


@contextlib.contextmanager
def _composing(config_name: str, overrides: Sequence[str]) -> Iterator[list[str]]:
    """Give Hydra conf/ as its search path, yield overrides that it can read, turn its errors into one line.

    Raises:
        ConfigError: If Hydra refuses the overrides.
    """
    words, folder = _to_hydra(overrides), custom_folder(overrides)
    GlobalHydra.instance().clear()  # inside a sweep Hydra's own application is still open
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=config_name):
            yield words
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(_explain(config_name, error, folder)) from error


def _to_hydra(words: Sequence[str]) -> list[str]:
    """Return the words of a command line as overrides that Hydra reads.

    Raises:
        ConfigError: If Hydra would not, or would with a message that is not clear.
    """
    overrides = [word for word in words if not is_config_dir(word)]
    _check_groups(overrides)
    folder = custom_folder(words)
    path = [] if folder is None else [f"hydra.searchpath=[{quote_text(f'file://{folder}')}]"]
    named = [_name_space(quote(each)) for word in overrides for each in name_custom(word)]
    return [*named, *path]


def _name_space(override: str) -> str:
    """Give Hydra the file of `search=FILE.yaml` as an option of the group, and return the option.

    Raises:
        ConfigError: If it holds no search space.
    """
    key, _, value = override.partition("=")
    if key != "search" or not is_space_file(value):
        return override
    path = str(parse(override).value())
    try:
        text = read_text(Path(path).expanduser())
        space = OmegaConf.create(text)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"search={path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(space, DictConfig) or not space or None in space.values():
        raise ConfigError(f"search={path}: must hold a line KEY: DOMAIN for each key, see conf/search/")
    name = f"file_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    ConfigStore.instance().store(name, space, "search")
    return f"search={name}"


def _check_names(config: DictConfig, choices: Mapping[str, str | None]) -> None:
    """Refuse a changed name of a part: `model.name=relu` would train srnca's model under another name.

    A file in a user's own folder may have the name of a part of ours.

    Raises:
        ConfigError: If there is one.
    """
    for group, chosen in choices.items():
        name, ours = OmegaConf.select(config, f"{group}.name", default=chosen), option_names(group)
        if name != chosen and chosen in ours:
            names = ", ".join(ours)
            raise ConfigError(f"{group}.name={name}: cannot be set; give {group}=NAME, one of {names}")


def _check_groups(overrides: Sequence[str]) -> None:
    """Refuse Hydra's own keys, and a number or null for an option's name, of which its message is unclear.

    Raises:
        ConfigError: If there is one.
    """
    for override in map(parse, overrides):
        key, value = str(override.key_or_group), override.value()
        if re.match(r"hydra\b", key):
            raise ConfigError(f"{override.input_line}: settings of Hydra itself cannot be changed")
        if (
            isinstance(value, bool | int | float | None)
            and (CONF / key).is_dir()
            and not override.is_delete()
        ):
            raise ConfigError(f"{override.input_line}: must be one of {', '.join(option_names(key))}")


def run_hydra(config_name: str, flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Run a command line with flags: `-m` starts Hydra's sweeper, the others print a config.

    Raises:
        ConfigError: If the config to print cannot be composed.
    """
    names = {flag.partition("=")[0] for flag in flags}
    if names & HELP_FLAGS:
        _print_help(config_name, overrides)
        return
    if names & PRINTING_FLAGS.keys():
        compose_plain(config_name, overrides)  # refuses mistakes in one line
    import hydra

    # Hydra does not read overrides on both sides of a flag, and takes one that follows --info for its value.
    sys.argv[1:] = [*_to_hydra(overrides), *flags]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(_refuse)()


def _print_help(config_name: str, overrides: Sequence[str]) -> None:
    """Print the option groups and every key with its value and comment; Hydra's own help takes twice as long.

    Raises:
        ConfigError: If the config cannot be composed.
    """
    if not any(word.startswith("texture=") for word in overrides):
        overrides = [*overrides, ANY_TEXTURE]
    with _composing(config_name, overrides) as words:
        config = compose(config_name, words, return_hydra_config=True)
    header, chosen, folder = config.hydra.help.header, config.hydra.runtime.choices, custom_folder(overrides)
    groups = sorted(group for group in chosen if "/" not in group)
    comments = read_comments(CONF / f"{config_name}.yaml", "")
    for group in groups:
        if chosen[group] is not None and group != "experiment":
            comments |= read_comments(find_option(group, chosen[group], folder), f"{group}.")
    print(f"{header}\nOptions, as GROUP=NAME:\n")
    for group in groups:
        print(f"  {group}: {', '.join(option_names(group, folder, groups))}{MORE_OPTIONS.get(group, '')}")
    print("\nFlags:\n")
    for flag, text in FLAGS_HELP.items():
        print(f"  {flag:{max(map(len, FLAGS_HELP)) + 2}}{text}")
    print("\nValues, as KEY=VALUE:\n")
    for key, value in _flatten(config).items():
        shown = json.dumps(value) if value is None or isinstance(value, bool) else str(value).replace("'", "")
        given = f"{key.removesuffix('.name')}={shown}"
        print(f"  {given:40}  {comments.get(key, '')}".rstrip())


def _refuse(config: DictConfig) -> None:
    """Refuse a flag that neither prints anything nor starts a sweep."""
    print("error: --resolve: belongs to --cfg", file=sys.stderr)
    sys.exit(2)


def _explain(config_name: str, error: Exception, folder: Path | None) -> str:
    """Return Hydra's error as one line, with the names or the key that were probably meant."""
    text = str(error)
    if found := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{found[1]}: takes one value; {COMMAS}"
    if found := re.search(r"You must specify '(\w+)'", text):
        names = option_names(found[1], folder)
        return f"'{found[1]}' is missing: give {found[1]}=NAME, one of {', '.join(names)}"
    if found := re.search(r"Could not (?:find|load) '(\w+)/([^']*)'", text):
        group, name = found[1], found[2]
        names = option_names(group, folder)
        more = nearest(name, names) or MORE_OPTIONS.get(group, "")
        return f"{group}={name}: must be one of {', '.join(names)}{more}"
    if found := re.search(r"Could not override '([^'@]+)'|[kK]ey '([^']+)'", text):
        key = found[1] or found[2]
        groups = [folder.name for folder in CONF.iterdir() if folder.is_dir()]
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=config_name):
            known = [*groups, *_flatten(compose(config_name, [ANY_TEXTURE]))]
        if key not in known:
            return f"unknown key '{key}'{nearest(key, known)}"
        group = key.partition(".")[0]
        if not any(word.startswith(f"{group}.") for word in known):
            return f"'{key}' is no part of nca.{config_name}"
        return f"'{key}' does not belong to the chosen option of {group}, see conf/"
    return " ".join(text.split())


def _flatten(config: DictConfig) -> dict[str, Any]:
    """Return values by dotted key, unresolved, without Hydra's own."""
    return flatten({key: value for key, value in _to_dict(config).items() if key != "hydra"})


def _to_dict(config: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
