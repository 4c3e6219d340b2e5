"""Pages of a single HTML file: their data is JSON in a script element, their pictures are data URLs."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def fill_template(template: Path, title: str, data: Mapping[str, Any]) -> str:
    """Return a page from its template, in which __TITLE__ and __DATA__ are the places of both.

    They are filled in one pass, as the title and the data may hold such a word too. In the data every < is
    escaped: after <!-- and <script, a </script> would no longer end the element.
    """
    values = {"__TITLE__": html.escape(title), "__DATA__": json.dumps(data).replace("<", "\\u003c")}
    text = template.read_text(encoding="utf-8")
    return re.sub("|".join(values), lambda found: values[found[0]], text)


def data_url(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """Return a picture as a data URL, without its file name or other metadata; options are Pillow's."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
