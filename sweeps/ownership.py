"""The coordinator that runs a trial, and whether it is alive."""

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

from sweeps.trials import OWNER

ORPHAN_S = 5  # age from which a trial without an owner is abandoned


def describe_owner() -> dict[str, Any]:
    """Return the host, boot id and process id of this process."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": os.uname().nodename,
        "boot": boot.read_text().strip() if boot.exists() else "",
        "pid": os.getpid(),
    }


def fail_stale(study: Study) -> None:
    """Fail the trials whose heartbeat has stopped; the storage's callback is called for each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)


def is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether the trial's coordinator ran on this host and is dead.

    Trials of other hosts are judged by their heartbeat. Do not call it for a trial that this process runs:
    an owner with this process id is taken for a process of an earlier boot or container. A trial without an
    owner lost its coordinator between the two writes that create it.
    """
    owner, ours = trial.user_attrs.get(OWNER), describe_owner()
    if owner is None:
        age = datetime.now() - (trial.datetime_start or datetime.now())
        return age > timedelta(seconds=ORPHAN_S)
    if owner["host"] != ours["host"]:
        return False
    return owner["boot"] != ours["boot"] or owner["pid"] == ours["pid"] or not _is_alive(owner["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
