"""Whether records were moved or copied is told from what lies where, never from the address alone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.records.paths import Places
from nca.records.repair import list_left, mend
from nca.tracking import MlflowStore, find_moved, refuse_moved

NAME = "a study, 50 %"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return records of one run with an artifact, and of an experiment without."""
    made = tmp_path / "runs"
    store = MlflowStore(f"sqlite:///{made / 'mlflow.db'}")
    store.experiments.open("empty", made / "artifacts" / "empty")
    run_id = store.create_run(store.experiments.open(NAME, made / "artifacts" / NAME), "run")
    note = tmp_path / "note.txt"
    note.write_text("kept")
    store.log_file(run_id, note)
    return made


def test_records_in_their_place_or_seen_through_a_link_are_not_moved(runs: Path) -> None:
    assert find_moved(runs / "mlflow.db") == []
    link = runs.with_name("link")
    link.symlink_to(runs)
    assert find_moved(link / "mlflow.db") == []


def test_a_store_that_is_kept_apart_from_its_artifacts_is_not_moved(runs: Path) -> None:
    apart = runs.with_name("apart")
    apart.mkdir()
    shutil.copy(runs / "mlflow.db", apart)
    (apart / "artifacts" / NAME / "another run").mkdir(parents=True)
    assert find_moved(apart / "mlflow.db") == []


def test_a_copy_of_the_store_alone_is_told_from_the_original_beside_its_artifacts(runs: Path) -> None:
    copy = runs.with_name("copy")
    copy.mkdir()
    with sqlite3.connect(runs / "mlflow.db") as source, sqlite3.connect(copy / "mlflow.db") as target:
        source.backup(target)  # with what its journal holds
    (moved,) = find_moved(copy / "mlflow.db")
    assert (moved.there, moved.here) == (runs / "artifacts" / NAME, copy / "artifacts" / NAME)
    before = sorted(runs.rglob("*.txt"))
    mend(Places.under(copy))
    assert MlflowStore(f"sqlite:///{copy / 'mlflow.db'}").experiments.delete(NAME)
    assert sorted(runs.rglob("*.txt")) == before != []


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_what_was_moved_or_copied_is_refused_until_it_is_taken_along(
    how: Callable[[Path, Path], object], runs: Path
) -> None:
    new = runs.with_name("new")
    how(runs, new)
    store, uri = new / "mlflow.db", f"sqlite:///{new / 'mlflow.db'}"
    (moved,) = find_moved(store)
    assert (moved.there, moved.here) == (runs / "artifacts" / NAME, new / "artifacts" / NAME)
    for refuse in (lambda: refuse_moved(store), lambda: MlflowStore(uri)):
        with pytest.raises(ConfigError, match=r"moved or copied.*nca\.studies mend runs_dir="):
            refuse()
    places = Places.under(new)  # without any study
    assert list(list_left(places)) == [
        f"{new / 'artifacts' / NAME}: was moved or copied, and MLflow looks for it in {moved.there}"
    ]
    assert mend(places).endswith(", 1 MLflow experiments taken along")
    assert list(list_left(places)) == []
    opened = MlflowStore(uri)
    experiment = opened.experiments.open(NAME, new / "artifacts" / NAME)
    again = opened.create_run(experiment, "again")
    note = runs.with_name("note.txt")
    opened.log_file(again, note)
    assert sorted(path.name for path in (new / "artifacts" / NAME).glob("*/artifacts/*")) == ["note.txt"] * 2
    assert len(list(runs.glob("artifacts/*/*"))) == (1 if how is shutil.copytree else 0)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.touch()
    with pytest.raises(ConfigError, match=r"mlflow.db: cannot be read \(no such table: experiments\)"):
        find_moved(file)
