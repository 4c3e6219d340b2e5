"""Measures the frame rate of viewer.html: `python -m benchmarks.viewer`.

Set 5, and the rules distill and munca with 12 channels, at 128 and 512 px, one CA step per frame, in headless
Chromium, with WebGL2 in software and with plain JavaScript. Prints a table and writes viewer.json. No GPU was
measured.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from benchmarks.cases import CPU, DISTILL, MUNCA, SET_5, make_model
from nca.automaton.seeding import Streams
from nca.outputs.viewer import make_viewer

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATHS = {
    "WebGL2 in software": ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "JavaScript": ("--disable-gpu", "--disable-3d-apis"),
}
SIZES = (128, 512)
SECONDS = 8.0
RESULTS = Path(__file__).with_name("viewer.json")
# Shows every step until the time is over and reads each frame, so that none is left in a queue.
MEASURE = """
const until = performance.now() + 1000 * arguments[0], begun = performance.now();
let frames = 0;
while (performance.now() < until) { nca.advance(1); nca.show(); nca.finish(); frames++; }
return (1000 * frames) / (performance.now() - begun);
"""


def measure(page: Path, flags: tuple[str, ...]) -> float:
    """Return a page's frames per second in a new browser."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        browser.get(page.as_uri())
        browser.execute_script("nca.pause()")
        rate = float(browser.execute_script(MEASURE, SECONDS))
        browser.quit()
    return rate


def main() -> None:
    """Measure, print, and write viewer.json."""
    table = Table(
        "renderer", *(f"{case.name}, {size} px" for case in (SET_5, DISTILL, MUNCA) for size in SIZES)
    )
    results: dict[str, dict[str, float]] = {}
    picture = np.zeros((128, 128, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for path, flags in PATHS.items():
            results[path] = {}
            for case in (SET_5, DISTILL, MUNCA):
                for size in SIZES:
                    page = Path(folder) / "viewer.html"
                    pictures = {"target": picture, "output": picture}
                    page.write_text(
                        make_viewer(make_model(case, Streams(0, CPU)), size, pictures, {}, "x"),
                        encoding="utf-8",
                    )
                    results[path][f"{case.name}, {size} px"] = measure(page, flags)
            table.add_row(path, *(f"{rate:.3g}" for rate in results[path].values()))
    Console(width=120).print(table)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
