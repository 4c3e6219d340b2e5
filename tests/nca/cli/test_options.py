"""What is written is whole or not there, and what cannot be is said in a line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.cli.options import read_out, writing


def test_a_file_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    with writing(out) as partial:
        assert partial.suffix == ".html"  # by which libraries choose a format
        partial.write_text("new")
        assert out.read_text() == "old"
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_takes_what_is_new_and_keeps_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "a.csv").write_text("old")
    with writing(out) as partial:
        partial.mkdir()
        (partial / "a.csv").write_text("new")
        assert (out / "a.csv").read_text() == "old"
    assert {file.name: file.read_text() for file in out.iterdir()} == {"notes.txt": "mine", "a.csv": "new"}
    assert list(tmp_path.iterdir()) == [out]


def test_the_folder_that_one_is_in_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with writing(Path()) as partial:
        partial.mkdir()
        (partial / "new.txt").write_text("new")
    assert [file.name for file in here.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [here]


@pytest.mark.parametrize("folder", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")

    def write() -> None:
        with writing(out) as partial:
            if folder:
                partial.mkdir()
            (partial / "half" if folder else partial).write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\); make room"):
        write()
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with writing(tmp_path / "x.png") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_place_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    assert read_out({}, "out", "x.csv", (".csv",)) == Path("x.csv")
    with pytest.raises(ConfigError, match=r"out=x\.txt: must end with one of \.csv, \.parquet"):
        read_out({"out": "x.txt"}, "out", "", (".csv", ".parquet"))
    with pytest.raises(ConfigError, match="/nowhere is not a folder"):
        read_out({"out": "/nowhere/x.csv"}, "out", "", (".csv",))
