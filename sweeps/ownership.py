"""Which process runs a trial, and whether it still lives."""

from __future__ import annotations

import os
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial

__all__ = ["OWNER", "describe_owner", "fail_stale", "is_abandoned"]

ORPHAN_S = 5  # age at which a trial that still has no owner has lost it
OWNER = "owner"


def describe_owner() -> dict[str, Any]:
    """Return what tells whether this process still lives: host, boot and process id."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": os.uname().nodename,
        "boot": boot.read_text().strip() if boot.exists() else "",
        "pid": os.getpid(),
    }


def fail_stale(study: Study) -> None:
    """Fail trials whose heartbeat stopped; the storage's callback is told of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)


def is_abandoned(trial: FrozenTrial) -> bool:
    """Say whether the coordinator that asked for a trial is known to be gone; another host's never is.

    Not for a trial that this process runs: another that bears its process id is of an earlier boot or
    container. A trial without an owner lost its coordinator in the moment between the two writes.
    """
    owner, ours = trial.user_attrs.get(OWNER), describe_owner()
    if owner is None:
        age = datetime.now() - (trial.datetime_start or datetime.now())
        return age > timedelta(seconds=ORPHAN_S)
    if owner["host"] != ours["host"]:
        return False
    return owner["boot"] != ours["boot"] or owner["pid"] == ours["pid"] or not _lives(owner["pid"])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
