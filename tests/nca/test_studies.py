"""What `python -m nca.studies` refuses to delete, and that a deletion that fails can be repeated."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import optuna
import pytest

from nca import studies
from nca.records.paths import RecordPaths
from nca.records.repair import repair
from nca.tracking.run_lock import hold
from nca.tracking.store import MlflowStore
from sweeps.storage.optuna_storage import open_storage
from sweeps.trials import REASON
from tests.integration.commands import listing as list_all
from tests.refused_writes import refuse_writes

NAMES = ("leaf", "fern")


def listing(runs: Path) -> list[str]:
    """Return every path below a folder, without journals of databases."""
    return [path for path in list_all(runs) if not path.endswith(("-shm", "-wal"))]


def make_storage(folder: Path) -> str:
    """Return the address of a new Optuna storage with a finished trial of each study."""
    uri = f"sqlite:///{folder / 'optuna.db'}"
    storage = open_storage(uri)
    for name in NAMES:
        study = optuna.create_study(study_name=name, storage=storage)
        study.add_trial(optuna.trial.create_trial(value=1.0))
    return uri


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a `runs_dir` without databases, with the files of a trial of each study."""
    runs = tmp_path / "runs"
    for name in NAMES:
        for folder in (runs / "trials" / name / "0", runs / "artifacts" / name / "ab"):
            folder.mkdir(parents=True)
            (folder / "file").touch()
    return runs


def write_storage_of(runs: Path, storage: str) -> None:
    """Write into a trial's folder which storage has its study, as a coordinator does."""
    known: dict[str, object] = dict.fromkeys(("application", "study", "artifacts"), "leaf")
    known |= {"number": 0, "first_attempt": 0, "config": {}, "links": {}, "pruner": {}, "storage": storage}
    (runs / "trials" / "leaf" / "0" / "assignment.json").write_text(json.dumps(known))


def refuse(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        studies.main(argv)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "single-runs", "optuna", "Default"])
def test_names_of_no_study_delete_nothing(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_storage(runs)
    before = listing(runs)
    error = refuse(capsys, "delete", name, "--yes", f"runs_dir={runs}")
    assert error == f"error: delete '{name}': not a study's name\n"
    assert listing(runs) == before


def test_a_study_is_deleted_with_its_files_and_no_other(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = make_storage(runs)
    studies.main(["delete", "leaf", "--yes", f"runs_dir={runs}"])
    shown = capsys.readouterr().out
    assert f"study leaf: 1 finished trials in {storage}\n" in shown
    assert f"{runs / 'trials' / 'leaf'}: 0 bytes\n" in shown
    assert RecordPaths.in_folder(runs).open_studies().names() == ["fern"]
    assert not [path for path in listing(runs) if "leaf" in path]
    assert len([path for path in listing(runs) if path.endswith("file")]) == 2


@pytest.mark.parametrize("known", [True, False])
def test_a_study_whose_trial_trains_is_not_deleted(
    known: bool, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether or not the storage has it: that of another command may."""
    make_storage(runs if known else tmp_path)
    if not known:
        open_storage(f"sqlite:///{runs / 'optuna.db'}")
    trial = runs / "trials" / "leaf" / "0"
    with hold(trial):
        before = listing(runs)
        error = refuse(capsys, "delete", "leaf", "--yes", f"runs_dir={runs}")
        assert f"{trial}: process " in error
        assert listing(runs) == before


def test_files_of_a_study_in_another_storage_are_not_deleted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_storage(f"sqlite:///{runs / 'optuna.db'}")
    theirs = make_storage(tmp_path)
    write_storage_of(runs, theirs)
    before = listing(runs)
    error = refuse(capsys, "delete", "leaf", "--yes", f"runs_dir={runs}")
    assert error == f"error: study 'leaf': is in another storage; give sweep.storage={theirs}\n"
    assert listing(runs) == before
    write_storage_of(runs, f"sqlite:///{tmp_path / 'deleted.db'}")
    studies.main(["delete", "leaf", "--yes", f"runs_dir={runs}"])
    assert not [path for path in listing(runs) if "leaf" in path]


def test_files_that_stay_are_named_and_the_study_stays(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_storage(runs)

    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path / "0"))

    with monkeypatch.context() as patch:
        patch.setattr("nca.records.paths.shutil.rmtree", fail)
        error = refuse(capsys, "delete", "leaf", "--yes", f"runs_dir={runs}")
    assert f"{runs / 'trials' / 'leaf' / '0'}: cannot be deleted (Permission denied); remove the" in error
    assert RecordPaths.in_folder(runs).open_studies().names() == ["fern", "leaf"]
    studies.main(["delete", "leaf", "--yes", f"runs_dir={runs}"])
    assert RecordPaths.in_folder(runs).open_studies().names() == ["fern"]


def test_a_garbage_collection_of_mlflow_that_fails_leaves_the_study(
    mlflow_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Path(mlflow_uri.removeprefix("sqlite:///")).parent
    make_storage(runs)
    store = MlflowStore(mlflow_uri)
    experiment = store.experiments.open("leaf", runs / "artifacts" / "leaf")
    store.create_run(experiment, "trial 0")
    with monkeypatch.context() as patch:
        patch.setattr("nca.tracking.experiments.sys.executable", "/bin/false")
        error = refuse(capsys, "delete", "leaf", "--yes", f"runs_dir={runs}")
    assert f"mlflow gc cannot delete experiment {experiment} (no reason given)" in error
    assert RecordPaths.in_folder(runs).open_studies().names() == ["fern", "leaf"]
    assert store.experiments.find("leaf") == experiment


def test_a_repair_keeps_the_checkpoint_of_a_trial_that_a_sweep_may_retry(runs: Path) -> None:
    storage = open_storage(make_storage(runs))
    study = optuna.load_study(study_name="leaf", storage=storage)
    failed = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={REASON: "killed"})
    study.add_trial(failed)
    files = [runs / "trials" / "leaf" / str(n) / "checkpoints" / "8.safetensors" for n in (0, 1)]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    assert "1 files deleted" in repair(RecordPaths.in_folder(runs))
    assert [file.exists() for file in files] == [False, True]


@pytest.mark.parametrize("tracked", [True, False])
def test_a_read_only_disk_is_one_line_and_the_study_stays(
    tracked: bool, mlflow_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Path(mlflow_uri.removeprefix("sqlite:///")).parent
    make_storage(runs)
    if tracked:
        MlflowStore(mlflow_uri).experiments.open("leaf", runs / "artifacts" / "leaf")
    with refuse_writes():
        error = refuse(capsys, "delete", "leaf", "--yes", f"runs_dir={runs}")
    assert ("tracking.uri=" if tracked else "sweep.storage=") in error
    assert "attempt to write a readonly database" in error
    assert RecordPaths.in_folder(runs).open_studies().names() == ["fern", "leaf"]


def test_databases_of_a_disk_that_was_read_only_from_the_start_are_to_be_copied(
    runs: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_storage(runs)
    shutil.copy(runs / "optuna.db", small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    reason = f"{small_disk} is not writable: copy it to another disk, and give runs_dir=COPY"
    for argv in (["list"], ["delete", "leaf", "--yes"]):
        assert refuse(capsys, *argv, f"runs_dir={small_disk}").endswith(f"database file); {reason}\n")
    copy = shutil.copytree(small_disk, runs.parent / "copy")
    studies.main(["list", f"runs_dir={copy}"])
    assert "leaf" in capsys.readouterr().out


def test_names_are_listed_whole_however_narrow_the_terminal(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = ["[red] :leaf: <b>", "a name as long as the width of a narrow terminal allows and longer"]
    storage = open_storage(f"sqlite:///{runs / 'optuna.db'}")
    for name in names:
        optuna.create_study(study_name=name, storage=storage)
    studies.main(["list", f"runs_dir={runs}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["finished", "running", "best", "steps", "disk", "last", "change", "study"]
    column = lines[0].index("study")
    assert sorted(line[column:] for line in lines[1:]) == names
