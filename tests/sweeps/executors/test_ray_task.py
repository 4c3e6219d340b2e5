"""A trial's folder in a storage: whole files, in their order, at any address that fsspec understands."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from sweeps.executors import ray_task
from sweeps.executors.base import Ended
from sweeps.executors.ray_task import StoredFolder, TaskSpec, run_trial
from sweeps.executors.slots import Slot

STUDY = "leaf [1]*?"  # a name full of patterns
FIRST = {
    name: f"first {name}" for name in ("progress.json", "seed 0/run_id", "seed 0/checkpoints/1.safetensors")
}


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """Return a trial's folder."""
    folder = tmp_path / STUDY / "0"
    for name, text in FIRST.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, trial: Path) -> Callable[..., StoredFolder]:
    """Return what makes a copy of the trial's folder, stored on a disk or in an object store."""
    storage = f"{request.param}://{tmp_path}/storage/"
    return lambda copy=None: StoredFolder(storage, trial, copy)


def files_of(stored: StoredFolder) -> Any:
    return fsspec.url_to_fs(stored.address)[0]


def read(store: Callable[..., StoredFolder], copy: Path) -> dict[str, str]:
    """Return what a machine that has nothing yet downloads."""
    store(copy).download()
    return {str(f.relative_to(copy)): f.read_text() for f in copy.rglob("*") if f.is_file()}


def write(file: Path, text: str, mtime_ns: int) -> None:
    file.write_text(text)
    os.utime(file, ns=(mtime_ns, mtime_ns))


def test_another_machine_has_what_was_stored(store: Callable[..., StoredFolder], tmp_path: Path) -> None:
    store().upload()
    assert read(store, tmp_path / "other") == FIRST
    wanted = tmp_path / "wanted"
    assert set(store(wanted).download(lambda name: "checkpoints/" not in name)) == FIRST.keys()
    assert sorted(file.name for file in wanted.rglob("*") if file.is_file()) == ["progress.json", "run_id"]


def test_only_changes_are_stored(
    store: Callable[..., StoredFolder], trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store()
    stored.upload()
    put: list[str] = []
    original = files_of(stored).put_file

    def put_file(source: str, target: str) -> None:
        put.append(Path(source).name)
        original(source, target)

    monkeypatch.setattr(files_of(stored), "put_file", put_file)
    (trial / "seed 0" / "run_id").unlink()
    write(trial / "seed 0" / "checkpoints" / "2.safetensors", "second", 10**9)
    write(trial / "progress.json", "third progress.json", 2 * 10**9)  # as long as the first
    (trial / "seed 0" / "checkpoints" / "3.safetensors.partial").write_text("half")
    stored.upload()
    assert put == ["2.safetensors", "progress.json"]  # the oldest first
    stored.upload()
    assert len(put) == 2
    assert read(store, tmp_path / "other") == {
        "progress.json": "third progress.json",
        "seed 0/checkpoints/1.safetensors": FIRST["seed 0/checkpoints/1.safetensors"],
        "seed 0/checkpoints/2.safetensors": "second",
    }


def test_a_new_file_is_stored_at_once_and_changes_after_a_while(
    store: Callable[..., StoredFolder], trial: Path, tmp_path: Path
) -> None:
    stored = store()
    stored.upload()
    write(trial / "progress.json", "second", 10**9)
    stored.upload(every_s=3600.0)
    assert read(store, tmp_path / "before") == FIRST
    (trial / "outcome.json").write_text("complete")
    stored.upload(every_s=3600.0)
    assert read(store, tmp_path / "after") == {**FIRST, "progress.json": "second", "outcome.json": "complete"}


def test_a_file_whose_upload_broke_off_stays_as_it_was(
    store: Callable[..., StoredFolder], trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store()
    stored.upload()
    files = files_of(stored)

    def put_half(_source: str, target: str) -> None:
        files.pipe_file(target, b"ha")
        raise OSError("the node has lost its power")

    write(trial / "progress.json", "second", 10**9)
    with monkeypatch.context() as patch:
        patch.setattr(files, "put_file", put_half)
        with pytest.raises(OSError, match="power"):
            stored.upload()
    assert read(store, tmp_path / "other") == FIRST
    stored.upload()
    assert read(store, tmp_path / "third")["progress.json"] == "second"


def test_a_deleted_folder_is_empty(store: Callable[..., StoredFolder], tmp_path: Path) -> None:
    store().upload()
    store().delete()
    store().delete()
    assert read(store, tmp_path / "other") == {}


def test_the_copy_is_in_a_new_folder_that_only_its_user_may_enter(
    tmp_path: Path, trial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    planted = temporary / f"nca-sweep-{os.getuid()}"  # a name that another user could guess
    planted.mkdir(parents=True)
    seen: list[tuple[Path, int]] = []

    def watch(spec: TaskSpec, folder: Path, *_: object) -> Ended:
        seen.append((folder, folder.stat().st_mode & 0o777))
        return Ended(spec.number, 0, 0)

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(ray_task, "_watch", watch)
    spec = TaskSpec(0, trial, f"file://{tmp_path}/storage", "none:None", "none", Slot(0, 1))
    StoredFolder(f"file://{tmp_path}/storage", trial).upload()
    run_trial(spec, None)
    run_trial(spec, None)
    assert [mode for _, mode in seen] == [0o700, 0o700]
    assert {folder.parent for folder, _ in seen} == {temporary}
    assert len({planted, *(folder for folder, _ in seen)}) == 3
    assert list(temporary.iterdir()) == [planted]


@pytest.mark.parametrize("has_ended", [True, False])
def test_what_has_ended_when_the_coordinator_goes_is_kept(
    tmp_path: Path, trial: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    ray = pytest.importorskip("ray")

    class Executor:
        """Has a trial that ends between two looks."""

        def __init__(self, *_: object) -> None:
            self.folder, self.looks = Path(), 0

        def start(self, _: int, folder: Path) -> None:
            self.folder = folder

        def wait(self, _: float) -> list[Ended]:
            self.looks += 1
            if self.looks == 1 or not has_ended:
                return []
            (self.folder / "result").write_text("kept")
            return [Ended(0, 0, 0)]

        def close(self) -> None: ...

    def get(_: object) -> int:
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(ray_task, "LocalExecutor", Executor)
    monkeypatch.setattr(ray, "get", get)
    spec = TaskSpec(0, trial, f"file://{tmp_path}/storage", "none:None", "none", Slot(0, 1))
    mailbox = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
    if has_ended:
        assert run_trial(spec, mailbox) == Ended(0, 0, 0)
    else:
        with pytest.raises(ray.exceptions.RayActorError):
            run_trial(spec, mailbox)
    other = StoredFolder(f"file://{tmp_path}/storage", trial, tmp_path / "other")
    assert ("result" in other.download()) == has_ended
