"""The files of conf/ and of a user's own config folder: names and comments, read without Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from nca.cli.errors import ConfigError
from nca.cli.options import CONFIG_DIR
from nca.config.custom_class import CUSTOM

_PACKAGE = Path(__file__).resolve().parents[1]
# A checkout's conf/ wins over the copy that a wheel carries.
CONF = next(c for c in (_PACKAGE.parent / "conf", _PACKAGE / "conf") if (c / "sweep.yaml").exists())
OVERRIDE = re.compile(r"override /(\w+):")  # in a defaults list


def custom_folder(words: Sequence[str]) -> Path | None:
    """Return the folder that a command line gives by `--config-dir=DIR`, None if it gives none.

    Raises:
        ConfigError: If several are given, or it is no folder of configs, or a file in it would hide ours.
    """
    given = list(dict.fromkeys(word.partition("=")[2] for word in words if is_config_dir(word)))
    if not given:
        return None
    folder = Path(given[0]).expanduser().absolute()
    if len(given) > 1 or not given[0] or not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"{CONFIG_DIR} {' '.join(given)}: must be one folder, which can be read")
    groups = [each.name for each in CONF.iterdir() if each.is_dir()]
    if not any((folder / group).is_dir() for group in groups):
        known = ", ".join(sorted(groups))
        raise ConfigError(f"{CONFIG_DIR} {given[0]}: has no folder of configs; make one of {known} in it")
    ours = (file.relative_to(CONF) for file in sorted(CONF.rglob("*.yaml")))
    if (hidden := next((file for file in ours if (folder / file).exists()), None)) is not None:
        raise ConfigError(f"{folder / hidden}: has the name of one of our files; give it another one")
    return folder


def is_config_dir(word: str) -> bool:
    """Return whether a word of a command line is `--config-dir=DIR`."""
    return word.startswith(f"{CONFIG_DIR}=")


def option_names(
    group: str, folder: Path | None = None, program_groups: Collection[str] | None = None
) -> list[str]:
    """Return the options of a group, those in a user's own folder too.

    With the groups of a program given, without those that override another one, as sweeps have.
    """
    folders = [CONF] if folder is None else [CONF, folder]
    files = [file for each in folders for file in (each / group).glob("*.yaml") if file.stem != CUSTOM]
    if program_groups is not None:
        files = [file for file in files if set(OVERRIDE.findall(_read(file))) <= set(program_groups)]
    return sorted(file.stem for file in files)


def _read(file: Path) -> str:
    """Return the text of a file that may not be UTF-8; composition says so."""
    return file.read_text(encoding="utf-8", errors="replace")


def find_option(group: str, name: str, folder: Path | None = None) -> Path:
    """Return the file of an option, which may be in a user's own folder."""
    file = CONF / group / f"{name}.yaml"
    return file if folder is None or file.exists() else folder / group / file.name


def read_comments(file: Path, prefix: str) -> dict[str, str]:
    """Return the comments of a YAML file by dotted key; the first line is that of `name`.

    A key without a comment has that of the file whose values it replaces, which may be one of ours.
    """
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines() or [""]
    comments: dict[str, str] = {}
    parent = ""
    for line in lines:
        if base := re.fullmatch(r" *- ([a-z]\w*)", line):
            comments |= read_comments(find_option(file.parent.name, base[1], file.parents[1]), prefix)
        elif found := re.match(r"( *)([\w.]+):(?:.* # (.*))?", line):
            parent = parent if found[1] else f"{found[2]}."
            key = f"{prefix}{parent if found[1] else ''}{found[2]}"
            comments[key] = found[3] or comments.get(key, "")
    return comments | {f"{prefix}name": lines[0].removeprefix("# ")}
