"""Loads what all trials need; multiprocessing imports it in the server process that they are forked from."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys

from sweeps.application import load_application
from sweeps.executors.forkserver import OUTPUT, PRELOAD, die_with_parent
from sweeps.output import protect_output

os.setpgid(0, 0)  # Ctrl-C is for the coordinator
# Slurm and systemd signal every process of a job; trials die with this one and must save checkpoints first.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP))
die_with_parent()
try:
    output = os.open(os.environ[OUTPUT], os.O_WRONLY | os.O_APPEND)
except FileNotFoundError:  # the coordinator has ended
    os._exit(0)
protect_output()
for stream in (sys.stdout, sys.stderr):
    os.dup2(output, stream.fileno())
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8")  # as the logs of trials
with contextlib.suppress(Exception):  # the trials raise it again, and record it
    module, application = os.environ[PRELOAD].split()
    importlib.import_module(module).warm_up()
    load_application(application).warm_up()
gc.collect()
gc.freeze()  # so that trials share the memory of what is loaded
