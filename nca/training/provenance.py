"""Provenance of a run: code, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "hydra-core", "optuna", "mlflow")


def git_state(file: Path) -> tuple[str, str]:
    """Return a file's commit, and "true" or "false" for uncommitted changes in its repository.

    Both are "unknown" unless git tracks the file: a package may be installed inside another repository.
    """
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        options = ["-C", str(file.parent), *_trust_owner(file)]
        _run_git(*options, "ls-files", "--error-unmatch", file.name)
        commit, dash, _ = _run_git(*options, *describe).partition("-")  # COMMIT or COMMIT-dirty
    except (OSError, subprocess.SubprocessError):
        return "unknown", "unknown"
    return commit, str(bool(dash)).lower()


def _trust_owner(file: Path) -> list[str]:
    """Return options for git to read a repository of another user, as in containers, who owns the file too.

    That user's code is running already. Git refuses such repositories, as their settings may name programs.
    """
    root = next((folder for folder in file.resolve().parents if (folder / ".git").exists()), None)
    if root is None or len({path.stat().st_uid for path in (file, root, root / ".git")}) > 1:
        return []
    return ["-c", f"safe.directory={root}"]


def _run_git(*argv: str) -> str:
    done = subprocess.run(["git", *argv], capture_output=True, encoding="utf-8", check=True, timeout=10)
    return done.stdout.strip()


def describe_run(device: torch.device) -> dict[str, str]:
    """Return the provenance of a run on this machine as tags."""
    commit, dirty = git_state(Path(__file__))
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    tags = {
        "git_commit": commit,
        "git_dirty": dirty,
        "device": str(device),
        "device_name": device_name or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "host": platform.node(),
        "python": platform.python_version(),
    }
    return tags | {f"version.{package}": version(package) for package in PACKAGES}
