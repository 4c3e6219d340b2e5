"""Stores that were moved or copied are told from stores that are kept apart from their artifacts."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths
from nca.records.repair import find_orphans, repair
from nca.tracking.relocation import check_not_relocated, find_relocated
from nca.tracking.store import MlflowStore

NAME = "a study, 50 %"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return records of one run with an artifact, and of an experiment without."""
    made = tmp_path / "runs"
    make_store(made, made / "artifacts")
    return made


def make_store(folder: Path, artifacts: Path) -> None:
    store = MlflowStore(f"sqlite:///{folder / 'mlflow.db'}")
    store.experiments.open("empty", artifacts / "empty")
    run_id = store.create_run(store.experiments.open(NAME, artifacts / NAME), "run")
    note = folder.with_name("note.txt")
    note.write_text("kept")
    store.log_file(run_id, note)


def forget_tags(store: Path) -> None:
    """Make a store as earlier versions did."""
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM experiment_tags")


def test_records_in_their_folder_or_seen_through_a_link_are_not_relocated(runs: Path) -> None:
    link = runs.with_name("link")
    link.symlink_to(runs)
    for folder in (runs, link):
        assert find_relocated(folder / "mlflow.db") == {}
    forget_tags(runs / "mlflow.db")
    for folder in (runs, link):
        assert find_relocated(folder / "mlflow.db") == {}


@pytest.mark.parametrize("tagged", [True, False])
def test_a_store_that_is_kept_apart_from_its_artifacts_is_not_relocated(tmp_path: Path, tagged: bool) -> None:
    apart = tmp_path / "apart"
    make_store(apart, tmp_path / "runs" / "artifacts")
    (apart / "artifacts" / "another study").mkdir(parents=True)
    if not tagged:
        forget_tags(apart / "mlflow.db")
    new = tmp_path / "new"
    shutil.move(apart, new)
    assert find_relocated(new / "mlflow.db") == {}
    assert len(list(tmp_path.glob("runs/artifacts/*/*/artifacts/note.txt"))) == 1


def test_a_copy_of_the_store_alone_writes_and_deletes_nothing_beside_the_original(runs: Path) -> None:
    copy = runs.with_name("copy")
    copy.mkdir()
    with sqlite3.connect(runs / "mlflow.db") as source, sqlite3.connect(copy / "mlflow.db") as target:
        source.backup(target)  # with what its journal holds
    assert find_relocated(copy / "mlflow.db") == {
        (runs / "artifacts" / name).as_uri(): copy / "artifacts" / name for name in ("empty", NAME)
    }
    before = sorted(runs.rglob("*.txt"))
    repair(RecordPaths.in_folder(copy))
    experiments = MlflowStore(f"sqlite:///{copy / 'mlflow.db'}").experiments
    experiment = experiments.find(NAME)
    assert experiment is not None
    experiments.delete(experiment)
    assert sorted(runs.rglob("*.txt")) == before != []


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_moved_or_copied_records_are_refused_until_they_are_repaired(
    how: Callable[[Path, Path], object], tagged: bool, runs: Path
) -> None:
    new = runs.with_name("new")
    if not tagged:
        forget_tags(runs / "mlflow.db")
    how(runs, new)
    store, uri = new / "mlflow.db", f"sqlite:///{new / 'mlflow.db'}"
    names = ["empty", NAME] if tagged else [NAME]
    for refuse in (lambda: check_not_relocated(store), lambda: MlflowStore(uri)):
        with pytest.raises(ConfigError, match=r"moved or copied.*nca\.studies repair runs_dir="):
            refuse()
    paths = RecordPaths.in_folder(new)  # without any study
    folders = [(new / "artifacts" / name, (runs / "artifacts" / name).as_uri()) for name in names]
    moved = [f"{folder}: was moved or copied, MLflow has it as {uri}" for folder, uri in folders]
    assert list(find_orphans(paths)) == moved
    assert repair(paths).endswith(f", artifact URIs of {len(names)} MLflow experiments updated")
    assert list(find_orphans(paths)) == []
    opened = MlflowStore(uri)
    experiment = opened.experiments.open(NAME, new / "artifacts" / NAME)
    run_id = opened.create_run(experiment, "later")
    note = runs.with_name("note.txt")
    opened.log_file(run_id, note)
    assert sorted(path.name for path in (new / "artifacts" / NAME).glob("*/artifacts/*")) == ["note.txt"] * 2
    assert len(list(runs.glob("artifacts/*/*"))) == (1 if how is shutil.copytree else 0)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.touch()
    with pytest.raises(ConfigError, match=r"mlflow.db: cannot be read \(no such table: experiments\)"):
        find_relocated(file)
