"""An exported table has every trial with its values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.export import main
from analysis.export_folder import read_exported, write_exported
from analysis.runs import load, read_study
from tests.analysis.builders import STUDY, make_study
from tests.analysis.mistakes import expect_refusal


@pytest.mark.parametrize(("suffix", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_every_trial_of_every_study_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, read: object
) -> None:
    make_study(tmp_path, 5)
    make_study(tmp_path, 3, name="petal", texture="orchid_petal")
    out = tmp_path / f"t.{suffix}"
    main(["study=leaf,petal", f"out={out}", f"runs_dir={tmp_path}", "tracking.uri=none"])
    assert capsys.readouterr().out.startswith(f"{out}: 8 trials, ")
    table = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
    assert table["study"].tolist() == ["leaf"] * 5 + ["petal"] * 3
    assert table["texture.name"].tolist() == ["roundleaf"] * 5 + ["orchid_petal"] * 3
    ours = load("leaf", runs_dir=tmp_path)
    for key in ("trial", "final_loss", "model.channels", "train.learning_rate"):
        assert table.loc[table["study"] == "leaf", key].tolist() == pytest.approx(
            ours[key].tolist(), nan_ok=True
        )
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


def test_a_folder_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 2)
    table = read_study(paths, STUDY)
    fixed = {**table.fixed, "texture.source": "file", "texture.path": "/home/ada/leaf.jpg"}
    write_exported([replace(table, fixed=fixed)], replace(paths, tracking=None), tmp_path / "out")
    (exported,) = read_exported(tmp_path / "out")
    assert (exported.fixed["texture.path"], exported.texture) == ("leaf.jpg", "leaf")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'study' is missing: give study=VALUE; see python -m analysis.export --help"),
        (["study=leaf", "out=x.xlsx"], "out=x.xlsx: must end with one of .csv, .parquet"),
        (["study=leaf", "out=/nowhere/x.csv"], "/nowhere is not a folder"),
        (["study=nothing"], "study 'nothing': no such study"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    make_study(tmp_path, 2)
    expect_refusal(main, [*argv, f"runs_dir={tmp_path}"], message, capsys)
