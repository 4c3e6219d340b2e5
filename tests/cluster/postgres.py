"""A real PostgreSQL server on loopback, in a temporary cluster, with a password."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "sweeper"
PASSWORD = "correct horse"
DATABASE = "tests"
UNPRIVILEGED = "postgres"  # who runs it where we are root, whom its initdb refuses
SETTINGS = "listen_addresses='127.0.0.1'\nfsync=off\nmax_connections=200\nshared_buffers=64MB\n"
STOP_S = 30


def find_programs() -> Path | None:
    """Return where Debian has PostgreSQL's own programs; None where it has not."""
    debian = (f for f in Path("/usr/lib/postgresql").glob("*/bin") if (f / "initdb").exists())
    return max(debian, key=lambda folder: int(folder.parent.name), default=None)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Postgres:
    """A server.

    Args:
        folder: Its cluster.
        port: Of loopback.
        programs: Folder of its programs.
    """

    folder: Path
    port: int
    programs: Path

    @property
    def address(self) -> str:
        """SQLAlchemy address of the database, without the password."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> None:
        self._control("start", "--wait", "--log", str(self.folder / "log.txt"))

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "--mode", mode, "--timeout", str(STOP_S))

    def create(self, database: str) -> str:
        """Create another database and return its address."""
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        argv = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database]
        subprocess.run([self.programs / "createdb", *argv], env=environment, check=True)
        return self.address.removesuffix(DATABASE) + database

    def _control(self, *argv: str) -> None:
        command: list[str | Path] = [self.programs / "pg_ctl", "--pgdata", self.folder / "data", *argv]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **unprivileged())


def unprivileged() -> dict[str, Any]:
    """Return what makes a program run as somebody else where we are root."""
    return {"user": UNPRIVILEGED, "cwd": "/"} if getpass.getuser() == "root" or os.geteuid() == 0 else {}


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Start a server with an empty database; stop it and delete its cluster at the end."""
    programs = find_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL's initdb: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if unprivileged():
            shutil.chown(folder, UNPRIVILEGED)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command: list[str | Path] = [programs / "initdb", "--pgdata", folder / "data"]
        command += ["--auth=scram-sha-256", "--no-sync", "--encoding=UTF8"]
        command += [f"--username={USER}", f"--pwfile={secret}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **unprivileged())
        server = Postgres(folder, free_port(), programs)
        settings = f"{SETTINGS}port={server.port}\nunix_socket_directories='{folder}'\n"
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(settings)
        server.start()
        try:
            server.create(DATABASE)
            yield server
        finally:
            server.stop("immediate")
