"""A real MLflow server on loopback with proxied artifacts, started, stopped and started again by tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.postgres import free_port

START_S = 120.0


@dataclass
class MlflowServer:
    """A server.

    Args:
        folder: Of its log and artifacts.
        store: SQLAlchemy address of what it keeps.
        argv: More of its command line.
        environment: More of its environment.
    """

    folder: Path
    store: str
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        where = ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "kept")]
        listen = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *where, *listen, *self.argv],
                stdout=log,
                stderr=log,
                env={**os.environ, **off, **self.environment},
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "server.txt").read_text()[-2000:]
            assert time.monotonic() < until, "the MLflow server did not start"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it with all of its processes, as a machine that goes down does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def run_mlflow_server(
    folder: Path, store: str, *argv: str, environment: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """Start a server; stop it at the end."""
    server = MlflowServer(folder, store, argv, environment or {})
    server.start()
    try:
        yield server
    finally:
        server.stop()
