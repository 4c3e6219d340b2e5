"""Bad input at the real entry points: one line on stderr, exit code 2, and nothing created."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nca import sweep, train
from tests.builders import vgg_weights
from tests.integration.commands import SMALL, listing, run_module

MAINS = {"nca.sweep": sweep.main, "nca.train": train.main}
VGG = ("features=vgg16", "features.weights={files}/")

# By name: the arguments, and what the line must match. `{files}` is the folder of the fixture below.
CASES = {
    "unknown texture": (
        ("texture=roundlef",),
        r"texture=roundlef: must be one of alocasia, gray_scott, image, orchid_petal, .*roundleaf",
    ),
    "no texture": ((), r"'texture' is missing: give texture=NAME, one of alocasia, .*snake_plant"),
    "missing image": (("texture=image", "texture.path={files}/no.png"), r"/no\.png does not exist"),
    "no path of an image": (("texture=image",), r"'texture\.path' is missing: give texture\.path=VALUE"),
    "empty image": (("texture=image", "texture.path={files}/empty.png"), r"/empty\.png is empty"),
    "truncated image": (
        ("texture=image", "texture.path={files}/truncated.png"),
        r"/truncated\.png is damaged or cut off: \S",
    ),
    "one pixel": (
        ("texture=image", "texture.path={files}/pixel.png"),
        r"/pixel\.png is 1 x 1 px: a texture needs at least 16 px",
    ),
    "text as an image": (
        ("texture=image", "texture.path={files}/text.png"),
        r"/text\.png is not an image that Pillow can read",
    ),
    "folder without an image": (
        ("texture=image", "texture.path={files}/none"),
        r"/none:? (is )?a folder",
    ),
    "crop out of an image": (
        ("texture=image", "texture.path={files}/small.png", "texture.crop=[20,0,16,16]"),
        r"texture\.crop=\[20,0,16,16\]: reaches out of .*/small\.png, which is 32 x 32 px; must be",
    ),
    "misspelt key": (
        ("texture=roundleaf", "train.stesp=3"),
        r"unknown key 'train\.stesp'.*train\.steps",
    ),
    "misspelt group": (("texture=roundleaf", "modle=distill"), r"unknown key 'modle'.*model"),
    "too large": (
        ("texture=roundleaf", "model.filters=21"),
        r"model\.filters=21: must be a whole number, 1 to 20",
    ),
    "not above zero": (
        ("texture=roundleaf", "train.learning_rate=0"),
        r"train\.learning_rate=0(\.0)?: must be a number, in \(0, 1\]",
    ),
    "no multiple": (
        ("texture=roundleaf", "train.size=20"),
        r"train\.size=20: must be .*a multiple of 16, 16 to",
    ),
    "wrong type": (
        ("texture=roundleaf", "train.steps=many"),
        r"train\.steps=many: must be a whole number",
    ),
    "unknown choice": (
        ("texture=roundleaf", "train.precision=fp8"),
        r"train\.precision=fp8: must be one of fp32, tf32, bf16",
    ),
    "unreadable override": (
        ("texture=roundleaf", "model.channels"),
        r"'model\.channels' cannot be read as key=value",
    ),
    "missing weights": (
        (*SMALL[:1], VGG[0], VGG[1] + "no.pth"),
        r"features\.weights=.*/no\.pth: no such file",
    ),
    "corrupt weights": (
        (*SMALL[:1], VGG[0], VGG[1] + "corrupt.pth"),
        r"features\.weights=.*/corrupt\.pth: not a readable state dict",
    ),
    "corrupt safetensors": (
        (*SMALL[:1], VGG[0], VGG[1] + "corrupt.safetensors"),
        r"features\.weights=.*/corrupt\.safetensors: not a readable state dict",
    ),
    "weights of something else": (
        (*SMALL[:1], VGG[0], VGG[1] + "other.safetensors"),
        r"features\.weights=.*other\.safetensors: features\.0\.weight or \.bias is missing",
    ),
    "weights that do not fit": (
        (*SMALL[:1], VGG[0], VGG[1] + "misfit.safetensors"),
        r"features\.weights=.*misfit\.safetensors: features\.2\.weight has shape .*must be \(n, 2, 3, 3\)",
    ),
    "a GPU that is not there": ((*SMALL, "device=cuda:99"), r"device=cuda:99: \d+ CUDA devices found here"),
    "unknown device": ((*SMALL, "device=tpu"), r"device=tpu: must be auto, cuda, cuda:N or cpu"),
    "runs_dir below a file": (
        (*SMALL, "runs_dir=/dev/null/runs"),
        r"runs_dir=/dev/null/runs: /dev/null is not a",
    ),
    "runs_dir in /proc": ((*SMALL, "runs_dir=/proc/runs"), r"runs_dir=/proc/runs: /proc is not writable"),
    "unknown tracking address": (
        (*SMALL, "tracking.uri=nosuch://x"),
        r"tracking\.uri=nosuch://x: must begin with one of sqlite://",
    ),
    "tracking address of an image": (
        (*SMALL, "tracking.uri=sqlite:///{files}/text.png"),
        r"tracking\.uri=sqlite:////.*/text\.png: file is not a database",
    ),
    "tracking address of another database": (
        (*SMALL, "tracking.uri=sqlite:///{files}/other.db"),
        r"other\.db: the database of another program; give another file",
    ),
    "tracking address without a scheme": (
        (*SMALL, "tracking.uri=mlflow.db"),
        r"tracking\.uri=mlflow\.db: must",
    ),
}
SWEEP_CASES = {
    "empty choice": ((*SMALL, "model.channels=choice()"), r"model\.channels=choice\(\): an empty domain"),
    "empty interval": (
        (*SMALL, "model.update_rate=interval(0.9, 0.5)"),
        r"model\.update_rate: interval\(0\.9, 0\.5\) is empty",
    ),
    "option out of range": ((*SMALL, "model.channels=6,65"), r"model\.channels=65: must be a whole number"),
    "option of the wrong type": ((*SMALL, "model.channels=6,many"), r"model\.channels=many: must be a whole"),
    "misspelt domain": ((*SMALL, "model.chanels=6,9"), r"unknown key 'model\.chanels'.*model\.channels"),
    "not to be searched": ((*SMALL, "train.steps=6,9"), r"train\.steps cannot be searched, only .*model\."),
    "grid over an interval": (
        (*SMALL, "sampler=grid"),
        r"sampler=grid needs choices or ranges, and model\.update_rate is an interval",
    ),
    "unknown sampler": ((*SMALL, "sampler=tpu"), r"sampler=tpu: must be one of .*tpe"),
    "two samplers": ((*SMALL, "sampler=tpe,random"), r"sampler=tpe,random: takes one name"),
    "one name for two studies": (
        (*SMALL[1:], "texture=roundleaf,alocasia", "sweep.study=mine"),
        r"sweep\.study=mine: one name for 2 studies",
    ),
    "a warm start from nothing": (
        (*SMALL, "sweep.warm_start=nothing"),
        r"sweep\.warm_start=nothing: no such study; there are: none",
    ),
    "a name that reads as a flag": ((*SMALL, "sweep.study=-x"), r"sweep\.study='-x': must be a name of"),
    "a name that is too long": (
        (*SMALL, f"sweep.study={'x' * 300}"),
        r"sweep\.study='x+'\.\.\.: must be a name",
    ),
    "no trials": ((*SMALL, "sweep.n_trials=0"), r"sweep\.n_trials=0: must be a whole number, 1 or more"),
    "unknown storage": (
        (*SMALL, "sweep.storage=nosuch://x"),
        r"sweep\.storage=nosuch://x: cannot be opened \(.*nosuch",
    ),
    "no storage address": ((*SMALL, "sweep.storage=optuna"), r"sweep\.storage=optuna: cannot be opened \("),
}
ALL = [
    *(("nca.sweep", name, *case) for name, case in {**CASES, **SWEEP_CASES}.items()),
    *(("nca.train", name, *case) for name, case in CASES.items()),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images and weights that are no use."""
    folder = tmp_path_factory.mktemp("files")
    Image.effect_noise((32, 32), 60).convert("RGB").save(folder / "truncated.png")
    whole = (folder / "truncated.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "empty.png").touch()
    (folder / "none").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "small.png")
    with contextlib.closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("create table something (id integer)")
    (folder / "text.png").write_text("no image " * 100)
    for name in ("corrupt.pth", "corrupt.safetensors"):
        (folder / name).write_bytes(b"no weights at all " * 100)
    save_file({"linear.weight": torch.zeros(2, 2)}, folder / "other.safetensors")
    misfit = vgg_weights()
    misfit["features.2.weight"] = torch.zeros(2, 5, 3, 3)
    save_file(misfit, folder / "misfit.safetensors")
    return folder


def check_refusal(returncode: object, error: str, message: str) -> None:
    assert returncode == 2
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    assert error.startswith("error: ")
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("module", "argv", "message"),
    [(module, argv, message) for module, _, argv, message in ALL],
    ids=[f"{module}-{name}" for module, name, *_ in ALL],
)
def test_bad_input_is_refused_in_one_line(
    module: str,
    argv: tuple[str, ...],
    message: str,
    files: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    runs = tmp_path / "runs"
    given = [argument.replace("{files}", str(files)) for argument in argv]
    if not any(argument.startswith("runs_dir=") for argument in given):
        given.append(f"runs_dir={runs}")
    if module == "nca.sweep":
        given.insert(0, "-m")
    monkeypatch.setattr(sys, "argv", [module])  # Hydra reads it
    before = listing(files)
    with pytest.raises(SystemExit) as end:
        MAINS[module](given)
    check_refusal(end.value.code, capfd.readouterr().err, message)
    assert listing(tmp_path) == [folder.name]
    assert listing(files) == before


@pytest.mark.parametrize(
    ("module", "argv", "message"),
    [
        ("nca.sweep", ("-m", "texture=roundlef"), r"texture=roundlef: must be one of"),
        (
            "nca.sweep",
            ("-m", *SMALL, "device=cuda"),
            r"device=cuda: 0 CUDA devices found here; use device=cpu",
        ),
        (
            "nca.sweep",
            ("-m", *SMALL, "sweep.storage=nosuch://x"),
            r"sweep\.storage=nosuch://x: cannot be opened",
        ),
        ("nca.sweep", (*SMALL, "model.chanels=6,9"), r"unknown key 'model\.chanels'.*model\.channels"),
        ("nca.train", ("texture=image", "texture.path=no.png"), r"no\.png does not exist"),
        ("nca.train", ("-m", *SMALL), r"nca\.train trains one run; a sweep is python -m nca\.sweep -m"),
    ],
)
def test_bad_input_ends_the_process(
    module: str,
    argv: tuple[str, ...],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that device=cuda is wrong on every machine
    done = run_module(module, *argv, f"runs_dir={tmp_path / 'runs'}", folder=folder)
    check_refusal(done.returncode, done.stderr, message)
    assert listing(tmp_path) == [folder.name]
