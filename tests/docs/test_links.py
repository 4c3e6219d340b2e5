"""Every relative link of the documents leads to a file, and every path of a module that they name exists."""

import re
from pathlib import Path

import pytest

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
