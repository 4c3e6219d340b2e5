"""`python -m nca.train` as a person runs it: one run, stopped and taken up again; mistakes in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image

import nca
from nca.cli.errors import EXIT_INTERRUPTED
from nca.config.schema import FeaturesConfig, ImageTexture, TrialConfig
from nca.tracking.tracker import Tracker
from nca.train import main, run_single
from nca.training.outcome import Listener, Outcome
from tests.builders import mlflow, trial_config
from tests.integration.commands import run_module, start_module, wait_until

TINY = [
    "texture=roundleaf",
    "features=random_filters",
    "tracking=none",
    "outputs.robustness=false",
    "device=cpu",
    "model.channels=4",
    "model.hidden_channels=8",
    "train.size=16",
    "train.max_ca_steps=6",
    "train.pool_size=8",
    "train.learning_rate=1e-4",
]


class Silent:
    """A listener that lets a run go on."""

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        pass

    def show(self, output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        pass

    def report(self, n_steps: int, smoothed: float) -> bool:
        return True

    def interrupt_requested(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False


def refuse(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ending:
        main(argv)
    assert ending.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put the signal handlers back that a run replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("where", ["run.build_trainer", "preflight.load_extractor"])
@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
@pytest.mark.usefixtures("handlers")
def test_a_run_without_enough_memory_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    error: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"nca.training.{where}", fail)
    line = refuse([*TINY, f"runs_dir={tmp_path}"], capsys)
    given = "train.batch_size=2, train.size=16, train.max_ca_steps=6, train.pool_size=8"
    assert line == f"error: out of memory with {given}: give smaller ones, or train.recompute=true\n"


def test_a_pool_larger_than_the_memory_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuse([*TINY, "train.pool_size=1000000000000", f"runs_dir={tmp_path / 'runs'}"], capsys)
    assert re.match(r"error: train\.pool_size=1000000000000, .*: a run needs more than 4,096,000\.0 GB", line)
    assert list(tmp_path.iterdir()) == []


def test_one_tiny_run(tmp_path: Path) -> None:
    done = run_module("nca.train", *TINY, "train.steps=5", f"runs_dir={tmp_path}", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^step 5/5 loss [0-9.e-]+$", done.stdout, re.MULTILINE)
    assert re.search(r"^final_loss: [0-9.e-]+$", done.stdout, re.MULTILINE)
    (folder,) = (tmp_path / "trials" / "single-runs").iterdir()
    assert re.fullmatch(r"roundleaf-srnca-random_filters-[0-9a-f]{12}", folder.name)
    assert (
        f"\ncomplete: {folder / 'output.png'}\nviewer: {folder / 'artifacts' / 'viewer.html'}\n"
        in done.stdout
    )
    assert (folder / "artifacts" / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("model", "loss", "features"),
    [
        ("srnca", "gram", "random_filters"),
        ("srnca", "sliced", "patches"),
        ("distill", "gram", "random_filters"),
        ("distill", "sliced", "patches"),
        ("munca", "sliced", "patches"),
        ("munca", "sliced", "random_filters"),
    ],
)
def test_every_rule_trains_with_its_own_settings(
    model: str, loss: str, features: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "auto" if features == "patches" else features  # auto: patches with the sliced loss
    chosen = [f"model={model}", f"loss={loss}", f"features={given}"]
    argv = ["texture=roundleaf", *chosen, "tracking=none", "outputs.robustness=false", "device=cpu"]
    small = ["model.channels=4", "train.size=16", "train.steps=9", f"runs_dir={tmp_path}"]
    with pytest.raises(SystemExit, match="0"):
        main([*argv, *small])
    out = capsys.readouterr().out
    found = dict(re.findall(r"^(final_loss|final_distance): ([0-9.e+-]+)$", out, re.MULTILINE))
    assert float(found["final_loss"]) > 0
    assert found.keys() == {"final_loss", "final_distance"}
    (folder,) = (tmp_path / "trials" / "single-runs").iterdir()
    name = "-".join(["roundleaf", model, *(["sliced"] if loss == "sliced" else []), features])
    assert re.fullmatch(rf"{name}-[0-9a-f]{{12}}", folder.name)
    trained = nca.load(folder)
    assert (trained.config.model.name, trained.config.loss.name) == (model, loss)
    assert trained.config.train.keep == ("last" if model == "srnca" else "best")
    assert trained.grow(size=32).size == (32, 32)


def test_ctrl_c_stops_and_the_same_command_goes_on_to_the_same_loss_but_not_twice_at_once(
    tmp_path: Path,
) -> None:
    argv = [*TINY, "train.steps=120", "train.checkpoint_every=20", "train.checkpoint_every_s=0"]
    whole = run_module("nca.train", *argv, f"runs_dir={tmp_path / 'whole'}", folder=tmp_path)
    final = [line for line in whole.stdout.splitlines() if line.startswith("final_loss")]
    assert len(final) > 1

    argv.append(f"runs_dir={tmp_path / 'runs'}")
    errors = tmp_path / "errors.txt"
    process = start_module("nca.train", *argv, folder=tmp_path, errors=str(errors))
    wait_until(lambda: bool(list((tmp_path / "runs").rglob("*.safetensors"))), process)
    process.send_signal(signal.SIGSTOP)  # it holds its folder meanwhile, and its steps
    twin = run_module("nca.train", *argv, folder=tmp_path)
    assert twin.returncode == 2
    line = rf"error: /.*: process {process.pid} trains this run; wait for it, or stop it\n"
    assert re.fullmatch(line, twin.stderr)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    found = re.fullmatch(
        r"interrupted after step (\d+); run the same command to resume\n", errors.read_text()
    )
    assert found is not None, errors.read_text()
    assert 0 <= int(found[1]) < 119
    (kept,) = (tmp_path / "runs").rglob(f"{int(found[1]) + 1:08d}.safetensors")
    assert kept.parent.name == "checkpoints"

    resumed = run_module("nca.train", *argv, folder=tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert [line for line in resumed.stdout.splitlines() if line.startswith("final_loss")] == final
    assert not kept.exists()


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.usefixtures("handlers")
def test_a_closed_terminal_interrupts_a_run_unless_nohup_ignores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ignored: bool
) -> None:
    def close_terminal(config: TrialConfig, folder: Path, tracker: Tracker, listener: Listener) -> Outcome:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        return Outcome("interrupted" if listener.interrupt_requested() else "complete", 3, {}, None)

    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    monkeypatch.setattr("nca.training.run.train", close_terminal)
    assert run_single(trial_config(tmp_path)) == (0 if ignored else EXIT_INTERRUPTED)
    assert ("interrupted after step 2" in capsys.readouterr().err) != ignored


@pytest.mark.usefixtures("handlers")
def test_a_single_run_is_recorded_in_an_experiment_of_its_own(
    tmp_path: Path, mlflow_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trial_config(tmp_path, uri=mlflow_uri, train={"steps": 2})
    assert run_single(config) == 0
    out = capsys.readouterr().out
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("single-runs")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("roundleaf-srnca-random_filters-")
    assert f"final_loss: {run.data.metrics['final_loss']:.6g}\n" in out


@pytest.mark.usefixtures("handlers")
def test_what_changes_a_result_gets_a_folder_of_its_own(tmp_path: Path, mlflow_uri: str) -> None:
    config = trial_config(tmp_path, train={"steps": 1})
    same = [config, replace(config, device="auto"), replace(config, tracking=mlflow(mlflow_uri))]
    other = [replace(config, seed=9), replace(config, model=replace(config.model, update_rate=0.7))]
    for each in same + other:
        assert run_single(each) == 0
    assert len(list((tmp_path / "trials" / "single-runs").iterdir())) == 3


@pytest.mark.usefixtures("handlers")
def test_features_are_resolved_before_the_run_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("nca.loss.vgg_weights._can_download", lambda: False)
    config = trial_config(tmp_path, train={"steps": 1}, features=FeaturesConfig("auto"))
    assert run_single(config) == 0
    (folder,) = (tmp_path / "trials" / "single-runs").iterdir()
    assert folder.name.startswith("roundleaf-srnca-random_filters-")


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_sweeps_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refuse([flag, "texture=roundleaf", "model.channels=6,9"], capsys)
    assert error == "error: nca.train -m: nca.train trains one run; a sweep is python -m nca.sweep -m\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'texture' is missing: give texture=NAME, one of alocasia"),
        (["texture=roundlef"], "texture=roundlef: must be one of .*, did you mean 'roundleaf'"),
        (["texture=roundleaf", "train.step=3"], "unknown key 'train.step', did you mean 'train.steps'"),
        (
            ["texture=roundleaf", "train.size=20"],
            "train.size=20: must be a whole number, a multiple of 16",
        ),
        (["texture=roundleaf", "model.channels=6,9"], "model.channels"),
        (["texture=roundleaf", "sampler=tpe"], "'sampler' is no part of nca.train"),
        (["texture=roundleaf", "device=gpu"], "device=gpu: must be auto, cuda, cuda:N or cpu"),
        (["texture=image", "texture.path=no.png"], "no.png does not exist"),
    ],
)
def test_mistakes_are_one_line_and_create_nothing(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.match(f"error: .*({message})", refuse(argv, capsys))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("-m", 2),
        ("texture=nope", 2),
        ("--help", 0),
        ("--help texture=alocasia", 0),
        ("--help texture=nope", 2),
        ("--cfg job texture=roundleaf", 0),
        ("--cfg job", 2),
        ("--run texture=roundleaf", 2),
    ],
)
def test_what_trains_nothing_loads_neither_torch_nor_mlflow(line: str, code: int, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nca.train", *line.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.returncode == code
    assert "Traceback" not in run.stderr
    assert not re.search(r"\| +(torch|mlflow|optuna)$", run.stderr, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("handlers")
def test_a_long_file_name_fits_into_that_of_the_folder(tmp_path: Path) -> None:
    file = tmp_path / f"{'ж' * 120}.png"
    Image.effect_noise((32, 32), 60).save(file)
    texture = ImageTexture(name="image", source="file", path=str(file))
    assert run_single(trial_config(tmp_path / "runs", texture=texture, train={"steps": 1})) == 0
    (folder,) = (tmp_path / "runs" / "trials" / "single-runs").iterdir()
    assert folder.name.startswith("ж" * 100 + "-")
