"""This process's control groups, of version 1 or 2: killed processes, limits of CPU time and memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def count_oom_kills() -> int:
    """Return how many processes of this control group the system has killed for lack of memory.

    It is 0 where no control group counts them.
    """
    for folder in _folders("memory"):
        for counter in _read_lines(folder / "memory.events") + _read_lines(folder / "memory.oom_control"):
            name, _, number = counter.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0


def cpu_quota() -> float:
    """Return how many CPUs' time the processes of this control group may use; infinite without a limit."""
    limits = [math.inf]
    for folder in _folders("cpu"):
        quota_us, period_us, *_ = [
            *" ".join(_read_lines(folder / "cpu.max")).split(),
            *_read_lines(folder / "cpu.cfs_quota_us"),
            *_read_lines(folder / "cpu.cfs_period_us"),
            *("max", "max"),
        ]
        if quota_us.isdecimal():  # else max, or -1 in version 1
            limits.append(int(quota_us) / int(period_us))
    return min(limits)


def memory_limit() -> int:
    """Return how many bytes of memory the processes of this control group may use; huge without a limit."""
    limits = [
        int(line)
        for folder in _folders("memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        for line in _read_lines(folder / name)
        if line.isdecimal()  # else max
    ]
    return min(limits, default=sys.maxsize)


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups that have a controller, and of those above them.

    In a container the path is often that of the host, and only the uppermost folder is visible.
    """
    for line in _read_lines(OWN_CGROUP):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        folder = root / path.lstrip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
