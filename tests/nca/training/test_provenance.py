"""Where a run came from."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from nca.training.provenance import PACKAGES, describe_run, git_state
from tests.builders import CPU


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, os.devnull)
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "first")
    return tmp_path


def git(folder: Path, *argv: str) -> str:
    run = subprocess.run(["git", "-C", folder, *argv], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_a_clean_checkout_has_its_commit(repository: Path) -> None:
    assert git_state(repository / "file") == (git(repository, "rev-parse", "HEAD"), "false")


def test_a_changed_file_is_dirty_and_a_new_one_is_not(repository: Path) -> None:
    (repository / "new").touch()
    assert git_state(repository / "file")[1] == "false"
    (repository / "file").write_text("two")
    assert git_state(repository / "file")[1] == "true"


def test_a_file_in_a_folder_below_counts_too(repository: Path) -> None:
    (repository / "below").mkdir()
    (repository / "below" / "code.py").touch()
    git(repository, "add", "below")
    assert git_state(repository / "below" / "code.py")[0] == git_state(repository / "file")[0] != "unknown"


@pytest.mark.parametrize("ignored", [True, False])
def test_a_package_installed_in_another_repository_is_not_of_its_commit(
    repository: Path, ignored: bool
) -> None:
    """As in the `.venv` of a project of the user's."""
    if ignored:
        (repository / ".git" / "info" / "exclude").write_text(".venv\n")
    package = repository / ".venv" / "lib"
    package.mkdir(parents=True)
    (package / "code.py").touch()
    assert git_state(package / "code.py") == ("unknown", "unknown")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to other users")
def test_a_repository_of_another_user_is_read_if_the_code_is_that_users_too(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    for path in (repository, repository / ".git", repository / "file"):
        os.chown(path, 54321, -1)
    assert git_state(repository / "file") == (commit, "false")
    os.chown(repository / "file", os.getuid(), -1)
    assert git_state(repository / "file") == ("unknown", "unknown")  # its settings may name programs


def test_outside_of_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "file").touch()
    assert git_state(tmp_path / "file") == ("unknown", "unknown")
    assert git_state(tmp_path / "missing" / "file") == ("unknown", "unknown")


def test_without_git_nothing_is_known(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(repository / "file") == ("unknown", "unknown")


def test_a_repository_without_commits_is_unknown(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").touch()
    git(tmp_path, "add", "file")
    assert git_state(tmp_path / "file") == ("unknown", "unknown")


def test_a_run_is_described_by_text_only() -> None:
    tags = describe_run(CPU)
    assert all(isinstance(value, str) and value for value in tags.values())
    assert tags["device"] == "cpu"
    assert tags["threads"] == str(torch.get_num_threads())
    assert {f"version.{package}": version(package) for package in PACKAGES}.items() <= tags.items()
    assert tags.keys() >= {"git_commit", "git_dirty", "device_name", "host", "python"}
