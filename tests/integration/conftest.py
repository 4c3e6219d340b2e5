"""One finished study, really run, that the tests of a worker share and none of them changes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.integration.browsing import TIMEOUT_S, free_port, wait_until_listening
from tests.integration.commands import sweep
from tests.integration.records import Records, copy_records
from tests.templates import build_once

Serve = Callable[..., str]

STUDY = "roundleaf-srnca-random_filters"
COMMAND = ("train.steps=12", "sweep.n_trials=3", "outputs.robustness=true")


CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
BROWSER_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
]
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # on the CPU
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Args:
        runs: Its `runs_dir`.
        folder: Where the command was given.
        output: What the command printed.
    """

    runs: Path
    folder: Path
    output: str
    name: str = STUDY
    command: tuple[str, ...] = COMMAND


@pytest.fixture(scope="session")
def finished(shared: Path) -> Finished:
    runs, folder = shared / "finished" / "runs", shared / "finished" / "folder"
    output = shared / "finished" / "output.txt"

    def make(_: Path) -> None:
        folder.mkdir(parents=True)
        output.write_text(sweep(runs, *COMMAND, folder=folder, processes=True).stdout)

    build_once(shared / "finished", make)
    return Finished(runs, folder, output.read_text())


@pytest.fixture(scope="module")
def records(finished: Finished) -> Records:
    return Records(finished.runs, finished.name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory, which this process is in too."""
    empty = tmp_path / "folder"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.fixture
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chrome]:
    """Return a headless Chromium without WebGL; other flags by indirect parametrization."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        if os.environ.get("NCA_TESTS_MAY_SKIP") == "0":
            pytest.fail("chromium and chromium-driver are not installed")
        pytest.skip("chromium and chromium-driver are not installed")
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = getattr(request, "param", NO_WEBGL)
    for option in [*BROWSER_OPTIONS, *flags, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(option)
    started = Chrome(options=options, service=Service(executable_path=str(DRIVER)))
    started.set_script_timeout(TIMEOUT_S)
    yield started
    started.quit()


@pytest.fixture
def serve(finished: Finished, tmp_path: Path) -> Iterator[Serve]:
    """Start servers by module and argv on a copy of the finished study, or another; return addresses."""
    runs = tmp_path / "runs"
    started: list[subprocess.Popen[str]] = []

    def start(module: str, *argv: str, shown: Path | None = None) -> str:
        if not runs.exists():
            copy_records(finished.runs if shown is None else shown, runs)
        port = free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", module, *argv, f"runs_dir={runs}", f"port={port}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        started.append(server)
        assert server.stdout is not None
        found = re.search(rf"http://127\.0\.0\.1:{port}/\S*", server.stdout.readline())
        assert found is not None, "the first line names the address"
        wait_until_listening(port, server)
        return found[0]

    yield start
    for server in started:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.communicate()
