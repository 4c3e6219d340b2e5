"""A user's own rule and loss through a sweep and what follows: recorded, rendered, loaded, repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

import nca
from nca import render, train
from nca.cli.errors import ConfigError
from tests.custom_parts import (
    BOTH,
    LOSS,
    MEANS,
    RULE,
    SMOOTH,
    custom_folder,
    forget_custom_parts,
    write_custom_parts,
)
from tests.integration.commands import run_module, sweep
from tests.integration.records import copy_records
from tests.templates import build_once

__all__ = ["custom_folder"]

TINY = ["train.steps=2", "train.drop_steps=[1]", "train.max_ca_steps=12", "features=patches", *BOTH]
TINY += ["search=fixed", "model.options.width=8,16", "sweep.study=own", "sweep.n_trials=1"]


@pytest.fixture(scope="module")
def records(shared: Path) -> Path:
    """Return the records of a study of one trial, with what its sweep printed."""

    def make(runs: Path) -> None:
        folder = runs.with_name("own-modules")
        folder.mkdir()
        write_custom_parts(folder)
        done = sweep(runs, *TINY, folder=folder, processes=True)
        (runs / "printed.txt").write_text(done.stdout)

    return build_once(shared / "own-parts", make)


@pytest.fixture
def run(records: Path, custom_folder: Path) -> str:
    """Return the run's id; its records are in `runs` of the working folder."""
    copy_records(records, custom_folder / "runs")
    (file,) = (custom_folder / "runs" / "artifacts" / "own").glob("*/artifacts/model.safetensors")
    return file.parts[-3]


def refuse(program: object, *argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        program.main(argv)  # type: ignore[attr-defined]
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_sweep_records_the_classes_and_ends_with_commands_that_name_them(run: str) -> None:
    files = Path("runs/artifacts/own") / run / "artifacts"
    config = yaml.safe_load((files / "config.yaml").read_text())
    assert (config["model"]["name"], config["loss"]["name"]) == (SMOOTH, MEANS)
    assert config["model"]["options"]["width"] in {8, 16}
    assert not (files / "viewer.html").exists()
    printed = Path("runs/printed.txt").read_text()
    assert f"render: python -m nca.render run={run} model={SMOOTH} size=512" in printed
    assert f"long: python -m nca.train run={run} model={SMOOTH} loss={MEANS} train.steps=4" in printed
    assert "viewer:" not in printed


def test_a_trained_rule_is_loaded_only_if_it_is_named(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"its model is {SMOOTH}, code that is not of this package"):
        nca.load(run, runs_dir="runs")
    trained = nca.load(run, runs_dir="runs", model=SMOOTH)
    assert type(trained.automaton).__name__ == "Smooth"
    assert trained.grow(size=32, ca_steps=2).size == (32, 32)
    assert f"its model is {SMOOTH}" in refuse(
        render, f"run={run}", "runs_dir=runs", "out=a.png", capsys=capsys
    )
    render.main([f"run={run}", "runs_dir=runs", f"model={SMOOTH}", "out=a.png", "size=32", "ca_steps=2"])
    with Image.open("a.png") as picture:
        assert picture.size == (32, 32)
    argv = (f"run={run}", "runs_dir=runs", f"model={SMOOTH}")
    assert f"the viewer cannot run {SMOOTH}; give out=FILE.png" in refuse(render, *argv, capsys=capsys)


def test_a_run_is_repeated_if_its_classes_are_named(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"run={run}", "runs_dir=runs"]
    for words, message in ((given, f"its model is {SMOOTH}"), ([*given, BOTH[0]], f"its loss is {MEANS}")):
        assert message in refuse(train, *words, capsys=capsys)
    write_custom_parts(Path(), rule=RULE.replace("0.1", "0.2"))
    assert "model.hash" in refuse(train, f"run={run}", "runs_dir=runs", *BOTH, capsys=capsys)
    write_custom_parts(Path())
    forget_custom_parts()
    with pytest.raises(SystemExit) as end:
        train.main(["runs_dir=runs", "outputs.robustness=false", f"run={run}", *BOTH])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"repeats run {run}\n" in printed
    before = Path("runs/trials/own/0/outcome.json").read_text()
    assert f'"final_loss": {printed.split("final_loss: ")[1].split()[0][:6]}' in before


@pytest.mark.usefixtures("run")
def test_a_changed_class_is_another_study(custom_folder: Path) -> None:
    write_custom_parts(custom_folder, loss=LOSS + "\n")
    argv = ["-m", "texture=roundleaf", "train.size=16", "outputs.robustness=false", *TINY, "runs_dir=runs"]
    done = run_module("nca.sweep", *argv, folder=custom_folder)
    assert done.returncode == 2
    assert "study 'own' was begun with another config: loss.hash" in done.stderr


def test_a_faulty_class_is_refused_before_anything_is_created(custom_folder: Path) -> None:
    argv = ["texture=roundleaf", "train.size=16", *TINY[:-4], "search=fixed", "runs_dir=new"]
    done = run_module("nca.sweep", "-m", *argv, "model.options.width=8,100", folder=custom_folder)
    assert done.returncode == 2
    assert done.stderr == f"error: model={SMOOTH}: ValueError: too wide (my_rules.py, line 19)\n"
    assert not (custom_folder / "new").exists()
