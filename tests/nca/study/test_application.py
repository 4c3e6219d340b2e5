"""A trial of a texture sweep, as the engine runs it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from nca.config.schema import TrialConfig
from nca.outputs.contact_sheet import GAP_PX, SIDE_PX
from nca.study.application import TextureSweep
from nca.training.outcome import Outcome
from sweeps.assignment import PICTURE_FILE, TARGET_FILE
from sweeps.running_trial import RunningTrial
from tests.builders import trial_config

ENDED_AT = datetime(2026, 1, 2, 3, 4, 5)


class Trial(RunningTrial):
    """A trial without a study."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder, self.links, self.low_memory, self.first_attempt = folder, {}, False, 0
        self.study_name, self.number = "leaf", 0
        settings = {
            "objectives": ["final_loss"],
            "repeats": 1,
            "space": {"model.channels": "choice(9, 12)"},
            "storage": "sqlite:///optuna.db",
        }
        self.n_seen, self.interrupt_in, self.cancel_in = 0, 10**6, 10**6
        self.config: dict[str, Any] = asdict(trial_config(folder, uri=uri)) | {"sweep": settings}

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        self.n_seen += 1

    def report(self, n_steps: int, value: float) -> bool:
        return True

    def interrupt_requested(self) -> bool:
        return self.n_seen >= self.interrupt_in

    def cancelled(self) -> bool:
        return self.n_seen >= self.cancel_in


@pytest.mark.slow
@pytest.mark.parametrize("tracked", [True, False])
def test_a_trial_finds_loaded_what_it_needs(tracked: bool, mlflow_uri: str, tmp_path: Path) -> None:
    small = ["texture=roundleaf", "features=random_filters", "train.size=16", "train.steps=2"]
    overrides = [*small, "outputs.robustness=false", f"runs_dir={tmp_path}"]
    overrides.append(f"tracking.uri={mlflow_uri}" if tracked else "tracking=none")
    program = (
        "import sys, nca.study.application, nca.train\n"
        f"nca.study.application.{'TextureSweep' if tracked else 'UntrackedSweep'}().warm_up()\n"
        "before = set(sys.modules)\n"
        f"try:\n    nca.train.main({overrides!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('loaded:', *(set(sys.modules) - before))\n"
        "print('mlflow:', 'mlflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded, _, mlflow = done.stdout.rpartition("loaded:")[2].partition("mlflow: ")
    late = [name.partition(".")[0] for name in loaded.split()]
    assert not {"torch", "matplotlib", "pandas"} & set(late)
    assert late.count("mlflow") + late.count("sqlalchemy") + late.count("alembic") < 30  # of hundreds
    assert mlflow.strip() == str(tracked)


def test_a_low_memory_trial_recomputes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrialConfig] = []

    def train(config: TrialConfig, folder: Path, *_: object) -> Outcome:
        seen.append(config)
        return Outcome("complete", 1, {"final_loss": 0.5}, None)

    monkeypatch.setattr("nca.study.repeats.train", train)
    trial = Trial(tmp_path)
    assert TextureSweep().run(trial).values == [0.5]
    trial.low_memory = True
    trial.config["train"]["cuda_graph"] = True  # refused beside recomputation
    assert TextureSweep().run(trial).values == [0.5]
    assert [(c.train.recompute, c.train.cuda_graph) for c in seen] == [(False, False), (True, False)]


def test_a_trial_that_nobody_wants_ends_with_its_loss_and_picture(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.cancel_in = 2
    result = TextureSweep().run(trial)
    assert (result.reason, result.values) == ("stopped", ())
    assert result.attributes["n_steps"] == 2
    assert result.attributes["last_loss"] > 0
    assert "final_loss" not in result.attributes
    assert [picture.exists() for picture in result.pictures] == [True]


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_trial_writes_its_output_so_far_and_its_target(tmp_path: Path, repeats: int) -> None:
    trial = Trial(tmp_path)
    trial.config["sweep"]["repeats"] = repeats
    trial.interrupt_in = 3
    assert TextureSweep().run(trial).reason == "interrupted"
    for name in (PICTURE_FILE, TARGET_FILE):
        with Image.open(tmp_path / name) as image:
            assert image.height == 16


def test_only_want_of_memory_is_recorded_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        def train(*_: object) -> Outcome:
            raise error

        monkeypatch.setattr("nca.study.repeats.train", train)

    fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."))
    result = TextureSweep().run(Trial(tmp_path))
    assert (result.reason, result.values) == ("out_of_memory", ())
    assert result.attributes["error"] == "CUDA out of memory. Tried to allocate 2.00 GiB."
    fail(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        TextureSweep().run(Trial(tmp_path))


def test_a_configuration_is_trained_once_per_seed_and_its_objectives_are_means(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.first_attempt = 2
    trial.config["sweep"] = {"objectives": ["final_loss", "n_parameters"], "repeats": 3}
    result = TextureSweep().run(trial)
    single = Trial(tmp_path / "single")
    single.config["seed"] = trial.config["seed"] + 1
    alone = TextureSweep().run(single)
    losses = result.attributes["final_loss_of_seeds"]
    assert len(set(losses)) == 3
    assert losses[1] == alone.values[0]
    assert result.values == [pytest.approx(sum(losses) / 3), alone.attributes["n_parameters"]]
    assert result.attributes["final_loss_sd"] == pytest.approx(torch.tensor(losses).std().item(), rel=1e-4)
    assert result.attributes["n_steps"] == 3 * alone.attributes["n_steps"]
    assert result.pictures == [tmp_path / "target_and_output.png"]
    with Image.open(result.pictures[0]) as picture:  # the target and the output of each seed
        assert picture.width == 4 * (SIDE_PX + GAP_PX) + GAP_PX
    assert (tmp_path / "output.png").exists()


def test_seeds_that_are_done_are_not_trained_again(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.config["sweep"] = {"objectives": ["final_loss"], "repeats": 2}
    whole = TextureSweep().run(trial)
    second = Trial(tmp_path / "second")
    second.config["sweep"] = trial.config["sweep"]
    second.interrupt_in = 14  # fetched steps: in the second seed's run, which has 12
    stopped = TextureSweep().run(second)
    assert stopped.reason == "interrupted"
    second.interrupt_in = 10**6
    resumed = TextureSweep().run(second)
    assert second.n_seen < 2 * 12 + 2
    assert resumed.values == whole.values


def test_a_trial_whose_worker_died_before_it_recorded_the_end_is_not_trained_again(
    tmp_path: Path, mlflow_uri: str
) -> None:
    trial = Trial(tmp_path, uri=mlflow_uri)
    trial.links = TextureSweep().open_study("leaf", trial.config | {"links": {}, "uid": "ours"}, nullcontext)
    trial.folder = tmp_path / "trial"
    first = TextureSweep().run(trial)
    again = Trial(tmp_path, uri=mlflow_uri)
    again.links, again.number = trial.links, 1
    again.folder = trial.folder
    second = TextureSweep().run(again)
    assert again.n_seen == 0
    assert (second.reason, second.values, second.pictures) == ("complete", first.values, first.pictures)
    assert second.attributes == first.attributes
    client = MlflowClient(mlflow_uri)
    runs = client.search_runs([trial.links["mlflow_experiment_id"]])
    (run,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert (run.info.status, run.data.tags["optuna_trial"]) == ("FINISHED", "1")
    assert "final_loss" in run.data.metrics
    for name in run.data.metrics.keys() - {"loss"}:
        assert len(client.get_metric_history(run.info.run_id, name)) == 1, name


def test_a_study_has_its_metrics_once_and_its_end_however_often_its_sweep_is_repeated(
    tmp_path: Path, mlflow_uri: str
) -> None:
    trial, application = Trial(tmp_path, uri=mlflow_uri), TextureSweep()
    config, links = {**trial.config, "sweep": trial.config["sweep"] | {"study": "leaf"}}, dict[str, str]()
    for _ in range(2):
        links = application.open_study("leaf", config | {"links": links, "uid": "ours"}, nullcontext)
        application.close_study(config, links, {"n_trials": 3.0, "best_value": 0.5}, ENDED_AT)
    client = MlflowClient(mlflow_uri)
    info = client.get_run(links["mlflow_run_id"]).info
    assert (info.status, info.end_time) == ("FINISHED", ENDED_AT.timestamp() * 1000)
    for name in ("n_trials", "best_value"):
        assert len(client.get_metric_history(links["mlflow_run_id"], name)) == 1
