"""A process that has loaded the application and forks another for each trial, so that one begins at once."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.application import load_application
from sweeps.assignment import LOG_FILE

__all__ = ["ForkServer", "wait_for_trial"]

PARENT_CHECK_S = 0.5
PR_SET_PDEATHSIG = 1
KILL_WAIT_S = 5.0
MAX_MESSAGE = 2**16  # bytes


class ForkServer:
    """The coordinator's end.

    Args:
        module: What runs a trial: `python -m MODULE APPLICATION PID SOCKET` calls `wait_for_trial`.
        application: Dotted path of what is loaded.
        environment: Of every trial, besides what `start` adds; what libraries read as they are loaded.
    """

    def __init__(self, module: str, application: str, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._is_ready = False
        self._pidfds: dict[int, int] = {}
        with theirs:
            words = [module, application, str(os.getpid()), str(theirs.fileno())]
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
                process_group=0,
            )

    def start(self, number: int, folder: Path, environment: Mapping[str, str], cores: Sequence[int]) -> None:
        """Start a trial on the given cores, all where none is given; its output goes to its folder."""
        start = {"folder": str(folder), "environment": dict(environment), "cores": list(cores)}
        self._tell({"start": number, **start})

    def stop(self) -> None:
        """Send SIGTERM to every trial."""
        self._tell({"signal": signal.SIGTERM})

    def wait(self, timeout_s: float) -> tuple[dict[int, int], bool]:
        """Wait until a trial ends.

        Returns:
            Wait statuses of ended trials by number, and whether the server lives: if it does not, no trial
            does.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        until = time.monotonic() + timeout_s
        ended: dict[int, int] = {}
        lives = True
        while lives and poll.poll(0 if ended else max(0.0, until - time.monotonic()) * 1000):
            lives = self._read(ended)
        return ended, lives

    def close(self) -> None:
        """Send SIGKILL to every trial and wait for its end; nothing can be started any more."""
        self.wait(0.0)
        if self._is_ready:  # else there is no trial yet
            self._tell({"signal": signal.SIGKILL})  # which ends the server too
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(KILL_WAIT_S)
        self._popen.kill()
        self._popen.wait()
        while self._read({}):
            pass
        for pidfd in self._pidfds.values():  # of trials that a server which was killed has left
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], KILL_WAIT_S)
            os.close(pidfd)
        self._pidfds.clear()
        self._socket.close()

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `wait` finds it dead
            self._socket.send(json.dumps(message).encode())

    def _read(self, ended: dict[int, int]) -> bool:
        """Take one message; return False if there is none any more."""
        message = _receive(self._socket)
        if message is None:
            return False
        self._is_ready = True
        if "started" in message:
            with contextlib.suppress(ProcessLookupError):
                self._pidfds[message["started"]] = os.pidfd_open(message["pid"])
        elif "ended" in message:
            if (pidfd := self._pidfds.pop(message["ended"], None)) is not None:
                os.close(pidfd)
            ended[message["ended"]] = message["status"]
        return True


def wait_for_trial(words: Sequence[str], load: Callable[[], None] = lambda: None) -> Path:
    """Load what trials need, then fork a process for each; return in that process, with the trial's folder.

    Args:
        words: The application's dotted path, the coordinator's process id, and the socket's descriptor.
        load: Loads what trials need besides the application. It takes seconds, and a process that was
            begun as its coordinator died would outlive it by them if it came before this call.

    Raises:
        SystemExit: In the server, if the coordinator is gone or says so.
    """
    application, coordinator_pid, descriptor = words
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    coordinator = socket.socket(fileno=int(descriptor))
    _die_with_parent()
    if os.getppid() != int(coordinator_pid):
        raise SystemExit(1)
    load()
    with contextlib.suppress(Exception):  # the trial meets it again, and records it
        load_application(application).warm_up()
    gc.collect()
    gc.freeze()  # so that trials share what is loaded
    server_pid = os.getpid()
    return _enter(_Server(coordinator).serve(), server_pid)


class _Server:
    """The server's end of the socket, and its trials by the descriptors that tell of their ends."""

    def __init__(self, coordinator: socket.socket) -> None:
        self._coordinator = coordinator
        self._trials: dict[int, tuple[int, int]] = {}  # number and process id
        self._poll = select.poll()
        self._poll.register(coordinator, select.POLLIN)
        self._say({"ready": True})

    def serve(self) -> Mapping[str, Any]:
        """Do as the coordinator says; return in a trial's new process, with what was said of it."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._trials:
                    self._reap(descriptor)
                elif (start := self._obey()) and self._fork(start["start"]) == 0:
                    return start

    def _obey(self) -> Mapping[str, Any] | None:
        """Take one message; return one that starts a trial.

        Raises:
            SystemExit: If the coordinator is gone, or has every trial killed.
        """
        message = _receive(self._coordinator)
        if message is None:
            raise SystemExit(0)
        if "start" in message:
            return message
        for _, pid in self._trials.values():
            os.kill(pid, message["signal"])
        if message["signal"] == signal.SIGKILL:
            for _, pid in self._trials.values():
                os.waitpid(pid, 0)
            raise SystemExit(0)
        return None

    def _fork(self, number: int) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._coordinator.close()
            for descriptor in self._trials:
                os.close(descriptor)
            return 0
        descriptor = os.pidfd_open(pid)
        self._trials[descriptor] = number, pid
        self._poll.register(descriptor, select.POLLIN)
        self._say({"started": number, "pid": pid})
        return pid

    def _reap(self, descriptor: int) -> None:
        number, pid = self._trials.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        self._say({"ended": number, "status": os.waitpid(pid, 0)[1]})

    def _say(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # reading finds it gone
            self._coordinator.send(json.dumps(message).encode())


def _enter(start: Mapping[str, Any], server_pid: int) -> Path:
    """Make this new process its trial's own: group, output, environment, cores; it dies with the server."""
    os.setpgid(0, 0)
    die_with(server_pid)
    folder = Path(start["folder"])
    with (folder / LOG_FILE).open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    os.environ.update(start["environment"])
    if start["cores"]:
        os.sched_setaffinity(0, start["cores"])
    return folder


def die_with(parent_pid: int) -> None:
    """End this process as soon as its parent is gone; Linux tells at once, a check covers the rest."""
    _die_with_parent()

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(end: socket.socket) -> Mapping[str, Any] | None:
    """Return the next message, None where the other end is gone."""
    try:
        text = end.recv(MAX_MESSAGE)
    except ConnectionResetError:
        return None
    message: Mapping[str, Any] | None = json.loads(text) if text else None
    return message
