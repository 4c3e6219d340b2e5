"""Where a run came from: code, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["describe_run", "git_state"]

PACKAGES = ("torch", "torchvision", "hydra-core", "optuna", "mlflow")


def git_state(folder: Path) -> tuple[str, str]:
    """Return (commit, "true" or "false" for uncommitted changes), ("unknown", "unknown") outside git."""
    texts = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return "unknown", "unknown"
        texts.append(done.stdout.strip())
    return texts[0], str(bool(texts[1])).lower()


def describe_run(device: torch.device) -> dict[str, str]:
    """Return the provenance of a run on this machine as tags."""
    commit, dirty = git_state(Path(__file__).parent)
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
