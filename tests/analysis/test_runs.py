"""A study is read as a table with one row per trial."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial

from analysis.ratings.ratings import Rating, Ratings
from analysis.runs import StudyTable, join_studies, join_with_provenance, load, mark_textures, read_study
from nca.records.paths import RecordPaths
from sweeps import SweepError
from sweeps.trials import FIRST_ATTEMPT, RETRY_OF
from tests.analysis.builders import STUDY, make_study


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return read_study(make_study(tmp_path_factory.mktemp("runs"), 3), STUDY)


def test_a_study_is_a_table_of_parameters_and_results(tmp_path: Path) -> None:
    table = read_study(make_study(tmp_path, 6, n_failed=2), STUDY)
    assert (table.name, table.objectives) == (STUDY, ["final_loss"])
    assert table.params == ["model.channels", "model.update_rate", "train.learning_rate"]
    trials = table.trials
    assert list(trials["trial"]) == list(range(6))
    assert list(trials["reason"]) == ["complete"] * 4 + ["diverged"] * 2
    assert trials["final_loss"].notna().tolist() == [True] * 4 + [False] * 2
    assert set(trials["model.channels"]) <= {6, 9, 12, 15}
    assert Path(trials["folder"][3]) == tmp_path / "trials" / STUDY / "3"


def file_texture(path: str, hash_: str, size: int = 128) -> dict[str, object]:
    return {
        "texture.name": "image",
        "texture.source": "file",
        "texture.path": path,
        "texture.hash": hash_,
        "train.size": size,
    }


DRAWING = {"texture.name": "roundleaf", "texture.source": "drawn", "texture.hash": "1" * 64}
SPOTS = {"texture.name": "gray_scott", "texture.source": "gray_scott", "texture.preset": "spots"}


@pytest.mark.parametrize(
    ("fixed", "textures"),
    [
        ([file_texture("/a/leaf.jpg", "1" * 64), file_texture("/a/bark.png", "2" * 64)], ["leaf", "bark"]),
        (
            [file_texture("/a/leaf.jpg", "1" * 64), file_texture("/b/leaf.jpg", "2" * 64)],
            ["leaf 111111", "leaf 222222"],
        ),
        ([file_texture("/a/leaf.jpg", "1" * 64), file_texture("/b/leaf.jpg", "1" * 64)], ["leaf", "leaf"]),
        ([file_texture("/a/leaf.jpg", "1" * 64), file_texture("/a/leaf.jpg", "2" * 64, 64)], ["leaf"] * 2),
        ([DRAWING, DRAWING | {"texture.source": "photo"}], ["roundleaf", "roundleaf photo"]),
        ([DRAWING, {"texture.name": "roundleaf"}], ["roundleaf", "roundleaf"]),  # of before there were hashes
        (
            [SPOTS | {"texture.hash": "3" * 64}, SPOTS | {"texture.hash": "4" * 64, "texture.seed": 1}],
            ["gray_scott spots 333333", "gray_scott spots 444444"],
        ),
    ],
)
def test_different_textures_have_different_names(
    table: StudyTable, fixed: list[dict[str, object]], textures: list[str]
) -> None:
    tables = [replace(table, name=f"study {index}", fixed=each) for index, each in enumerate(fixed)]
    marked = mark_textures(tables)
    assert [each.texture for each in marked] == textures
    assert sorted(set(join_studies(marked)["texture"])) == sorted(set(textures))


@pytest.mark.parametrize("path", ["/a/bark (1).png", None])
def test_the_path_of_an_image_is_that_of_a_trial(tmp_path: Path, path: str | None) -> None:
    """The study itself holds the hash of the image and not its path."""
    paths = make_study(tmp_path, 3)
    assert "texture.path" not in read_study(paths, STUDY).fixed  # the folders are not there, or are older
    texture = {"name": "image", "source": "file"} | ({} if path is None else {"path": path})
    assignment = json.dumps({"config": {"texture": texture}})
    (tmp_path / "trials" / STUDY / "1" / "assignment.json").write_text(assignment)
    table = read_study(paths, STUDY)
    assert table.fixed.get("texture.path") == path
    table = replace(table, fixed={**table.fixed, "texture.source": "file"})
    assert table.texture == ("bark (1)" if path else "roundleaf")
    assert "texture.path" not in join_with_provenance([table], paths)


def test_a_pruned_trial_has_no_final_loss(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3)
    study = optuna.load_study(study_name=STUDY, storage=paths.storage)
    reports, known = {8: 0.5}, {"reason": "pruned", "last_loss_median": 0.5}
    study.add_trial(
        create_trial(state=TrialState.PRUNED, value=0.5, intermediate_values=reports, user_attrs=known)
    )
    last = read_study(paths, STUDY).trials.iloc[-1]
    assert (last["trial"], last["reason"], last["last_loss_median"]) == (3, "pruned", 0.5)
    assert pd.isna(last["final_loss"])


def retry_last(paths: RecordPaths) -> None:
    """Add to a study a second attempt at trial 2, with the number 3."""
    study = optuna.load_study(study_name=STUDY, storage=paths.storage)
    known = {"reason": "complete", FIRST_ATTEMPT: 2, RETRY_OF: 2}
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=known))


def test_a_retried_trial_has_the_number_of_its_first_attempt(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3)
    retry_last(paths)
    table = read_study(paths, STUDY)
    assert table.trials["trial"].tolist() == [0, 1, 2]
    assert table.trials["final_loss"][2] == 0.5
    assert set(table.curves["trial"]) == {0, 1, 2}


def test_ratings_of_an_attempt_are_those_of_its_trial(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3)
    retry_last(paths)
    ratings = Ratings(paths, STUDY)
    ratings.add(Rating(3, "eve", 0, 2.0, "2026-01-01"))  # as earlier versions stored it
    assert read_study(paths, STUDY).trials["rating"].tolist()[2] == 2.0
    ratings.add(Rating(2, "eve", 0, 4.0, "2026-01-02"))
    (rating,) = ratings.all()
    assert (rating.trial, rating.rating) == (2, 4.0)
    ratings.remove(rating)
    assert ratings.all() == []


def test_a_loaded_study_has_a_column_for_every_parameter_searched_or_fixed(tmp_path: Path) -> None:
    make_study(tmp_path, 3)
    best = load(STUDY, runs_dir=tmp_path).nsmallest(2, "final_loss")
    columns = ["trial", "final_loss", "model.channels", "train.size", "model.name"]
    assert best[columns].iloc[0, 3:].tolist() == [128, "srnca"]


def test_loading_needs_the_name_alone(tmp_path: Path) -> None:
    make_study(tmp_path, 3)
    assert len(load(STUDY, runs_dir=tmp_path)) == 3
    with pytest.raises(SweepError, match="study 'other': no such study; there are: leaf"):
        load("other", runs_dir=tmp_path)
