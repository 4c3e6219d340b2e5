"""Which image files a path of the command line means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.textures.image_paths import find_images


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder `f` with images and other files, below the current folder."""
    monkeypatch.chdir(tmp_path)
    names = ("b.png", "a.JPG", "x,y.webp", "x,z,q.png", "notes.txt", ".hidden.png")
    (tmp_path / "f" / "deeper.png").mkdir(parents=True)
    for name in names:
        (tmp_path / "f" / name).write_bytes(b"content does not matter")
    return tmp_path / "f"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("f/b.png", ["f/b.png"]),
        ("f/b.png,f/a.JPG", ["f/b.png", "f/a.JPG"]),  # as given
        ("f/notes.txt,f/b.png", ["f/notes.txt", "f/b.png"]),  # what is named itself may have any suffix
        ("f/x,y.webp", ["f/x,y.webp"]),
        ("f/x,z,q.png,f/x,y.webp,f/b.png", ["f/x,z,q.png", "f/x,y.webp", "f/b.png"]),
        ("no.png", ["no.png"]),  # reading it tells that there is none
        ("x" * 300, ["x" * 300]),
    ],
)
def test_files_are_separated_by_commas_that_no_name_holds(text: str, paths: list[str]) -> None:
    assert find_images(text) == (paths, "")


def test_of_a_folder_the_visible_images_are_taken_in_order() -> None:
    paths = [f"f/{name}" for name in ("a.JPG", "b.png", "x,y.webp", "x,z,q.png")]
    assert find_images("f") == (paths, "f: 4 images, 2 other files left out")
    assert find_images("f/,f/b.png") == ([*paths, "f/b.png"], "f/: 4 images, 2 other files left out")


def test_one_image_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").touch()
    assert find_images("one") == (["one/a.png"], "one: 1 image")


def test_the_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_images("~/f/b.png,~/f/x,y.webp")[0] == ["~/f/b.png", "~/f/x,y.webp"]
    assert find_images("~/f")[0][1] == "~/f/b.png"


def refuse(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        find_images(text)
    assert "\n" not in str(error.value)


def test_missing_images_and_folders_without_any_are_one_line(folder: Path) -> None:
    refuse("f/b.png,f/no.png", r"^texture\.path=f/b\.png,f/no\.png: there is no file f/no\.png; commas sep")
    refuse("f/b.png,", r"^texture\.path=f/b\.png,: there is no file ; commas separate images$")
    refuse(
        "f/deeper.png", r"^texture\.path=f/deeper\.png: a folder without images; must hold files with \.png,"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_one_line(folder: Path) -> None:
    folder.chmod(0)
    try:
        refuse("f", r"^texture\.path=f: cannot be read \(Permission denied\)$")
    finally:
        folder.chmod(0o755)
