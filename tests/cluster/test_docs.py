"""Every command of docs/cluster.md is run in its order, on one machine and at reduced size."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps.trials import final_trials, reason_of
from tests.cluster.conftest import skip_or_fail
from tests.cluster.postgres import PASSWORD, USER, Postgres, free_port
from tests.sweeps.launching import read_trials

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cluster.md").read_text()
BIN = Path(sys.executable).parent
TIMEOUT_S = 240
SMALL = "model=distill features=random_filters train.size=16 train.steps=6 device=cpu"
SMALL += " train.min_ca_steps=null train.max_ca_steps=12"
N_TRIALS = 3
PARENT = "mlflow.parentRunId"


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


class Machine:
    """Runs the lines as one person's shell would, with what they export and where they are at home."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres = folder, postgres
        self.ports = {"5432": postgres.port, "5000": free_port(), "6379": free_port()}
        self.environment = {k: v for k, v in os.environ.items() if k not in ("PGPASSWORD", "RAY_ADDRESS")}
        self.environment |= {"HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.environment |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, line: str) -> str:
        """Run a line and return what it says; a server goes on."""
        line = line.replace("HOST", "127.0.0.1").replace("'PASSWORD'", "'secret'")
        line = line.replace(":PASSWORD", ":secret").replace("STUDY", "leaf")
        line = line.replace("STORAGE", f"file://{self.folder}/storage")
        for usual, ours in self.ports.items():
            line = re.sub(rf"\b{usual}\b", str(ours), line)
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        if "mlflow server" in line:
            self.serve(line)
            return ""
        if "nca.serve" in line:
            return self.open_page(line)
        environment = self.environment
        line = re.sub(r"^psql ", f"{self.postgres.programs}/psql ", line)
        if line.startswith("sudo -u postgres "):
            line = f"{self.postgres.programs}/{line.removeprefix('sudo -u postgres ')}"
            line = line.replace("/psql ", "/psql -d postgres ")
            environment = {**environment, "PGUSER": USER, "PGPASSWORD": PASSWORD, "PGHOST": "127.0.0.1"}
            environment["PGPORT"] = str(self.postgres.port)
        if "nca.sweep" in line and "sweep.study" not in line:
            n_trials = N_TRIALS + ("ray://" in line)  # which goes on with the same study
            line += f" {SMALL} sweep.n_trials={n_trials} sweep.study=leaf outputs.robustness=false"
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def serve(self, line: str) -> None:
        with (self.folder / "server.txt").open("wb") as log:
            self.server = subprocess.Popen(
                f"exec env {line}", shell=True, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        wait_for(f"http://127.0.0.1:{self.ports['5000']}/health", self.server)

    def open_page(self, line: str) -> str:
        """Start a page's server, open the page, and end it; return what it printed."""
        argv = [*line.split(), f"port={free_port()}"]
        server = subprocess.Popen(
            argv, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        with server.stdout:
            output = server.stdout.readline()
            wait_for(output.split()[-1], server)
            server.terminate()
            server.wait(60)
        return output


def wait_for(address: str, server: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not answers(address):
        assert time.monotonic() < until
        assert server.poll() is None
        time.sleep(0.5)


def check_moved(files: str, server: str, ids: list[str]) -> None:
    """See that the server has what the files have of the first run, and the second run beside it."""
    before, after = (MlflowClient(uri).get_run(ids[0]) for uri in (files, server))
    assert after.data.to_dictionary() == before.data.to_dictionary()
    assert after.info.status == before.info.status == "FINISHED"
    client = MlflowClient(server)
    steps = [m.step for m in client.get_metric_history(ids[0], "loss")]
    assert steps == [m.step for m in MlflowClient(files).get_metric_history(ids[0], "loss")]
    for name in ("viewer.html", "output.png"):
        assert Path(client.download_artifacts(ids[0], name)).stat().st_size > 0
    assert client.get_run(ids[1]).data.tags[PARENT] == after.data.tags[PARENT]


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def machine(postgres: Postgres, tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "storage").mkdir()
    made = Machine(tmp_path, postgres)
    yield made
    subprocess.run([BIN / "ray", "stop", "--force"], capture_output=True, check=False)
    if made.server is not None:
        made.server.terminate()
        made.server.wait(60)


def test_from_nothing_to_a_sweep_on_two_nodes(machine: Machine) -> None:
    outputs = {}
    if shutil.which("pgloader") is None:
        skip_or_fail("pgloader (apt-get install pgloader)")
    old = f"python -m nca.sweep -m texture=alocasia {SMALL} outputs.robustness=false sweep.study=old"
    subprocess.run(
        f"{old} sweep.n_trials=1", shell=True, cwd=machine.folder, env=machine.environment, check=True
    )
    for line in commands():
        if not line.startswith(("make setup", "source ", "sudo apt-get ")):  # done already
            outputs[line] = machine.run(line)
    sweep = next(text for line, text in outputs.items() if "nca.sweep" in line)
    assert re.search(rf"study leaf: {N_TRIALS} trials, \d+ at once", sweep)
    listed = next(text for line, text in outputs.items() if "nca.studies list" in line)
    assert "leaf" in listed
    assert "old: 1 trials" in next(text for line, text in outputs.items() if "sweeps.copy" in line)
    assert "no records in" in next(text for line, text in outputs.items() if "nca.studies deliver" in line)
    os.environ["PGPASSWORD"] = "secret"
    try:
        address = f"postgresql+psycopg://nca@127.0.0.1:{machine.postgres.port}/sweeps"
        trials = read_trials(address, "leaf")
        assert [reason_of(trial) for trial in final_trials(trials)] == ["complete"] * (N_TRIALS + 1)
        # What was begun in files goes on in the servers: the same study, the same parent run, nothing lost.
        server = f"http://127.0.0.1:{machine.ports['5000']}"
        machine.run(f"{old} sweep.n_trials=2 sweep.storage={address} tracking.uri={server}")
        ids = [trial.user_attrs["mlflow_run_id"] for trial in read_trials(address, "old")]
        assert len(ids) == 2
        check_moved(f"sqlite:///{machine.folder}/mlruns/mlflow.db", server, ids)
    finally:
        os.environ["PGPASSWORD"] = PASSWORD
    files = [*machine.folder.rglob("*.yaml"), *machine.folder.rglob("*.json"), *machine.folder.rglob("*.txt")]
    assert not [file for file in files if "secret" in file.read_text(errors="replace")]
