"""Checks of a study in a process of their own, so that its coordinator never loads torch (0.5 GB)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from nca.config.schema import TrialConfig
from sweeps import SweepError
from sweeps.executors.forkserver import die_with_parent, hide_main

RESTART_TIMEOUT_S = 60.0  # of a call whose process is killed again and again

Call = Callable[..., Any]


@contextlib.contextmanager
def separate_process() -> Iterator[Call]:
    """Yield a function that calls another function in a process, which ends with the context.

    Where torch is loaded already, the function is called in this process.

    Raises:
        SweepError: If the process dies again and again.
    """
    if "torch" in sys.modules:
        yield lambda function, *arguments: function(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    pool: ProcessPoolExecutor | None = None

    def call(function: Call, *arguments: Any) -> Any:
        nonlocal pool
        until = time.monotonic() + RESTART_TIMEOUT_S
        while True:
            pool = pool or ProcessPoolExecutor(1, context, _begin)
            with contextlib.suppress(BrokenProcessPool):
                with hide_main():
                    result = pool.submit(function, *arguments)
                return result.result()
            pool.shutdown()
            pool = None
            if time.monotonic() > until:
                raise SweepError("the process that checks the config died, perhaps for lack of memory")

    try:
        yield call
    finally:
        if pool is not None:
            pool.shutdown()


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the coordinator reports it
    die_with_parent()
    coordinator = multiprocessing.parent_process()
    assert coordinator is not None
    if not coordinator.is_alive():
        os._exit(1)


def check_environment(config: TrialConfig, remote: bool) -> None:
    """Check a config before anything is created, see `preflight.check_environment`."""
    from nca.training import preflight

    preflight.check_environment(config, remote=remote)


def check_custom_parts(config: TrialConfig) -> None:
    """Try the own classes of a config, see `custom_parts.check_custom_parts`."""
    from nca.training import custom_parts

    custom_parts.check_custom_parts(config)


def check_inputs(config: TrialConfig) -> dict[str, str]:
    """Check the inputs of a config and return their hashes, see `preflight.check_inputs`."""
    from nca.training import preflight

    return preflight.check_inputs(config)
