"""Every relative link of the documents leads to a file, and every path of a module that they name exists."""

import re
from pathlib import Path

import pytest
import yaml

import nca

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "mlruns" / "README.md"])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
MODULE = re.compile(r"(?<![\w./-])(?:nca|sweeps|analysis|tools|benchmarks|tests)/[\w/]+\.(?:py|json|html)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    links = LINK.findall(document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_modules_exist(document: Path) -> None:
    named = MODULE.findall(document.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_citation_has_what_the_format_requires_and_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == nca.__version__
    assert all(each["title"] and each["authors"] for each in citation["references"])
