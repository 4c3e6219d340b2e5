"""The wheel brings its own conf/ along and works where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.config.test_programs import SCRIPTS
from tests.integration.commands import listing, run_module, run_python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    options = ["--disable-pip-version-check", "--no-index", "--wheel-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, *build, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    install = ["-m", "pip", "install", str(wheel), "--no-deps", "--quiet", "--target", str(target)]
    options = ["--disable-pip-version-check", "--no-index", "--root-user-action=ignore"]
    done = subprocess.run(
        [sys.executable, *install, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def test_the_wheel_holds_the_packages_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "analysis",
        "nca",
        "sweeps",
        "hydra_plugins",
    }
    in_checkout = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name.removeprefix("nca/") for name in names if name.startswith("nca/conf/")} == in_checkout
    pictures = {f"nca/textures/assets/{path.name}" for path in (ROOT / "nca/textures/assets").glob("*.png")}
    assert len(pictures) == 4
    assert {*pictures, "nca/outputs/assets/viewer.html"} <= set(names)
    # Hydra finds the sweeper only where this folder is no package.
    assert "hydra_plugins/__init__.py" not in names
    assert "hydra_plugins/nca_sweeper/__init__.py" in names


def test_an_installed_copy_uses_its_own_conf(installed: Path, tmp_path: Path) -> None:
    code = "import nca.config.files as c; print(c.__file__); print(c.CONF)"
    done = run_python("-c", code, folder=tmp_path, environment={"PYTHONPATH": str(installed)})
    assert done.stdout.splitlines() == [
        str(installed / "nca" / "config" / "files.py"),
        str(installed / "nca" / "conf"),
    ]


def test_an_installed_copy_shows_its_help(installed: Path, tmp_path: Path) -> None:
    done = run_module("nca.sweep", "--help", folder=tmp_path, environment={"PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr
    assert "n_trials" in done.stdout
    assert not listing(tmp_path)


def test_an_installed_copy_has_console_scripts(installed: Path, tmp_path: Path) -> None:
    assert {file.name for file in (installed / "bin").iterdir()} == SCRIPTS.keys()
    run = [str(installed / "bin" / "nca-sweep"), "texture=roundleaf", "features=random_filters"]
    variables = {"PYTHONPATH": str(installed)}
    done = run_python(*run, folder=tmp_path, environment=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("study     roundleaf-srnca-random_filters")
    done = run_python(str(installed / "bin" / "nca-render"), "run=x", folder=tmp_path, environment=variables)
    assert (done.returncode, "not a path" in done.stderr) == (2, True)


def test_an_installed_copy_plans_a_study(installed: Path, tmp_path: Path) -> None:
    done = run_module(
        "nca.sweep",
        "texture=roundleaf",
        "features=random_filters",
        folder=tmp_path,
        environment={"PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    assert "study     roundleaf-srnca-random_filters" in done.stdout
    assert "search    model.channels = choice(6, 9, 12, 15)" in done.stdout
    assert not listing(tmp_path)


def test_an_installed_copy_sweeps(installed: Path, tmp_path: Path) -> None:
    overrides = ["texture=roundleaf", "features=random_filters", "train.size=16", "train.steps=2"]
    overrides += [
        "sweep.n_trials=1",
        "executor.workers=1",
        "tracking=none",
        "outputs.robustness=false",
        "runs_dir=records",
    ]
    done = run_module(
        "nca.sweep", "-m", *overrides, folder=tmp_path, environment={"PYTHONPATH": str(installed)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study roundleaf-srnca-random_filters: 1 complete" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
