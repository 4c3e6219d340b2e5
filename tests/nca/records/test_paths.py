"""Paths of records: their command-line overrides give them back, and files of runs are found."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths, disk_usage, is_study_name, read_record_paths

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
