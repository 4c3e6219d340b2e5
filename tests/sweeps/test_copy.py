"""Studies move from one storage to another whole or not at all, and go on there."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.copy import main
from sweeps.ownership import describe_owner
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import find_study
from sweeps.trials import OWNER
from tests.sweeps.fake_application import Sweep
from tests.sweeps.launching import read_trials

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Return a sweep of four trials that is over, one of them after a retry."""
    done = Sweep(str(tmp_path / "old"), n_trials=4, acts={"1": ["kill", "succeed"]})
    Path(done.folder).mkdir()
    done.run()
    return done


def test_a_copied_study_goes_on_where_it_was(sweep: Sweep, tmp_path: Path) -> None:
    moved = f"sqlite:///{tmp_path}/new.db"
    main([f"from={sweep.storage}", f"to={moved}"])
    before, after = read_trials(sweep.storage), read_trials(moved)
    assert len(after) == 5
    for old, new in zip(before, after, strict=True):
        for part in ("number", "state", "params", "distributions", "values", "user_attrs", "system_attrs"):
            assert getattr(new, part) == getattr(old, part)
        assert (new.datetime_start, new.datetime_complete) == (old.datetime_start, old.datetime_complete)
    continued = replace(sweep, server=moved, n_trials=6)
    assert continued.run().counts == {"complete": 6}
    assert len(read_trials(sweep.storage)) == 5


def test_artifacts_are_copied(sweep: Sweep, tmp_path: Path) -> None:
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    old, new = tmp_path / "old" / "artifacts", tmp_path / "new"
    picture = tmp_path / "output.png"
    picture.write_bytes(b"a picture")
    storage = open_storage(sweep.storage)
    study = find_study(storage, "fake")
    assert study is not None
    trial = study.ask()
    old.mkdir(exist_ok=True)
    id_ = upload_artifact(
        artifact_store=FileSystemArtifactStore(old), file_path=str(picture), study_or_trial=trial
    )
    study.tell(trial, 1.0)
    (old / "of another").touch()
    argv = [f"from={sweep.storage}", f"to=sqlite:///{tmp_path}/new.db"]
    main([*argv, f"artifacts={old}", f"to_artifacts={new}"])
    assert {file.name for file in new.iterdir()} == {id_}
    assert (new / id_).read_bytes() == b"a picture"


def refuse(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_mistakes_are_one_line(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, to = f"from={sweep.storage}", f"to=sqlite:///{tmp_path}/new.db"
    refuse([], "give from, to", capsys)
    refuse([there], "give to", capsys)
    refuse([there, to, "studdy=fake"], "studdy=fake: unknown option", capsys)
    refuse([there, to, "artifacts=x"], "give both artifacts and to_artifacts", capsys)
    refuse([there, to, "study=other"], "study 'other': no such study", capsys)
    refuse([f"from=sqlite:///{tmp_path}/none.db", to], "no such file", capsys)
    refuse([there, f"to={sweep.storage}"], "must differ from to=", capsys)
    main([there, to])
    refuse([there, to], "study 'fake': exists in to=", capsys)


def test_a_study_with_a_running_trial_stays(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = find_study(open_storage(sweep.storage), "fake")
    assert study is not None
    study.ask().set_user_attr(OWNER, describe_owner() | {"pid": os.getppid()})
    to = f"sqlite:///{tmp_path}/new.db"
    refuse(
        [f"from={sweep.storage}", f"to={to}"],
        "study 'fake': trial 5 is running; stop the sweep first",
        capsys,
    )
    assert read_trials(to) == []


def test_a_copy_that_fails_leaves_nothing(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = f"sqlite:///{tmp_path}/new.db"

    def fill_the_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sweeps.storage.optuna_storage.RetryingStorage.set_study_system_attr", fill_the_disk)
    refuse([f"from={sweep.storage}", f"to={to}"], "No space left on device", capsys)
    assert read_trials(to) == []
    monkeypatch.undo()
    main([f"from={sweep.storage}", f"to={to}"])
    assert len(read_trials(to)) == 5
    shutil.rmtree(sweep.folder)
