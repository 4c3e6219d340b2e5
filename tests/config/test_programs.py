"""Every program has a console script, and a help with a line on everything that it takes."""

from __future__ import annotations

import contextlib
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from nca.cli.completion import FLAG
from nca.cli.options import CONFIG_DIR, FLAGS_HELP, OVERRIDE_FLAGS, PLAIN_FLAG, VERSION_FLAG
from nca.config.compose import compose_plain
from nca.config.validation import flatten
from nca.training.rerun import RERUN_OPTIONS
from sweeps.copy import OPTIONS

ROOT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
IS_PROGRAM = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)
HYDRAS = ("nca.sweep", "nca.train")
MAX_WIDTH = 110  # of the help of programs whose keys are few


def programs() -> list[str]:
    files = [file for folder in ("nca", "analysis") for file in (ROOT / folder).rglob("*.py")]
    found = [file.relative_to(ROOT) for file in files if IS_PROGRAM.search(file.read_text())]
    return sorted(".".join(file.with_suffix("").parts).removesuffix(".__main__") for file in found)


def help_of(module: str, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    main = importlib.import_module(main_of(module).partition(":")[0]).main
    with contextlib.suppress(SystemExit):  # its code is tested with each program
        main([*argv, "--help"])
    return capsys.readouterr().out


def main_of(module: str) -> str:
    return f"{module}.__main__:main" if (ROOT / module.replace(".", "/")).is_dir() else f"{module}:main"


def lines_of(help_: str) -> dict[str, str]:
    """Return the text on each key, flag or subcommand; of `key=value` the key, as `key=`."""
    rows = re.findall(r"^  (\S+?=|\S.*?)(.*?)(?:  +(.*))?$", help_, re.MULTILINE)
    return {name if name.endswith("=") else name + value: text for name, value, text in rows}


def test_every_program_has_a_console_script() -> None:
    assert len(programs()) > 10
    names = {f"nca-{module.rpartition('.')[2]}": main_of(module) for module in [*programs(), "sweeps.copy"]}
    assert names == SCRIPTS


@pytest.mark.parametrize("module", [*(name for name in programs() if name not in HYDRAS), "sweeps.copy"])
def test_every_key_and_subcommand_has_a_line(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = importlib.import_module(main_of(module).partition(":")[0])
    options, subcommands = OPTIONS, {}
    if module != "sweeps.copy":
        options, subcommands = dict(program.COMMAND.options), dict(program.COMMAND.subcommands)
    help_ = help_of(module, capsys)
    assert help_.startswith(f"python -m {module} ")
    assert max(map(len, help_.splitlines())) <= MAX_WIDTH
    assert lines_of(help_) == {**subcommands, **{f"{key}=": text for key, text in options.items()}}
    assert all({**options, **subcommands}.values())


@pytest.mark.parametrize("module", HYDRAS)
@pytest.mark.parametrize(
    "argv",
    [
        ["texture=gray_scott", "model=distill", "loss=sliced", "features=patches"],
        ["texture=image", "texture.path=x.png", "model=munca", "features=vgg16"],
    ],
)
def test_every_value_and_flag_of_a_config_has_a_line(
    module: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    values = flatten(compose_plain(module.rpartition(".")[2], argv))
    lines = lines_of(help_of(module, capsys, *argv))
    keys = [key.removesuffix(".name") for key in values if not key.startswith("search.")]
    assert [key for key in keys if not lines.get(f"{key}=")] == []
    assert {flag: lines.get(flag) for flag in FLAGS_HELP} == FLAGS_HELP
    named = {word for flags in FLAGS_HELP for word in re.findall(r"-[-\w]+", flags)}
    assert named == (OVERRIDE_FLAGS - {"--resolve"}) | {CONFIG_DIR, PLAIN_FLAG, FLAG, VERSION_FLAG}
    if module == "nca.train":
        assert all(lines.get(f"{key}=") for key in RERUN_OPTIONS)


def test_experiments_of_sweeps_alone_are_not_offered_to_a_single_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    offered = {}
    for module in HYDRAS:
        (line,) = (each for each in help_of(module, capsys).splitlines() if each.startswith("  experiment:"))
        offered[module] = set(line.partition(": ")[2].split(", "))
    assert offered["nca.sweep"] - offered["nca.train"] == {"quick", "ten_sets"}
    for name in offered["nca.train"]:
        compose_plain("train", ["texture=roundleaf", f"experiment={name}"])
