"""The files of docs/own_parts.md work as they stand there, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nca import sweep

TEXT = (Path(__file__).parents[2] / "docs" / "own_parts.md").read_text()
FILE = re.compile(r"`([\w/]+\.(?:yaml|py))`[^`]*:\n\n```(?:yaml|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def files() -> dict[str, str]:
    return dict(FILE.findall(TEXT))


def commands() -> list[list[str]]:
    others = re.sub(r"^```\w+\n.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```\n(.*?)^```", others, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the files of the page, which is the working folder."""
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_of_the_page_is_a_file_or_a_command() -> None:
    assert len(files()) == len(re.findall(r"^```(?:yaml|python)$", TEXT, re.MULTILINE)) > 1


@pytest.mark.parametrize("argv", [argv for argv in commands() if argv[2] == "nca.sweep"], ids=shlex.join)
def test_every_sweep_is_composed(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main([word for word in argv[3:] if word != "-m"])
    assert "nothing was started; add -m to start" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {name.partition("/")[0] for name in files()}
