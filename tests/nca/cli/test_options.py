"""Command lines with their help; files that are written as a whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.cli.options import Command, atomic_output, read_number, read_out_path, read_text, split_overrides

COMMAND = Command("nca.x", "Do something.", {"run": "which run", "size": "in px"}, required=["run"])
STUDIES = Command(
    "nca.y", "Do more.", {"port": "a port"}, subcommands={"list": "all", "stop STUDY [TRIAL] [--yes]": "one"}
)


@pytest.mark.parametrize(
    ("command", "argv", "options", "subcommand", "flags"),
    [
        (COMMAND, ["run=a=b", "size=3"], {"run": "a=b", "size": "3"}, [], set()),
        (STUDIES, ["list"], {}, ["list"], set()),
        (STUDIES, ["stop", "leaf", "port=1"], {"port": "1"}, ["stop", "leaf"], set()),
        (STUDIES, ["--yes", "stop", "leaf", "3"], {}, ["stop", "leaf", "3"], {"--yes"}),
    ],
)
def test_command_lines_are_read(
    command: Command, argv: list[str], options: dict[str, str], subcommand: list[str], flags: set[str]
) -> None:
    assert command.read(argv) == (options, subcommand, flags)


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        (COMMAND, [], "'run' is missing: give run=VALUE"),
        (COMMAND, ["run=1", "sise=3"], r"unknown key 'sise', did you mean 'size'\?"),
        (COMMAND, ["run="], "run= has no value"),
        (COMMAND, ["run=1", "quick"], "'quick' cannot be read as KEY=VALUE"),
        (COMMAND, ["run=1", "--size=3"], "'--size=3' cannot be read as KEY=VALUE"),
        (STUDIES, [], "^give one of list, stop"),
        (STUDIES, ["lits"], r"unknown subcommand 'lits', did you mean 'list'\?; give one of list, stop"),
        (STUDIES, ["list", "leaf"], "^give list"),
        (STUDIES, ["list", "--yes"], "^give list"),
        (STUDIES, ["stop"], r"^give stop STUDY \[TRIAL\] \[--yes\]"),
        (STUDIES, ["stop", "leaf", "1", "2"], "^give stop STUDY .*"),
    ],
)
def test_mistakes_point_to_the_help(command: Command, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}; see python -m {command.module} --help$") as error:
        command.read(argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_has_a_line_on_everything(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, usage in ((COMMAND, "run=VALUE [KEY=VALUE ...]"), (STUDIES, "SUBCOMMAND [KEY=VALUE ...]")):
        with pytest.raises(SystemExit) as end:
            command.read([flag, "unknown"])
        assert end.value.code == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:3] == [f"python -m {command.module} {usage}", "", command.summary]
        rows = [line.strip().split("  ", 1) for line in lines[3:] if line]
        expected = {**command.subcommands, **{f"{key}=": text for key, text in command.options.items()}}
        assert {name: text.strip() for name, text in rows} == expected


@pytest.mark.parametrize("read", [COMMAND.read, STUDIES.read, split_overrides])
def test_the_version_is_told_whatever_else_is_given(
    read: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        read(["unknown", "--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"nca-sweep {version('nca-sweep')}\n"


def test_whole_numbers_have_a_range() -> None:
    assert read_number({"n": "3"}, "n", 4, 1, 9) == 3
    assert read_number({}, "n", 4, 1, 9) == 4
    for text in ("0", "10", "-1", "1.5", "many", "7" * 5000):
        with pytest.raises(ConfigError, match=f"^n={text}: must be a whole number from 1 to 9$"):
            read_number({"n": text}, "n", 4, 1, 9)


def test_what_a_user_gives_to_read_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes("\ufeffgröße".encode())
    assert read_text(file) == "größe"
    with pytest.raises(OSError, match="larger than 16 MB"):
        read_text(Path("/dev/zero"))


def test_a_file_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    with atomic_output(out) as partial:
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
    with atomic_output(out) as partial:
        partial.mkdir()
        (partial / "a.csv").write_text("new")
        assert (out / "a.csv").read_text() == "old"
    assert {file.name: file.read_text() for file in out.iterdir()} == {"notes.txt": "mine", "a.csv": "new"}
    assert list(tmp_path.iterdir()) == [out]


def test_the_folder_that_one_is_in_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with atomic_output(Path()) as partial:
        partial.mkdir()
        (partial / "new.txt").write_text("new")
    assert [file.name for file in here.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [here]


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_pipe_is_written_to_and_stays(tmp_path: Path, in_folder: bool) -> None:
    out = tmp_path / "pipe.csv"
    os.mkfifo(out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_output(tmp_path if in_folder else out) as partial:
        if in_folder:
            partial.mkdir()
        (partial / out.name if in_folder else partial).write_text("new")
    assert os.read(reader, 100) == b"new"
    os.close(reader)
    assert out.is_fifo()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_symbolic_link_stays_and_its_file_is_replaced(
    tmp_path: Path, exists: bool, in_folder: bool
) -> None:
    file, out = tmp_path / "data" / "table", tmp_path / "out" / "link.csv"
    file.parent.mkdir()
    out.parent.mkdir()
    out.symlink_to(file)
    if exists:
        file.write_text("old")
    with atomic_output(out.parent if in_folder else out) as partial:
        if in_folder:
            partial.mkdir()
        assert in_folder or partial.suffix == ".csv"
        (partial / out.name if in_folder else partial).write_text("new")
    assert out.is_symlink()
    assert out.readlink() == file
    assert file.read_text() == "new"
    assert sorted(tmp_path.rglob("*")) == sorted([file, file.parent, out, out.parent])


@pytest.mark.parametrize("folder", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")

    def write() -> None:
        with atomic_output(out) as partial:
            if folder:
                partial.mkdir()
            (partial / "half" if folder else partial).write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\); make room"):
        write()
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_read_only_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)  # which such a disk refuses even if there is no such file
    message = "cannot be written \\(Read-only file system\\)"
    with pytest.raises(ConfigError, match=message), atomic_output(tmp_path / "page.html") as partial:
        refuse(partial)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_output(tmp_path / "x.png") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_output_path_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    assert read_out_path({}, "out", "x.csv", (".csv",)) == Path("x.csv")
    with pytest.raises(ConfigError, match=r"out=x\.txt: must end with one of \.csv, \.parquet"):
        read_out_path({"out": "x.txt"}, "out", "", (".csv", ".parquet"))
    with pytest.raises(ConfigError, match="/nowhere is not a folder"):
        read_out_path({"out": "/nowhere/x.csv"}, "out", "", (".csv",))


@pytest.mark.parametrize(
    ("line", "flags", "overrides"),
    [
        ("-m a=1 b=2", ["-m"], ["a=1", "b=2"]),
        ("a=1 -m b=2", ["-m"], ["a=1", "b=2"]),
        ("a=1 --cfg job b=2 --resolve", ["--cfg=job", "--resolve"], ["a=1", "b=2"]),
        ("-c=all a", ["-c=all"], ["a"]),
        ("--info a=1", ["--info"], ["a=1"]),
        ("a=1 --config-dir /x -m", ["-m"], ["--config-dir=/x", "a=1"]),
        ("--config-dir=/x a=1", [], ["--config-dir=/x", "a=1"]),
        ("--info defaults a=1 -h", ["--info=defaults", "-h"], ["a=1"]),
    ],
)
def test_flags_may_stand_anywhere(line: str, flags: list[str], overrides: list[str]) -> None:
    assert split_overrides(line.split()) == (flags, overrides)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a=1 --foo", "--foo"),
        ("--run a=1", "--run"),
        ("--cfg nope a=1", "--cfg nope"),
        ("a=1 --cfg", "--cfg"),
        ("--cfg a=1", "--cfg"),
        ("a=1 --config-dir", "--config-dir"),
        ("--config-name=x a=1", "--config-name x"),
        ("-m=3", "-m 3"),
        ("--multi a=1", "--multi"),
    ],
)
def test_unknown_flags_are_one_line(line: str, shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{shown}: only --help, --cfg job .* are understood as flags$"):
        split_overrides(line.split())
