"""A Python version that does not work is refused in one line, by pip and by make."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("version", "works"), [("3.10.13", False), ("3.11.0", True), ("3.13.9", True), ("3.14.0", False)]
)
def test_pip_and_make_refuse_the_same_versions(tmp_path: Path, version: str, works: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version) == works
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"  # fails at anything but the question for its version
    info = tuple(map(int, version.split(".")))
    asked = f"import sys; sys.version_info = {info}; exec(sys.argv[2])"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" -c "{asked}" "$@"\nexit 9\n')
    python.chmod(0o755)
    made = subprocess.run(
        ["make", "--no-print-directory", "setup", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = "error: Python 3.11 to 3.13 is needed: make setup PYTHON=python3.12\n"
    assert (made.stdout == refused) == (not works), made.stdout + made.stderr
    assert made.returncode == 2
