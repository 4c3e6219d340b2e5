"""Each import contract of pyproject.toml fails on an import that it forbids."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = [contract["name"] for contract in SETTINGS["contracts"]]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

# For each contract, lines to add to files; a file that does not exist is created.
BAD_IMPORTS = [
    ("sweeps knows nothing of automata, torch or MLflow", "sweeps/files.py", "import torch"),
    ("one door to MLflow: nca.tracking", "nca/render.py", "import mlflow"),
    ("one door to Hydra: composition and the plugin", "nca/study/plan.py", "import hydra"),
    ("one door to Optuna: sweeps", "nca/study/plan.py", "import optuna"),
    ("nothing imports analysis", "nca/serve.py", "import analysis.runs"),
    ("layers of nca", "nca/cli/errors.py", "import nca.config.schema"),
    ("layers of nca", "nca/render.py", "import nca.serve"),
    ("layers of nca", "nca/stray.py", ""),
    ("layers of sweeps", "sweeps/files.py", "import sweeps.study"),
    ("layers of sweeps", "sweeps/stray.py", ""),
    ("layers of analysis", "analysis/statistics.py", "import analysis.report"),
    ("layers of analysis", "analysis/stray.py", ""),
    ("no circles between siblings", "nca/automaton/seeding.py", "import nca.automaton.rules"),
    ("no circles between siblings", "sweeps/storage/sqlite.py", "import sweeps.storage.optuna_storage"),
    ("no circles between siblings", "analysis/figures/drawing.py", "import analysis.figures.parameters"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for package in SETTINGS["root_packages"]:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> tuple[int, list[str]]:
    """Return the exit code of the linter and the names of broken contracts."""
    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, re.findall(r"^(.*) BROKEN", done.stdout, re.MULTILINE)


def test_every_contract_has_a_bad_import() -> None:
    assert {contract for contract, _, _ in BAD_IMPORTS} == set(CONTRACTS)


def test_the_checkout_keeps_every_contract(checkout: Path) -> None:
    assert lint(checkout) == (0, [])


@pytest.mark.parametrize(("contract", "file", "line"), BAD_IMPORTS)
def test_a_contract_fails_on_a_bad_import(contract: str, file: str, line: str, checkout: Path) -> None:
    path = checkout / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        code, broken = lint(checkout)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
    assert code == 1
    assert contract in broken
