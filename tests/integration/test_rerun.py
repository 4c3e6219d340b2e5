"""Reruns from records: repeated exactly, continued as if never ended, or with overrides."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from nca.train import main
from tests.integration.conftest import Finished
from tests.integration.records import Records, copy_records
from tests.templates import make_mlflow_database

TINY = (
    "texture=roundleaf",
    "features=random_filters",
    "device=cpu",
    "model.channels=4",
    "model.hidden_channels=8",
    "train.batch_size=1",
    "train.size=16",
    "train.max_ca_steps=6",
    "train.pool_size=8",
    "train.learning_rate=1e-3",
    "train.steps=24",
    "seed=7",
)
N_STEPS, MORE = 24, 40


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put the signal handlers back that a run replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return make_mlflow_database(tmp_path / "runs")


def client_of(runs: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")


def train(runs: Path, *overrides: str) -> Run:
    """Train a run to its end and return its record."""
    client = client_of(runs)

    def find() -> dict[str, Run]:
        known = client.get_experiment_by_name("single-runs")
        found = [] if known is None else client.search_runs([known.experiment_id])
        return {run.info.run_id: run for run in found}

    before = find()
    with pytest.raises(SystemExit, match="0"):
        main([*overrides, "outputs.robustness=false", f"runs_dir={runs}"])
    (new,) = find().keys() - before.keys()
    return find()[new]


def losses(runs: Path, run: Run) -> list[float]:
    history = client_of(runs).get_metric_history(run.info.run_id, "loss")
    found = sorted((metric.step, metric.value) for metric in history)
    assert [step for step, _ in found] == list(range(len(found)))
    return [value for _, value in found]


def test_a_run_is_repeated_exactly(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(runs, *TINY)
    repeated = train(runs, f"run={first.info.run_id}")
    assert f"repeats run {first.info.run_id}\n" in capsys.readouterr().out
    assert losses(runs, repeated) == losses(runs, first)
    assert repeated.data.params == first.data.params
    assert repeated.data.tags["repeats"] == first.info.run_id
    assert repeated.data.metrics["final_loss"] == first.data.metrics["final_loss"]


def test_a_run_is_not_repeated_on_a_picture_that_has_changed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = runs.parent / "leaf.png"
    Image.new("RGB", (16, 16), "green").save(picture)
    first = train(runs, *TINY[1:], "texture=image", f"texture.path={picture}", "train.steps=2")
    Image.new("RGB", (16, 16), "red").save(picture)
    for overrides in ([], ["train.steps=3"]):
        with pytest.raises(SystemExit, match="2"):
            main([f"run={first.info.run_id}", *overrides, f"runs_dir={runs}"])
        assert "its file has changed since" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [True, False])
def test_a_longer_run_continues_as_if_it_had_never_ended(
    runs: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    first = train(runs, *TINY, f"train.keep_checkpoint={str(kept).lower()}")
    capsys.readouterr()
    longer = train(runs, f"run={first.info.run_id}", f"train.steps={MORE}")
    out = capsys.readouterr().out
    run = first.info.run_id
    again = (
        f"trains run {run} again for {MORE} steps, from step 0: it kept no checkpoint, as with train.keep_ch"
    )
    assert (f"continues run {run} from step {N_STEPS}" if kept else again) in out
    assert longer.data.tags["continues"] == first.info.run_id
    (viewer,) = re.findall("^viewer: (.+)$", out, re.MULTILINE)
    assert longer.info.run_id in Path(viewer).read_text()
    assert f"\nrender: python -m nca.render run={longer.info.run_id} size=512" in out
    uninterrupted = train(
        runs, *TINY, f"train.steps={MORE}", f"train.drop_steps=[{N_STEPS // 3}]", "device=auto"
    )
    assert losses(runs, longer)[:N_STEPS] == losses(runs, first)
    assert losses(runs, longer) == losses(runs, uninterrupted)
    trials = runs / "trials" / "single-runs"
    assert not list(trials.glob("*/checkpoints"))


def test_a_continued_run_is_continued_again(runs: Path) -> None:
    first = train(runs, *TINY, "train.keep_checkpoint=true")
    second = train(runs, f"run={first.info.run_id}", "train.steps=30")
    third = train(runs, f"run={second.info.run_id}", f"train.steps={MORE}")
    assert third.data.params["train.drop_steps"] == f"[{N_STEPS // 3}]"
    assert losses(runs, third)[:30] == losses(runs, second)


def test_a_run_without_records_in_mlflow_is_known_by_its_folder(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untracked = ["tracking=none", "outputs.robustness=false", f"runs_dir={runs}"]
    with pytest.raises(SystemExit, match="0"):
        main([*TINY, *untracked])
    (folder,) = (runs / "trials" / "single-runs").iterdir()
    output = capsys.readouterr().out
    config = yaml.safe_load((folder / "artifacts" / "config.yaml").read_text())
    del config["outputs"]
    config["tracking"]["endurance"] = True  # as older versions recorded it
    (folder / "artifacts" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="0"):
        main([f"run={folder}", *untracked])
    repeated = capsys.readouterr().out
    final = re.compile(r"^final_loss: .*$", re.MULTILINE)
    assert final.findall(output) == final.findall(repeated) != []


def test_a_studys_best_configuration_is_trained_on_another_texture(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = copy_records(finished.runs, tmp_path / "runs")
    records = Records(runs, finished.name)
    best, other = records.study.best_trial, (records.study.best_trial.number + 1) % 3
    run = train(runs, f"study={finished.name}", "texture=alocasia", "train.steps=3")
    source = records.children[best.number].info.run_id
    assert run.data.tags["made_from"] == source
    assert run.data.params["texture.name"] == "alocasia"
    assert run.data.params["train.drop_steps"] == "None"
    for key, value in best.params.items():
        assert run.data.params[key] == str(value)
    run = train(runs, f"study={finished.name}", f"trial={other}", "model.update_rate=1.0", "train.steps=3")
    params = records.study.get_trials()[other].params
    assert run.data.params["model.hidden_channels"] == str(params["model.hidden_channels"])
    assert run.data.params["model.update_rate"] == "1.0"


def test_mistakes_are_one_line(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("- 1")
    old = tmp_path / "old"
    old.mkdir()
    recorded = next((finished.runs / "artifacts").glob("*/*/artifacts/config.yaml")).read_text()
    (old / "config.yaml").write_text(re.sub(r"steps: \d+", "steps: many", recorded, count=1))
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.yaml").write_text("train:" + recorded.partition("train:")[2].partition("seed:")[0])
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "config.yaml").write_text("[" * 5000)
    scanned = tmp_path / "scanned"
    scanned.mkdir()
    (scanned / "config.yaml").write_text(recorded.partition("hidden_")[0] + "hidden_")
    endless = tmp_path / "endless"
    endless.mkdir()
    (endless / "config.yaml").symlink_to("/dev/zero")
    cases = (
        (("run=nothing",), "run=nothing: not a path, and not a run in sqlite:///"),
        ((f"run={broken}",), "is not the config of a run"),
        ((f"run={nested}",), "is not the config of a run (maximum recursion depth exceeded"),
        ((f"run={scanned}",), "could not find expected ':'"),
        ((f"run={endless}",), "is not the config of a run (larger than 16 MB)"),
        ((f"run={old}",), "train.steps=many: must be a whole number"),
        ((f"run={cut}",), "is not the config of a run (device is missing, it may be cut off)"),
        (("run=",), "run=: has no value"),
        (("run=x", "study=y"), "give either run=ID, or study=NAME"),
        (("run=x", "trial=1"), "give either run=ID, or study=NAME"),
        (("trial=1",), "give either run=ID, or study=NAME"),
        ((f"study={finished.name}", "trial=9"), "trial 9 is not complete"),
        (("study=nothing",), "study 'nothing': no such study"),
        ((f"study={finished.name}", "experiment=set5"), "experiment=: cannot be given with run= or study="),
        (
            (f"study={finished.name}", "train.stepz=3"),
            "unknown key 'train.stepz', did you mean 'train.steps'?",
        ),
        ((f"study={finished.name}", "model.channels=100"), "model.channels=100"),
    )
    for overrides, message in cases:
        with pytest.raises(SystemExit, match="2"):
            main([*overrides, f"runs_dir={finished.runs}"])
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
