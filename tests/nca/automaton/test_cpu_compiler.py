"""Where the machine code of the compiled loops is kept."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from nca.automaton.cpu_compiler import cache_folder

find_folder = cache_folder.__wrapped__  # each test has its own environment


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files of a user whose home and cache cannot be written."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nobody")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid)
    return tmp_path


def planted(temporary: Path) -> Path:
    return temporary / f"nca-sweep-{temporary.stat().st_uid}"


@pytest.mark.parametrize("variable", [None, "XDG_CACHE_HOME", "HOME"])
def test_machine_code_is_kept_in_the_cache_that_the_user_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path))
    folder = find_folder("" if variable else str(tmp_path))
    expected = {None: tmp_path, "XDG_CACHE_HOME": tmp_path / "nca-sweep"}
    assert Path(folder or "").parent == expected.get(variable, tmp_path / ".cache" / "nca-sweep")


@pytest.mark.parametrize("given", ["", "/proc/nobody"])
def test_without_a_writable_cache_it_is_kept_among_temporary_files_of_this_user_alone(
    temporary: Path, given: str
) -> None:
    folder = Path(find_folder(given) or "")
    assert folder.is_dir()
    assert folder.parent == planted(temporary)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert find_folder(given) == str(folder)


def test_a_user_without_a_home_has_a_cache_too(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 5)  # without a name
    assert Path(find_folder("") or "").parent == planted(temporary)


@pytest.mark.parametrize("kind", ["another user's", "writable by others", "a link", "a file"])
def test_no_code_of_another_user_is_run(temporary: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = planted(temporary)
    match kind:
        case "a link":
            folder.symlink_to(temporary)
        case "a file":
            folder.touch()
        case "writable by others":
            folder.mkdir()
            folder.chmod(0o777)
        case _:
            other = temporary.stat().st_uid + 1
            monkeypatch.setattr("os.geteuid", lambda: other)
            (temporary / f"nca-sweep-{other}").mkdir(mode=0o700)
    assert find_folder("") is None
