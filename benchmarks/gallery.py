"""Measures the loading time of a gallery of 500 trials: `python -m benchmarks.gallery`.

In headless Chromium, from the request to the end of the load event, and to the first frame after it with all
cards laid out; medians of five. Prints them and writes gallery.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from analysis.gallery import make_gallery
from analysis.runs import read_study
from benchmarks.viewer import FLAGS
from tests.analysis.builders import STUDY, make_study

N_TRIALS, REPEATS = 500, 5
RESULTS = Path(__file__).with_name("gallery.json")
MEASURE = """
const done = arguments[0], entry = performance.getEntriesByType("navigation")[0];
requestAnimationFrame(() => requestAnimationFrame(() => done([
  entry.loadEventEnd, performance.now(), document.querySelectorAll(".card").length])));
"""


def measure(page: Path) -> tuple[float, float]:
    """Return the seconds to the end of the load event and to the next frame, in a new browser."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        browser.get(page.as_uri())
        loaded, shown, n_cards = browser.execute_async_script(MEASURE)
        browser.quit()
    assert n_cards == N_TRIALS
    return loaded / 1000, shown / 1000


def main() -> None:
    """Measure, print, and write gallery.json."""
    with tempfile.TemporaryDirectory() as folder:
        paths = make_study(Path(folder), N_TRIALS)
        page = Path(folder) / "gallery.html"
        page.write_text(make_gallery(read_study(paths, STUDY), paths, Path(folder)), encoding="utf-8")
        size_mb = page.stat().st_size / 1e6
        times = [measure(page) for _ in range(REPEATS)]
    loaded, shown = (statistics.median(each) for each in zip(*times, strict=True))
    print(
        f"{N_TRIALS} trials, {size_mb:.1f} MB: load event after {loaded:.2f} s, all shown after {shown:.2f} s"
    )
    RESULTS.write_text(
        json.dumps({"trials": N_TRIALS, "mb": size_mb, "load_s": loaded, "shown_s": shown}, indent=1) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
