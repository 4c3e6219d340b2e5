"""Paths of records: their command-line overrides give them back, and files of runs are found."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.config.compose import compose_plain
from nca.records.paths import RecordPaths, disk_usage, is_study_name, read_record_paths
from nca.serve import describe_pages
from nca.study.plan import make_plans
from nca.tracking.client import check_address
from sweeps import SweepError
from sweeps.storage.optuna_storage import open_storage
from tests.templates import make_mlflow_database

SERVERS = {"sweep.storage": "postgresql+psycopg://nca@host/sweeps", "tracking.uri": "http://host:5000/"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"runs_dir": "other runs"},
        SERVERS,
        {"runs_dir": "runs", "tracking.uri": "none"},
        {"runs_dir": "runs", "sweep.storage": SERVERS["sweep.storage"]},
    ],
)
def test_overrides_give_the_same_paths(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = read_record_paths(options)
    overrides = paths.cli_overrides()
    assert read_record_paths(dict(each.split("=", 1) for each in overrides)) == paths
    assert (overrides == []) == (options == {})
    assert all(each.startswith("runs_dir=") for each in overrides[:1])
    command = paths.command("nca.render", "run=1")
    assert shlex.split(command) == ["python", "-m", "nca.render", "run=1", *overrides]


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a?b=c/runs"])
def test_a_folder_that_no_sqlite_address_can_hold_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = re.escape(f"runs_dir={tmp_path / name}: must be a folder without ? or % in its path")
    quoted = f"runs_dir='{tmp_path / name}'"
    for read in (
        lambda: read_record_paths({"runs_dir": name}),
        lambda: compose_plain("train", ["texture=roundleaf", quoted]),
        lambda: make_plans(["texture=roundleaf", quoted]),
    ):
        with pytest.raises(ConfigError, match=message):
            read()
    address = f"sqlite:///{tmp_path / name}.db"
    with pytest.raises(SweepError, match=r"cannot be opened \(an SQLite address cannot hold \? or %"):
        open_storage(address)
    with pytest.raises(ConfigError, match=r"^tracking.uri=.*: an SQLite address cannot hold \? or %"):
        check_address(address)
    assert list(tmp_path.iterdir()) == []


def test_the_current_folder_is_no_folder_of_records_by_mistake() -> None:
    with pytest.raises(ConfigError, match=r"^runs_dir=: must be a folder"):
        read_record_paths({"runs_dir": ""})


def test_databases_are_in_a_folder_with_any_other_character(tmp_path: Path) -> None:
    runs = tmp_path / "a #;&=[x], лист"
    make_mlflow_database(runs)
    paths = read_record_paths({"runs_dir": str(runs)})
    open_storage(paths.storage)
    store = paths.open_tracking()
    assert store is not None
    experiment = store.experiments.open("leaf", runs / "artifacts" / "leaf")
    store.tracker(store.create_run(experiment, "trial 0")).log_text("text", "note.txt")
    assert f"/experiments/{experiment}/runs" in next(
        describe_pages(runs / "mlflow.db", RecordPaths.in_folder(runs))
    )
    assert list(tmp_path.iterdir()) == [runs]
    assert {file.name for file in runs.rglob("*") if file.suffix in {".db", ".txt"}} == {
        "mlflow.db",
        "optuna.db",
        "note.txt",
    }


@pytest.mark.parametrize(
    ("tracking", "base"), [(None, "http://127.0.0.1:5000"), (SERVERS["tracking.uri"], "http://host:5000")]
)
def test_a_run_and_its_artifacts_have_urls(tracking: str | None, base: str) -> None:
    paths = RecordPaths(Path("runs"), "sqlite:///optuna.db", tracking)
    end = "?workflowType=machine_learning"
    assert paths.mlflow_url("7") == f"{base}/#/experiments/7/runs{end}"
    assert paths.mlflow_url("7", "ab") == f"{base}/#/experiments/7/runs/ab{end}"
    assert paths.mlflow_url("7", "ab", "v.html") == f"{base}/#/experiments/7/runs/ab/artifacts/v.html{end}"


def test_a_file_of_a_run_is_found_by_its_folder_or_a_file_beside(tmp_path: Path) -> None:
    paths = RecordPaths.in_folder(tmp_path / "runs")
    (tmp_path / "artifacts").mkdir()
    config, model = tmp_path / "config.yaml", tmp_path / "artifacts" / "model.safetensors"
    config.touch()
    model.touch()
    assert paths.fetch(str(tmp_path), "config.yaml") == paths.fetch(str(config), "config.yaml") == config
    assert paths.fetch(str(tmp_path), "model.safetensors") == model
    copy = tmp_path / "artifacts" / "best.safetensors"
    copy.touch()
    assert paths.fetch(str(copy), "model.safetensors") == copy  # not the one beside
    assert paths.fetch(str(config), "model.safetensors") == model
    with pytest.raises(ConfigError, match=r"^run=.*: has no viewer\.html$"):
        paths.fetch(str(tmp_path), "viewer.html")
    with pytest.raises(ConfigError, match=r"^run=ab: not a path, and not a run in sqlite:.*mlflow\.db;"):
        paths.fetch("ab", "viewer.html")
    assert paths.run_tags("ab") == paths.run_tags(str(tmp_path)) == {}


def test_a_target_is_found_in_any_folder_of_a_study(tmp_path: Path) -> None:
    paths = RecordPaths.in_folder(tmp_path)
    assert paths.find_target("leaf") is None
    for folder in (tmp_path / "artifacts" / "leaf" / "ab" / "artifacts", tmp_path / "trials/leaf/3/seed 0"):
        folder.mkdir(parents=True)
        (folder / "target.png").touch()
        assert paths.find_target("leaf") == folder / "target.png"


def test_disk_usage_sums_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(3000))
    (tmp_path / "d").write_bytes(bytes(2000))
    assert disk_usage(tmp_path / "a", tmp_path / "d", tmp_path / "none") == "5.0 kB"


@pytest.mark.parametrize("name", ["", "a/b", "single-runs", "optuna", "Default", ".", ".."])
def test_a_study_has_no_name_of_another_folder(name: str) -> None:
    assert not is_study_name(name)
    assert is_study_name("leaf")


def test_a_file_that_goes_meanwhile_takes_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running trial renames its partial checkpoints while `nca.studies show` looks at them."""
    (tmp_path / "kept").write_bytes(bytes(5000))
    partial = tmp_path / "8.partial"
    partial.write_bytes(bytes(700))
    stat = Path.stat

    def stat_and_rename(path: Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        if path == tmp_path / "kept":
            partial.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "stat", stat_and_rename)
    monkeypatch.setattr(os, "walk", lambda path: [(str(path), [], ["kept", "8.partial"])])
    assert disk_usage(tmp_path) == "5.0 kB"
