"""The gallery holds every trial of a study, and mistakes are one line."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from analysis.gallery import main, make_gallery
from analysis.ratings.ratings import Ratings
from analysis.runs import read_study
from tests.analysis.builders import STUDY, make_study
from tests.analysis.mistakes import expect_refusal


def test_it_holds_every_trial_with_its_picture_and_the_target(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 5, n_failed=1)
    page = make_gallery(read_study(paths, STUDY), paths, tmp_path)
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["columns"][:3] == ["final_loss", "reason", "model.channels"]
    assert [trial["trial"] for trial in data["trials"]] == [0, 1, 2, 3, 4]
    assert [trial["picture"] is None for trial in data["trials"]] == [False] * 4 + [True]
    assert data["trials"][4]["final_loss"] is None
    picture = Image.open(io.BytesIO(base64.b64decode(data["trials"][0]["picture"].partition(",")[2])))
    assert picture.size == (128, 128)
    assert data["target"].startswith("data:image/webp;base64,")
    assert data["trials"][0]["links"]["MLflow run"].endswith("/runs/run0?workflowType=machine_learning")


def test_trials_are_sorted_by_the_distance_that_viewers_see_once_all_complete_ones_have_it(
    tmp_path: Path,
) -> None:
    paths = make_study(tmp_path, 5, n_failed=1)
    table = read_study(paths, STUDY)
    measured = table.trials.assign(distance_at_1000=[0.3, 0.1, 0.2, 0.4, None])
    older = measured.assign(distance_at_1000=[0.3, None, 0.2, 0.4, None])
    for trials, order in ((measured, "distance_at_1000"), (older, "final_loss")):
        page = make_gallery(replace(table, trials=trials), paths, tmp_path)
        data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
        assert (data["sort"], data["columns"][0]) == (order, order)


def test_a_study_may_have_the_name_of_a_place_in_the_template(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 2, name="__DATA__")
    page = make_gallery(read_study(paths, "__DATA__"), paths, tmp_path)
    assert "<h1>__DATA__</h1>" in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert len(data["trials"]) == 2


def test_a_picture_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 4)
    (tmp_path / "trials" / STUDY / "1" / "output.png").write_bytes(b"no picture")
    page = make_gallery(read_study(paths, STUDY), paths, tmp_path)
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [trial["picture"] is None for trial in data["trials"]] == [False, True, False, True]
    assert 1 not in Ratings(paths, STUDY).folders()


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path, 3)
    main([f"study={STUDY}", f"out={tmp_path / 'g.html'}", f"runs_dir={tmp_path}"])
    assert capsys.readouterr().out == f"{tmp_path / 'g.html'}\n"
    assert (tmp_path / "g.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'study' is missing: give study=VALUE; see python -m analysis.gallery --help"),
        (["study=leef"], "study 'leef': no such study; there are: leaf"),
        (["study=leaf", "out=/nowhere/x.html"], "/nowhere is not a folder"),
        (["studi=leaf"], "unknown key 'studi', did you mean 'study'?"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    make_study(tmp_path, 2)
    expect_refusal(main, [*argv, f"runs_dir={tmp_path}"], message, capsys)
