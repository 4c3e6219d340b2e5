"""Text files are written and read as UTF-8 whatever the locale, which each call must say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("nca", "sweeps", "analysis", "hydra_plugins", "tools", "benchmarks")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
METHODS = {"read_text", "write_text"}  # of pathlib


def find_calls_in_the_locale(code: str) -> Iterator[int]:
    """Yield the lines of calls whose encoding depends on the locale.

    Ruff's PLW1514 finds them where it knows that a value is a path.
    """
    for call in ast.walk(ast.parse(code)):
        if isinstance(call, ast.Call) and not {"encoding", None} & {each.arg for each in call.keywords}:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            is_method = isinstance(call.func, ast.Attribute) and name in METHODS
            opens_text = name in {"open", "fdopen"} and is_text_mode(call)
            if is_method or opens_text or any(each.arg == "text" for each in call.keywords):
                yield call.lineno


def is_text_mode(call: ast.Call) -> bool:
    """Return whether a call of an `open` gives a mode for text, or nothing."""
    given = [*call.args, *(each.value for each in call.keywords if each.arg == "mode")]
    modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return not given or any(set(mode) <= set("rwax+t") for mode in modes)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", [1]),
        ("path.write_text(text)", [1]),
        ("path.open('w')", [1]),
        ("path.open()", [1]),
        ("open(path, mode='a+')", [1]),
        ("subprocess.run(command, text=True)", [1]),
        ("path.open('rb')", []),
        ("path.read_text(encoding='utf-8')", []),
        ("path.open('w', encoding='utf-8')", []),
        ("store.open(study, folder)", []),
        ("read_text(path)", []),
    ],
)
def test_calls_are_found(code: str, expected: list[int]) -> None:
    assert list(find_calls_in_the_locale(code)) == expected


def test_every_call_gives_its_encoding() -> None:
    found = {file: list(find_calls_in_the_locale(file.read_text(encoding="utf-8"))) for file in FILES}
    assert {str(file.relative_to(ROOT)): lines for file, lines in found.items() if lines} == {}
