"""The files of conf/: their names and comments, read without Hydra."""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A checkout's conf/ wins over the copy that a wheel carries.
CONF = next(c for c in (_PACKAGE.parent / "conf", _PACKAGE / "conf") if (c / "sweep.yaml").exists())


def option_names(group: str) -> list[str]:
    """Return the options of a group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def read_comments(file: Path, prefix: str) -> dict[str, str]:
    """Return the comments of a YAML file by dotted key; the first line is that of `name`.

    A key without a comment has that of the file whose values it replaces.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    comments: dict[str, str] = {}
    parent = ""
    for line in lines:
        if base := re.fullmatch(r" *- ([a-z]\w*)", line):
            comments |= read_comments(file.parent / f"{base[1]}.yaml", prefix)
        elif found := re.match(r"( *)([\w.]+):(?:.* # (.*))?", line):
            parent = parent if found[1] else f"{found[2]}."
            key = f"{prefix}{parent if found[1] else ''}{found[2]}"
            comments[key] = found[3] or comments.get(key, "")
    return comments | {f"{prefix}name": lines[0].removeprefix("# ")}
