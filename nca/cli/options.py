"""Command lines of KEY=VALUE options, with their help; a config composed of conf/ has overrides instead."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nca.cli.completion import answer_shell
from nca.cli.errors import ConfigError, check_output, nearest
from sweeps.storage.sqlite import RESERVED

PACKAGE = "nca-sweep"
HELP_FLAGS = {"--help", "-h"}
VERSION_FLAG = "--version"
SWEEP_FLAGS = {"--multirun", "-m"}
PLAIN_FLAG = "--plain"  # of nca.sweep: lines of text alone
_PRINTED = ("job", "hydra", "all")
_DESCRIBED = ("", "all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
PRINTING_FLAGS = {"--cfg": _PRINTED, "-c": _PRINTED, "--info": _DESCRIBED, "-i": _DESCRIBED}  # with values
OVERRIDE_FLAGS = {*HELP_FLAGS, *SWEEP_FLAGS, *PRINTING_FLAGS, "--resolve"}
CONFIG_DIR = "--config-dir"
FLAGS_HELP = {  # of command lines with overrides
    f"{CONFIG_DIR} DIR": "your own folder beside conf/, as DIR/experiment/NAME.yaml; docs/custom_parts.md",
    "-m, --multirun": "start the sweep; of nca.sweep alone, which plans it without this flag",
    PLAIN_FLAG: "of a sweep, lines of text alone: no live table, no pictures, no colors",
    "-c, --cfg job": "print the config; hydra: Hydra's own; all: both; with --resolve: values for ${...}",
    "-i, --info all": "print how it is composed, or config, defaults, defaults-tree, plugins, searchpath",
    "--shell-completion install=SHELL": "print what makes tab complete nca-...: bash, zsh or fish",
    "-h, --help": "print this page, for the options that are given",
    VERSION_FLAG: "print the version",
}
MAX_DIGITS = 18  # of a whole number
MAX_TEXT_MB = 16


class Arguments(NamedTuple):
    """A command line that was understood: values by key, a subcommand with its arguments, and flags."""

    options: dict[str, str]
    subcommand: list[str]
    flags: set[str]


@dataclass(frozen=True)
class Command:
    """The command line of an entry point that composes no config.

    Args:
        module: As `python -m` takes it.
        summary: What it does, in a sentence.
        options: A line on each key.
        required: The keys that must be given.
        subcommands: A line on each form, such as `stop STUDY [TRIAL]` or `delete STUDY [--yes]`.
    """

    module: str
    summary: str
    options: Mapping[str, str]
    required: Collection[str] = ()
    subcommands: Mapping[str, str] = field(default_factory=dict)

    def read(self, argv: Sequence[str] | None = None) -> Arguments:
        """Read a command line, that of the process if none is given.

        Raises:
            ConfigError: If a key, a subcommand or a flag is unknown, or a value is missing.
            SystemExit: After the help or the version, where that is asked for.
        """
        argv = sys.argv[1:] if argv is None else argv
        if answer_shell(argv, self._complete):
            raise SystemExit(0)
        _answer_version(argv)
        flags, words = split_argv(argv)
        if flags & HELP_FLAGS:
            print(self.help())
            check_output()
            raise SystemExit(0)
        given = self._read_words(flags, words)
        self._check_subcommand(given)
        for key in self.required:
            if key not in given.options:
                raise self.error(f"'{key}' is missing: give {key}=VALUE")
        return given

    def _read_words(self, flags: set[str], words: Sequence[str]) -> Arguments:
        """Return options, the subcommand and flags.

        Raises:
            ConfigError: If a key is unknown, or has no value.
        """
        given = Arguments({}, [word for word in words if "=" not in word], flags)
        for word in words:
            key, equals, value = word.partition("=")
            if equals and key not in self.options:
                raise self.error(f"unknown key '{key}'{nearest(key, self.options)}")
            if equals and not value:
                raise self.error(f"{word} has no value")
            if equals:
                given.options[key] = value
        return given

    def error(self, message: str) -> ConfigError:
        """Return an error that points to the help."""
        return ConfigError(f"{message}; see python -m {self.module} --help")

    def help(self) -> str:
        """Return the text of `--help`."""
        words = ["SUBCOMMAND"] * bool(self.subcommands) + [f"{key}=VALUE" for key in self.required]
        usage = " ".join(["python -m", self.module, *words, "[KEY=VALUE ...]"])
        tables = self.subcommands, {f"{key}=": text for key, text in self.options.items()}
        width = max(len(name) for table in tables for name in table) + 2
        blocks = ["\n".join(f"  {key:{width}}{text}" for key, text in each.items()) for each in tables]
        return "\n\n".join([usage, self.summary, *filter(None, blocks)])

    def _complete(self, words: Sequence[str], word: str) -> Iterator[str]:
        """Yield the subcommands unless one is given, its flags, and the keys that are not given yet."""
        given = {each.partition("=")[0] for each in words}
        forms = {form.split()[0]: form for form in self.subcommands}
        named = next((forms[each] for each in words if each in forms), None)
        yield from forms if named is None else re.findall(r"--\w+", named)
        yield from (f"{key}=" for key in self.options if key not in given)
        yield from sorted(HELP_FLAGS) if word.startswith("-") else ()

    def _check_subcommand(self, given: Arguments) -> None:
        """Compare a subcommand, its arguments and the flags with the forms that are allowed.

        Raises:
            ConfigError: If none fits.
        """
        name, *arguments = given.subcommand or [""]
        if not self.subcommands:
            if given.subcommand or given.flags:
                raise self.error(f"'{name or min(given.flags)}' cannot be read as KEY=VALUE")
            return
        forms = {form.split()[0]: form.split()[1:] for form in self.subcommands}
        if name not in forms:
            given_name = f"unknown subcommand '{name}'{nearest(name, forms)}; " if name else ""
            raise self.error(f"{given_name}give one of {', '.join(forms)}")
        flags = {part.strip("[]") for part in forms[name] if "--" in part}
        allowed = [part for part in forms[name] if "--" not in part]
        required = [part for part in allowed if not part.startswith("[")]
        if not len(required) <= len(arguments) <= len(allowed) or not given.flags <= flags:
            raise self.error(f"give {' '.join([name, *forms[name]])}")


def _answer_version(argv: Sequence[str]) -> None:
    """Print the version and end the process, if a command line asks for it.

    Raises:
        SystemExit: With code 0, after that.
    """
    if VERSION_FLAG in argv:
        from importlib.metadata import version

        print(f"{PACKAGE} {version(PACKAGE)}")
        check_output()
        raise SystemExit(0)


def split_argv(argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """Return the flags of a command line, and its other words in their order.

    Raises:
        ConfigError: If a word is no text in the encoding of the environment.
    """
    check_text(argv)
    return {word for word in argv if word.startswith("-")}, [w for w in argv if not w.startswith("-")]


def check_text(argv: Sequence[str]) -> None:
    """Check that the words of a command line are text in the system's encoding, and ~NAME a user's folder.

    Raises:
        ConfigError: If one is not.
    """
    for word in argv:
        _, _, value = word.partition("=")
        try:
            Path(value).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"{word}: no user of that name; begin a file's name by ./~") from error
        if not word.isascii() and re.search("[\ud800-\udfff]", word):
            encoding = sys.getfilesystemencoding()
            raise ConfigError(f"{word}: is not text in {encoding}; set LANG=C.UTF-8, or give another name")


def read_runs_dir(text: str) -> Path:
    """Return the absolute path of the folder of all records.

    Raises:
        ConfigError: If it is empty, or cannot be part of an SQLite address.
    """
    folder = Path(text).expanduser().absolute()
    if not text or any(character in str(folder) for character in RESERVED):
        shown = " or ".join(RESERVED)
        raise ConfigError(f"runs_dir={text and folder}: must be a folder without {shown} in its path")
    return folder


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags of a command line with their values, as Hydra reads them, and its overrides.

    Where the config is composed from too, `--config-dir DIR`, is the first override, as one word.

    Raises:
        ConfigError: If a flag or its value is unknown, or a word is no text.
        SystemExit: After the version, where that is asked for.
    """
    _answer_version(argv)
    check_text(argv)
    flags: list[str] = []
    overrides: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, equals, value = word.partition("=")
        if name == CONFIG_DIR and (equals or words):
            overrides.insert(0, f"{CONFIG_DIR}={value if equals else words.popleft()}")
            continue
        if name in PRINTING_FLAGS and not equals and words and "=" not in words[0]:
            value = words.popleft()
        if name not in OVERRIDE_FLAGS or value not in PRINTING_FLAGS.get(name, ("",)):
            raise ConfigError(
                f"{name} {value}".rstrip() + ": only --help, --cfg job (or hydra, all), --info, "
                "--config-dir DIR and, for nca.sweep, -m and --plain are understood as flags"
            )
        flags.append(f"{name}={value}" if value else name)
    return flags, overrides


def read_out_path(options: Mapping[str, str], key: str, default: str, kinds: Collection[str] = ()) -> Path:
    """Return the path of an output file or folder.

    Args:
        options: Values by key.
        key: Key of the path.
        default: Path if the key is not given.
        kinds: Allowed suffixes; any if empty.

    Raises:
        ConfigError: If the path has another suffix, or its parent is not a folder.
    """
    out = Path(options.get(key, default)).expanduser()
    if kinds and out.suffix not in kinds:
        raise ConfigError(f"{key}={out}: must end with one of {', '.join(kinds)}")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{key}={out}: {folder} is not a folder")
    return out


@contextlib.contextmanager
def atomic_output(out: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `out` once all is written.

    Only a regular file is replaced, that of a symbolic link in its place; a device or a pipe is written to.

    Args:
        out: The file; or a folder, if the temporary path becomes one: its files are moved into `out`.

    Raises:
        ConfigError: If it cannot be written; `out` is unchanged then.
    """
    with contextlib.ExitStack() as scratch:
        target = Path(os.path.realpath(out))
        folder = target.parent
        if _is_special(out):
            folder = Path(scratch.enter_context(tempfile.TemporaryDirectory()))
        partial = folder / f".{target.stem}.{os.getpid()}.partial{out.suffix}"
        try:
            yield partial
            if partial.is_dir():
                out.mkdir(exist_ok=True)
                for file in partial.iterdir():
                    _move(file, out / file.name)
            else:
                _move(partial, out)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"{out}: cannot be written ({reason}); make room there, or give another path"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # there is none, or the disk is read-only
                partial.unlink()


def _is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _move(file: Path, out: Path) -> None:
    if _is_special(out):
        with file.open("rb") as source, out.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    else:
        file.replace(os.path.realpath(out))


def read_number(options: Mapping[str, str], key: str, default: int, low: int, high: int) -> int:
    """Return a whole number of the options.

    Raises:
        ConfigError: If it is not a whole number, or out of its range.
    """
    text = options.get(key, str(default))
    number = parse_whole_number(text)
    if number is None or not low <= number <= high:
        raise ConfigError(f"{key}={text}: must be a whole number from {low} to {high}")
    return number


def parse_whole_number(text: str) -> int | None:
    """Return a whole number; None for other text, and for more digits than any range here has."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def read_text(file: Path) -> str:
    """Return the text of a file that a user gives, which may be a device or a pipe without an end.

    Raises:
        OSError: If it cannot be read, or is larger than `MAX_TEXT_MB`.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with file.open("rb") as opened:
        content = opened.read(MAX_TEXT_MB * 10**6 + 1)
    if len(content) > MAX_TEXT_MB * 10**6:
        raise OSError(f"larger than {MAX_TEXT_MB} MB")
    return content.decode("utf-8-sig")
