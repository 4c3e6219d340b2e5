"""A study is read as a table with one row per trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.runs import load, read_study
from sweeps import SweepError
from tests.analysis.builders import STUDY, make_study


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


def test_loading_needs_the_name_alone(tmp_path: Path) -> None:
    make_study(tmp_path, 3)
    assert len(load(STUDY, runs_dir=tmp_path)) == 3
    with pytest.raises(SweepError, match="study 'other': no such study; there are: leaf"):
        load("other", runs_dir=tmp_path)
