"""The documents as a site: built without a network, every link leads to a page, and nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.docs_site import PAGES, ROOT, move_links


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "mkdocs is strict: a broken link is an error"
    return folder


def test_every_document_is_a_page_with_a_place_in_the_contents(site: Path) -> None:
    names = {path.name for path in ROOT.glob("docs/*.md")} | set(PAGES.values())
    start = (site / "index.html").read_text()
    contents = set(re.findall(r'href="(\w+)\.html" class="md-nav__link"', start)) | {"index"}
    assert contents == {name.removesuffix(".md") for name in names}
    assert {path.stem for path in site.glob("*.html")} >= contents


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text())
        assert fetched == [], page.name


def test_links_to_files_that_are_no_page_become_their_names() -> None:
    text = "[a](../README.md) [b](../tests/x.py) [c](sweeps.md#limits) [d](https://e.org) ![p](images/p.png)"
    moved = move_links(text, "docs")
    assert moved == "[a](index.md) b [c](sweeps.md#limits) [d](https://e.org) ![p](images/p.png)"
    assert (
        move_links("[a](docs/tour.md) ![p](docs/images/p.png) [l](LICENSE)", "")
        == "[a](tour.md) ![p](images/p.png) l"
    )
