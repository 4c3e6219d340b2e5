"""Whatever a title or the data of a page hold stays where it belongs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nca.outputs.html_page import fill_template

TEMPLATE = "<title>__TITLE__</title><h1>__TITLE__</h1><script>__DATA__</script><p>end</p>"
TEXTS = [
    "__DATA__",
    "__TITLE__",
    "</script><b>",
    "</title><b>",
    "<!--<script>",
    r"\1 \g<0> \u003c",
    "лист & 'leaf'",
]


class _Reader(HTMLParser):
    """The texts of a page by element."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[str, str]] = []
        self._element = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._element = tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._element, data))


@pytest.mark.parametrize("text", TEXTS)
def test_title_and_data_are_what_was_given(text: str, tmp_path: Path) -> None:
    (tmp_path / "template.html").write_text(TEMPLATE)
    data = {text: [text, 1.5]}
    reader = _Reader()
    reader.feed(fill_template(tmp_path / "template.html", text, data))
    assert [element for element, _ in reader.texts] == ["title", "h1", "script", "p"]
    assert reader.texts[:2] == [("title", text), ("h1", text)]
    assert json.loads(reader.texts[2][1]) == data
    assert "<" not in reader.texts[2][1]  # <!--<script> would hide the end of the element
