"""Both web pages open at the study's runs in a real browser and show its pictures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.integration.conftest import Finished

PATIENCE_S = 90.0  # a server imports for long where the cores are busy
Serve = Callable[[str], str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serve(finished: Finished, tmp_path: Path) -> Iterator[Serve]:
    """Start a server on a copy of the finished study, and return the address it prints."""
    runs = tmp_path / "runs"
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> str:
        shutil.copytree(finished.runs, runs)
        port = free_port()
        command = [sys.executable, "-m", "nca.serve", kind, f"runs_dir={runs}", f"port={port}"]
        server = subprocess.Popen(
            command,
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


def wait_until_listening(port: int, server: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert server.poll() is None, "the server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the server does not listen")


def wait_for_text(browser: Chrome, *texts: str) -> None:
    def shown(_: Any) -> bool:
        page = str(browser.find_element(By.TAG_NAME, "body").text)
        return all(text in page for text in texts)

    wait = WebDriverWait(browser, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException])
    wait.until(shown, f"the page never showed {texts}")


def wait_for_image(browser: Chrome, width: int) -> None:
    """Wait for a picture that has really been loaded, of at least a width."""
    script = "return [...document.images].some(i => i.complete && i.naturalWidth >= arguments[0])"
    wait = WebDriverWait(browser, PATIENCE_S)
    wait.until(lambda _: browser.execute_script(script, width), "the page never showed a picture")


def save_screenshot(browser: Chrome, name: str, tmp_path: Path) -> None:
    picture = tmp_path / f"{name}.png"
    assert browser.save_screenshot(str(picture))
    if folder := os.environ.get("NCA_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)


def test_mlflow_opens_at_the_studys_runs(
    serve: Serve, browser: Chrome, finished: Finished, tmp_path: Path
) -> None:
    browser.get(serve("ui"))
    wait_for_text(browser, finished.name, "4 matching runs")
    # The parent run stands alone at first; its button unfolds the trials.
    browser.find_element(By.CSS_SELECTOR, "[role=row] [col-id*='Run Name'] button").click()
    wait_for_text(browser, finished.name, "trial 0", "trial 1", "trial 2")
    save_screenshot(browser, "mlflow_runs", tmp_path)


def test_the_dashboard_shows_a_trials_output(
    serve: Serve, browser: Chrome, finished: Finished, tmp_path: Path
) -> None:
    address = serve("dashboard")
    browser.get(address)
    wait_for_text(browser, finished.name)
    save_screenshot(browser, "dashboard_studies", tmp_path)
    browser.get(f"{address}/studies/1/trials?numbers=1")
    wait_for_text(browser, "Trial 1", "final_loss", "mlflow_run_id")
    # Two 16 px rows of the batch and the gap between them, as they were uploaded.
    wait_for_image(browser, width=34)
    browser.execute_script(
        "[...document.images].find(i => i.naturalWidth >= 34).scrollIntoView({block: 'center'})"
    )
    save_screenshot(browser, "dashboard_trial", tmp_path)
