"""A hook of MkDocs: the site begins with README.md and has the other documents of the top folder."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")},
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"(!\[[^\]]*\])\((?!https?:)([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of the top folder."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=move_links(text, "")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page of docs/ with links that lead to a page of the site."""
    return markdown if page.file.src_uri in PAGES.values() else move_links(markdown, "docs")


def move_links(markdown: str, folder: str) -> str:
    """Return a text with the links that it has on the site; a file that is no page of it becomes its name.

    Args:
        markdown: The text.
        folder: Where it is, relative to the top folder.
    """

    def to_docs(target: str) -> str:
        return posixpath.relpath(posixpath.normpath(posixpath.join(folder, target)), "docs")

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], to_docs(found[2]), found[3] or ""
        target = PAGES.get(target.removeprefix("../"), target)
        return text if target.startswith("../") else f"[{text}]({target}{anchor})"

    moved = LINK.sub(link, markdown)
    return PICTURE.sub(lambda found: f"{found[1]}({to_docs(found[2])})", moved)
