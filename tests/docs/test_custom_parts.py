"""The files of docs/custom_parts.md work as they stand there, and its commands run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nca import sweep
from nca.config.schema import custom_classes
from nca.study.plan import make_plans
from nca.training.custom_parts import check_custom_parts
from tests.integration.commands import run_module

SMALL = ["outputs.robustness=false", "train.size=16", "train.drop_steps=[1]", "features=patches"]
TEXT = (Path(__file__).parents[2] / "docs" / "custom_parts.md").read_text()
FILE = re.compile(r"`([\w/]+\.(?:yaml|py))`[^`]*:\n\n```(?:yaml|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def files() -> dict[str, str]:
    return dict(FILE.findall(TEXT))


def commands() -> list[list[str]]:
    others = re.sub(r"^```\w+\n.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```\n(.*?)^```", others, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python ")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with the files of the page, which is the working folder."""
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in files():
        sys.modules.pop(Path(name).stem, None)


def test_every_block_of_the_page_is_a_file_or_a_command() -> None:
    assert len(files()) == len(re.findall(r"^```(?:yaml|python)$", TEXT, re.MULTILINE)) > 1


@pytest.mark.parametrize("argv", [argv for argv in commands() if argv[2] == "nca.sweep"], ids=shlex.join)
def test_every_sweep_is_composed(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main([word for word in argv[3:] if word != "-m"])
    assert "nothing was started; add -m to start" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {name.partition("/")[0] for name in files()}


@pytest.mark.usefixtures("folder")
def test_the_classes_of_the_page_are_sound() -> None:
    (plan,) = make_plans(["--config-dir=mine", "texture=roundleaf", "experiment=leaf", "features=patches"])
    assert custom_classes(plan.config.trial) == {"model": "my_rules.Smooth", "loss": "my_losses.Moments"}
    for config in plan.custom_trials():
        check_custom_parts(config)


@pytest.mark.slow
def test_the_page_runs_from_start_to_end(folder: Path) -> None:
    own = [argv for argv in commands() if argv[2] != "nca.sweep" or "-m" in argv[3:]]
    assert [argv[2] for argv in own] == ["nca.train", "nca.train", "nca.sweep", "nca.render", "nca.train"]
    for argv in own:
        small = [word for word in SMALL if argv[2] != "nca.render"] + ["runs_dir=runs"]
        if argv[2] == "nca.sweep":
            small += ["sweep.n_trials=1", "executor.workers=1", "train.steps=2"]
        if "run=RUN" in argv:
            (file,) = folder.glob("runs/artifacts/leaf/*/artifacts/model.safetensors")
            argv[argv.index("run=RUN")] = f"run={file.parts[-3]}"
            small = ["runs_dir=runs", *(["ca_steps=2"] if argv[2] == "nca.render" else SMALL[:1])]
        words = [re.sub("^train.steps=1000", "train.steps=4", word) for word in argv[3:]]
        done = run_module(argv[2], *words, *small, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "grown.png").exists()
