"""Servers and a real browser: waiting for what they show, and pictures of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

TIMEOUT_S = 90.0  # a server imports for long where the cores are busy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(port: int, server: subprocess.Popen[str]) -> None:
    until = time.monotonic() + TIMEOUT_S
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

    wait = WebDriverWait(browser, TIMEOUT_S, ignored_exceptions=[StaleElementReferenceException])
    wait.until(shown, f"the page never showed {texts}")


def wait_for_image(browser: Chrome, width: int) -> None:
    """Wait for a picture that has really been loaded, of at least a width."""
    script = "return [...document.images].some(i => i.complete && i.naturalWidth >= arguments[0])"
    wait = WebDriverWait(browser, TIMEOUT_S)
    wait.until(lambda _: browser.execute_script(script, width), "the page never showed a picture")


def close_assistant(browser: Chrome) -> None:
    """Close the panel that takes a quarter of MLflow's page, once for this browser."""
    close = (By.CSS_SELECTOR, "[data-component-id='mlflow.assistant.chat_panel.close']")
    WebDriverWait(browser, TIMEOUT_S).until(expected_conditions.element_to_be_clickable(close)).click()


def save_screenshot(browser: Chrome, name: str, tmp_path: Path) -> None:
    picture = tmp_path / f"{name}.png"
    assert browser.save_screenshot(str(picture))
    if folder := os.environ.get("NCA_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)
