"""The report of a real study lies with it in MLflow, and suggestions for it run on top of its total."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.commands import run_module, sweep
from tests.integration.conftest import Finished
from tests.integration.records import Records, copy_records


@pytest.fixture
def runs(finished: Finished, tmp_path: Path) -> Path:
    return copy_records(finished.runs, tmp_path / "runs")


def test_the_report_lies_with_the_study(finished: Finished, runs: Path, tmp_path: Path) -> None:
    argv = (f"study={finished.name}", f"runs_dir={runs}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("of nobody else's concern")
    done = run_module("analysis.report", *argv, "out=out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/report.html\n"
    records = Records(runs, finished.name)
    (parent,) = records.parents
    names = {each.path for each in records.client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/parameters.svg", "report/curves.csv"} <= names
    assert "report/mine.txt" not in names
    stored = runs / "artifacts" / finished.name / parent.info.run_id / "artifacts" / "report" / "report.html"
    assert stored.read_bytes() == (tmp_path / "out" / "report.html").read_bytes()
    # What only Optuna knows is reported too.
    (runs / "mlflow.db").unlink()
    assert run_module("analysis.report", *argv, "out=again", folder=tmp_path).returncode == 0


@pytest.mark.slow
def test_suggestions_run_on_top_of_the_total(finished: Finished, runs: Path, tmp_path: Path) -> None:
    argv = ("train.steps=12", "outputs.robustness=false", "sampler=random")
    sweep(runs, *argv, "sweep.n_trials=10", folder=tmp_path)
    asked = (f"study={finished.name}", "method=pca", "n=2", "enqueue=true", f"runs_dir={runs}")
    done = run_module("analysis.suggest", *asked, folder=tmp_path)
    assert "queued 2" in done.stdout, done.stderr
    sweep(runs, *argv, "sweep.n_trials=10", folder=tmp_path)
    trials = Records(runs, finished.name).study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    assert [trial.user_attrs.get("suggested_by") for trial in trials] == [None] * 10 + ["pca"] * 2
    done = run_module("analysis.report", *asked[:1], asked[-1], "out=out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "suggestions.png").exists()
    assert "pca: 2 configurations" in (tmp_path / "out" / "report.html").read_text()
