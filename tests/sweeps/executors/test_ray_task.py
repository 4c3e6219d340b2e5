"""A trial's folder in a storage: whole files, in their order, at any address of fsspec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from sweeps.executors.ray_task import delete, download, upload


@pytest.fixture(params=["file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the address of a folder that is not there yet, on a disk and in an object store."""
    address = f"file://{tmp_path}/storage/leaf/0" if request.param == "file" else "memory://storage/leaf/0"
    yield address
    delete(address)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    (made / "seed 0" / "checkpoints").mkdir(parents=True)
    for name in ("progress.json", "seed 0/run_id", "seed 0/checkpoints/1.safetensors"):
        (made / name).write_text(f"first {name}")
    return made


def read(address: str, folder: Path) -> dict[str, str]:
    """Return what a machine that has nothing yet downloads."""
    folder.mkdir()
    download(address, folder)
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def write(file: Path, text: str, mtime_ns: int) -> None:
    file.write_text(text)
    os.utime(file, ns=(mtime_ns, mtime_ns))


def test_another_machine_has_what_was_stored(address: str, folder: Path, tmp_path: Path) -> None:
    stored: dict[str, int] = {}
    upload(address, folder, stored)
    names = ["progress.json", "seed 0/checkpoints/1.safetensors", "seed 0/run_id"]
    assert sorted(stored) == names
    assert read(address, tmp_path / "other") == {name: f"first {name}" for name in names}
    wanted = tmp_path / "wanted"
    assert sorted(download(address, wanted, lambda name: "checkpoints/" not in name)) == names
    assert not (wanted / "seed 0" / "checkpoints").exists()


def test_only_changes_are_stored(
    address: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: dict[str, int] = {}
    upload(address, folder, stored)
    put: list[str] = []
    files, _ = fsspec.url_to_fs(address)
    original = files.put_file

    def put_file(source: str, target: str) -> None:
        put.append(Path(source).name)
        original(source, target)

    monkeypatch.setattr(files, "put_file", put_file)
    (folder / "seed 0" / "run_id").unlink()
    write(folder / "seed 0" / "checkpoints" / "2.safetensors", "second", 10**9)
    write(folder / "progress.json", "third progress.json", 2 * 10**9)  # as long as the first
    (folder / "seed 0" / "checkpoints" / "3.safetensors.partial").write_text("half")
    upload(address, folder, stored)
    assert put == ["2.safetensors", "progress.json"]  # the oldest first
    upload(address, folder, stored)
    assert len(put) == 2
    assert read(address, tmp_path / "other") == {
        "progress.json": "third progress.json",
        "seed 0/checkpoints/1.safetensors": "first seed 0/checkpoints/1.safetensors",
        "seed 0/checkpoints/2.safetensors": "second",
    }


def test_a_file_whose_upload_broke_off_stays_as_it_was(
    address: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: dict[str, int] = {}
    upload(address, folder, stored)
    files, _ = fsspec.url_to_fs(address)

    def put_half(_source: str, target: str) -> None:
        files.pipe_file(target, b"ha")
        raise OSError("the node has lost its power")

    write(folder / "progress.json", "second", 10**9)
    with monkeypatch.context() as patch:
        patch.setattr(files, "put_file", put_half)
        with pytest.raises(OSError, match="power"):
            upload(address, folder, stored)
    assert read(address, tmp_path / "other")["progress.json"] == "first progress.json"
    upload(address, folder, stored)
    assert read(address, tmp_path / "third")["progress.json"] == "second"


def test_a_deleted_folder_is_empty(address: str, folder: Path, tmp_path: Path) -> None:
    upload(address, folder, {})
    delete(address)
    delete(address)
    assert read(address, tmp_path / "other") == {}
