"""The coordinator that runs a trial, and whether it is alive."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeps.trials import owner_of

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")
INITIAL_NAMESPACE = "pid:[4026531836]"  # of a machine, not of a container; fixed in Linux


def describe_owner() -> dict[str, Any]:
    """Return the id of this process, and what tells where and when process ids are its.

    Host names do not suffice: containers and machines may share one.
    """
    return {
        "host": os.uname().nodename,
        "machine": MACHINE_ID.read_text(encoding="utf-8").strip() if MACHINE_ID.exists() else "",
        "boot": BOOT_ID.read_text(encoding="utf-8").strip() if BOOT_ID.exists() else "",
        "pid_namespace": str(PID_NAMESPACE.readlink()) if PID_NAMESPACE.is_symlink() else "",
        "pid": os.getpid(),
    }


def fail_stale(study: Study) -> None:
    """Fail the trials whose heartbeat has stopped; the storage's callback is called for each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)


def is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether the trial's coordinator is known to be dead, or has not been recorded.

    Trials of other hosts and containers are judged by their heartbeat. Do not call it for a trial that this
    process runs: an owner with this process id is taken for an earlier one. A trial without an owner lost its
    coordinator between the two writes that create it, unless it is being created.
    """
    owner, ours = owner_of(trial), describe_owner()
    if owner is None:
        return True
    if any(owner.get(key) != ours[key] for key in ("host", "machine", "pid_namespace")):
        return False
    if owner["boot"] != ours["boot"]:
        return bool(ours["machine"]) and ours["pid_namespace"] == INITIAL_NAMESPACE
    return owner["pid"] == ours["pid"] or not _is_alive(owner["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
