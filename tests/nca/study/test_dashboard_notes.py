"""The notes of the Optuna dashboard show names, errors and commands as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from nca.config.schema import ImageTexture
from nca.records.paths import RecordPaths
from nca.study.dashboard_notes import make_notes
from sweeps.trials import TrialSummary
from tests.builders import trial_config

TEXTS = ["leaf_1", "__DATA__", "_a_ *b* [c](d)", "<img src=x>&amp;", "`c` ``d`` $x$ ~~e~~ | \\"]


def shown(note: str) -> list[str]:
    """Return the texts of a note as Markdown shows it, without those of HTML elements."""
    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(note)
    inner = [each for token in tokens for each in token.children or []]
    assert not [each for each in inner if each.type in ("html_inline", "em_open", "s_open")]
    return [each.content for each in inner if each.content]


@pytest.mark.parametrize("text", TEXTS)
def test_names_and_errors_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    paths = RecordPaths.in_folder(tmp_path)
    trial = TrialSummary(0, 0, {"features.weights": text}, "crashed", [], {"error": text}, {}, None, None)
    config = trial_config(texture=ImageTexture(name="image", source="file", path=f"/x/{text}.png"))
    notes = make_notes(text, config, paths, {}, [trial])
    assert not any("later attempt" in part for part in shown(notes.trials[0]))
    retried = replace(trial, number=3)
    assert "A later attempt at trial 0, as it is called everywhere else" in shown(
        make_notes(text, config, paths, {}, [retried]).trials[3]
    )
    assert text in shown(notes.study)
    assert paths.command("analysis.gallery", f"study={text}") in shown(notes.study)
    assert {f": {text}", text, str(tmp_path / "trials" / text / "0")} <= set(shown(notes.trials[0]))
