"""One training run from config to outcome: records, files and continuation."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from nca.automaton.model import Automaton
from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig, ImageTexture, LossConfig, OutputsConfig, TrialConfig
from nca.config.validation import build, flatten
from nca.loss.gram import GramLoss
from nca.loss.sliced import SlicedLoss
from nca.outputs.grown import Grown
from nca.outputs.pictures import save_growth, to_pixels
from nca.tracking.tracker import MlflowTracker, Tracker
from nca.training.outcome import Outcome
from nca.training.run import (
    MIN_OUTPUT_UPDATES,
    build_trainer,
    is_picture_step,
    output_budget,
    peak_memory_mb,
    train,
)
from nca.training.trainer import FETCH_EVERY, StepRecord, Trainer, smoothed_loss
from tests.builders import (
    CPU,
    GRAM,
    PATCHES,
    RULES,
    SLICED,
    train_config,
    trial_config,
    vgg_weights,
)
from tests.recorded import STEPS, FakeListener, Recorded

FILES = {
    "output.png",
    "output_large.png",
    "target.png",
    "growth.gif",
    "loss.png",
    "model.safetensors",
    "config.yaml",
    "viewer.html",
}
OF_COMPLETE_RUNS = {"stages.png", "healing.gif"}


# How the published rules with a free state are trained: conf/train/distill.yaml.
AS_PUBLISHED: dict[str, Any] = {
    "loss": SLICED,
    "features": PATCHES,
    "train": {
        "drop_steps": [5, 10],
        "min_ca_steps": 2,
        "overflow_weight": 1.0,
        "gradient_per_ca_step": True,
        "optimizer": "soap",
        "damage_every": 3,
        "warmup_steps": 2,
        "keep": "best",
    },
}


@pytest.fixture
def recorded(tmp_path: Path, mlflow_uri: str) -> Recorded:
    return Recorded(tmp_path, mlflow_uri)


def train_untracked(config: TrialConfig, folder: Path, listener: FakeListener | None = None) -> Outcome:
    return train(config, folder, Tracker(), listener or FakeListener())


def test_a_complete_run_is_recorded(recorded: Recorded) -> None:
    listener = FakeListener()
    outcome = recorded.train(listener)
    losses = list(listener.losses.values())
    assert (outcome.reason, outcome.n_steps) == ("complete", STEPS)
    assert list(listener.losses) == list(range(1, STEPS + 1))
    assert recorded.losses == losses

    run = recorded.run
    assert run.info.status == "FINISHED"
    assert run.data.params == {key: str(v) for key, v in flatten(yaml_of(recorded)).items()}
    assert run.data.tags["reason"] == "complete"
    assert len(run.data.tags["features.hash"]) == 64
    assert len(run.data.tags["texture.hash"]) == 64
    assert run.data.tags.keys() >= {"git_commit", "version.torch", "host"}
    assert recorded.image_steps == [0, 1, 3, 7, 11]
    assert recorded.artifacts >= FILES

    metrics = outcome.metrics
    assert metrics["final_loss"] == losses[-1]
    assert metrics["final_loss_median"] == smoothed_loss(losses)
    energy = float(build_trainer(recorded.config, CPU).texture_loss.energy)
    assert metrics["final_loss_relative"] == pytest.approx(losses[-1] / energy)
    assert metrics["final_distance"] >= metrics["distance_at_1000"] > 0
    assert metrics["seconds_per_step"] > 0
    assert metrics["peak_memory_mb"] > 10
    assert metrics["n_parameters"] == 4 * 6 * 8 + 8 * 4
    assert {key: run.data.metrics[key] for key in metrics} == metrics
    (final,) = recorded.client.get_metric_history(recorded.run_id, "final_loss")
    assert final.step == STEPS - 1


def yaml_of(recorded: Recorded) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(recorded.path_of("config.yaml").read_text())
    assert build(TrialConfig, values) == recorded.config
    return values


def test_a_complete_run_leaves_its_output_and_outcome_and_nothing_else(recorded: Recorded) -> None:
    outcome = recorded.train()
    assert outcome.picture == recorded.folder / "output.png"
    assert {path.name for path in recorded.folder.iterdir()} == {
        "outcome.json",
        "output.png",
        "target.png",
    }
    assert Outcome.load(recorded.folder) == outcome
    assert outcome.run_id == recorded.run_id
    with Image.open(outcome.picture) as image:
        assert image.size == (16 + 2 + 16, 16)


def test_the_next_run_in_the_same_folder_is_a_new_one(recorded: Recorded) -> None:
    recorded.train()
    first = recorded.run_id
    recorded.train()
    assert recorded.run_id != first
    assert len(recorded.losses) == STEPS


@pytest.mark.parametrize("rule", RULES)
def test_without_a_tracker_the_files_stay_in_the_folder(tmp_path: Path, rule: str) -> None:
    config = trial_config(tmp_path, rule=rule)
    config = replace(config, outputs=OutputsConfig(robustness=True))
    outcome = train_untracked(config, tmp_path / "trial")
    assert outcome.reason == "complete"
    assert {path.name for path in (tmp_path / "trial").iterdir()} == {
        "artifacts",
        "outcome.json",
        "output.png",
        "target.png",
    }
    files = tmp_path / "trial" / "artifacts"
    assert {path.name for path in files.iterdir()} == FILES | OF_COMPLETE_RUNS
    assert {"final_distance", "distance_at_3000", "distance_after_damage"} <= set(outcome.metrics)
    sizes = {"target.png": (16, 16), "output_large.png": (64, 64), "growth.gif": (256, 256)}
    for name, size in sizes.items():
        with Image.open(files / name) as image:
            assert image.size == size
    assert load_file(files / "model.safetensors")["kernels"].shape == ({"srnca": 6}.get(rule, 4), 3, 3)


def test_a_pruned_run_is_killed_and_keeps_its_files(recorded: Recorded) -> None:
    listener = FakeListener(prune_at=4)
    outcome = recorded.train(listener)
    assert (outcome.reason, outcome.n_steps) == ("pruned", 4)
    assert outcome.picture is not None
    assert outcome.picture.exists()
    assert recorded.run.info.status == "KILLED"
    assert recorded.run.data.tags["reason"] == "pruned"
    assert recorded.losses == list(listener.losses.values())
    assert len(recorded.losses) == 4
    assert recorded.artifacts >= FILES
    assert not recorded.artifacts & OF_COMPLETE_RUNS
    metrics = recorded.run.data.metrics
    assert "distance_at_3000" not in metrics
    assert metrics["last_distance"] == outcome.metrics["last_distance"] > 0
    assert metrics["last_loss"] == outcome.metrics["last_loss"] == recorded.losses[-1]
    assert metrics["last_loss_median"] == smoothed_loss(recorded.losses)
    assert metrics["seconds_per_step"] > 0
    assert metrics.keys().isdisjoint({"final_loss", "final_distance"})
    assert not (recorded.folder / "checkpoints").exists()
    assert not (recorded.folder / "run_id").exists()


def test_reports_are_the_smoothed_losses_but_not_the_last(tmp_path: Path) -> None:
    listener = FakeListener()
    train_untracked(trial_config(tmp_path), tmp_path / "trial", listener)
    losses = list(listener.losses.values())
    assert list(listener.reports) == list(range(1, STEPS))
    assert all(value == smoothed_loss(losses[:n]) for n, value in listener.reports.items())


def test_outputs_and_target_are_shown_as_training_goes_on(tmp_path: Path) -> None:
    listener = FakeListener()
    train_untracked(trial_config(tmp_path), tmp_path / "trial", listener)
    n_recorded = sum(is_picture_step(step, STEPS) for step in range(STEPS))
    assert len(listener.shown) == len(listener.reports) + n_recorded
    for name, shown in zip(("output.png", "target.png"), listener.shown[-1], strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "trial" / name)), shown)
    assert not np.array_equal(listener.shown[0][0], listener.shown[-1][0])


def test_of_losses_fetched_together_the_last_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FETCH_EVERY, "cpu", 5)
    listener = FakeListener()
    train_untracked(trial_config(tmp_path), tmp_path / "trial", listener)
    assert list(listener.losses) == [5, 10, STEPS]
    assert list(listener.reports) == [5, 10]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [*((rule, {}) for rule in RULES), ("distill", AS_PUBLISHED), ("munca", AS_PUBLISHED)],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    tmp_path: Path, mlflow_uri: str, rule: str, changes: dict[str, Any]
) -> None:
    whole = Recorded(tmp_path / "whole", mlflow_uri, rule=rule, **changes)
    expected = whole.train()
    parts = Recorded(tmp_path / "parts", mlflow_uri, rule=rule, **changes)
    for stop_at in (3, 9):
        outcome = parts.train(FakeListener(stop_at=stop_at))
        assert outcome == Outcome("interrupted", stop_at, {}, None)
        assert parts.run.info.status == "KILLED"
        assert parts.run.data.tags["reason"] == "interrupted"
        assert len(parts.losses) == stop_at
        first = parts.run_id
    listener = FakeListener()
    outcome = parts.train(listener)
    assert outcome.reason == "complete"
    assert list(listener.losses) == [10, 11, 12]
    assert list(listener.reports) == [10, 11]
    assert parts.run_id == first
    assert parts.run.info.status == "FINISHED"
    assert parts.losses == whole.losses
    assert parts.image_steps == whole.image_steps
    assert parts.artifacts == whole.artifacts
    assert parts.weights.keys() == whole.weights.keys()
    for name, tensor in parts.weights.items():
        assert torch.equal(tensor, whole.weights[name]), name
    timed = {"seconds_per_step", "peak_memory_mb"}
    assert outcome.metrics.keys() == expected.metrics.keys()
    for key in outcome.metrics.keys() - timed:
        assert outcome.metrics[key] == expected.metrics[key], key
    for name in ("output.png", "growth.gif"):
        assert parts.path_of(name).read_bytes() == whole.path_of(name).read_bytes(), name
    assert not (parts.folder / "checkpoints").exists()


def test_the_best_of_the_pictured_models_is_recorded_with_its_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial_config(tmp_path, rule="distill", **AS_PUBLISHED)
    trainer = build_trainer(config, CPU)
    after: dict[int, dict[str, Tensor]] = {}
    for record in trainer.steps():
        after[record.step] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    measured: list[dict[str, Tensor]] = []
    distances = iter([3.0, 1.0, 2.0, 0.25])  # after steps 3, 7 and 11, and at the end
    shown = torch.full((3, 3, 16, 16), 0.2)

    def measure(model: Automaton, *_: object) -> Grown:
        measured.append({k: v.clone() for k, v in model.state_dict().items()})
        return Grown(next(distances), 0.125, shown)

    monkeypatch.setattr("nca.training.run.measure_outputs", measure)
    outcome = train_untracked(config, tmp_path / "trial")
    assert (outcome.metrics["final_distance"], outcome.metrics["distance_at_1000"]) == (0.25, 0.125)
    assert outcome.metrics["final_loss"] == trainer.losses[-1]
    for found, step in zip(measured, (3, 7, 11, 7), strict=True):
        assert all(torch.equal(found[name], tensor) for name, tensor in after[step].items())
    saved = load_file(tmp_path / "trial" / "artifacts" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in after[7].items())
    with Image.open(tmp_path / "trial" / "output.png") as image:
        assert image.size == (3 * 16 + 2 * 2, 16)
        assert image.getpixel((0, 0)) == (51, 51, 51)


def test_the_last_model_is_recorded_with_the_states_of_its_last_rollout(tmp_path: Path) -> None:
    config = trial_config(tmp_path, rule="distill")
    trainer = build_trainer(config, CPU)
    list(trainer.steps())
    train_untracked(config, tmp_path / "trial")
    saved = load_file(tmp_path / "trial" / "artifacts" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items())
    with Image.open(tmp_path / "trial" / "output.png") as image:
        assert np.array_equal(np.asarray(image), to_pixels(trainer.output))


@pytest.mark.parametrize("name", ["gram", "sliced"])
def test_the_loss_of_a_config_is_built(name: str) -> None:
    loss = GRAM if name == "gram" else LossConfig(name="sliced", directions=5, norm="squared")
    found = build_trainer(trial_config(loss=loss, features=PATCHES), CPU).texture_loss
    assert isinstance(found, GramLoss if name == "gram" else SlicedLoss)
    if isinstance(found, SlicedLoss):
        assert [directions.shape for directions in found._directions] == [(5, 75), (5, 75)]
        assert found._norm == "squared"


def test_stopping_after_the_last_step_is_complete(tmp_path: Path) -> None:
    outcome = train_untracked(trial_config(tmp_path), tmp_path / "trial", FakeListener(stop_at=STEPS))
    assert outcome.reason == "complete"


def test_a_crashed_run_is_failed_and_goes_on_from_its_checkpoint(
    tmp_path: Path, mlflow_uri: str, recorded: Recorded
) -> None:
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        recorded.train(FakeListener(fail_at=10))
    assert recorded.run.info.status == "FAILED"
    assert recorded.run.data.tags["reason"] == "crashed"
    trace = recorded.client.download_artifacts(recorded.run_id, "traceback.txt", str(tmp_path))
    assert Path(trace).read_text().endswith("ZeroDivisionError: on purpose\n")
    kept = sorted(path.stem for path in (recorded.folder / "checkpoints").iterdir())
    assert kept == ["00000004", "00000008"]
    crashed, listener = recorded.run_id, FakeListener()
    outcome = recorded.train(listener)
    assert (outcome.reason, recorded.run_id) == ("complete", crashed)
    assert list(listener.losses) == [9, 10, 11, 12]
    whole = Recorded(tmp_path / "whole", mlflow_uri)
    whole.train()
    assert recorded.losses == whole.losses


def test_a_run_fails_although_its_traceback_cannot_be_recorded(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MlflowTracker, "_send_text", fail)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        recorded.train(FakeListener(fail_at=10))
    assert recorded.run.info.status == "FAILED"
    assert recorded.run.data.tags["reason"] == "crashed"


def test_a_run_that_dies_after_its_final_metrics_records_each_once(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("nca.training.run.save_model", None)  # fails after the metrics
        with pytest.raises(TypeError):
            recorded.train()
    assert "final_loss" in recorded.run.data.metrics
    died = recorded.run_id
    outcome = recorded.train()
    assert (outcome.reason, recorded.run_id) == ("complete", died)
    for key in outcome.metrics:
        assert len(recorded.client.get_metric_history(died, key)) == 1, key


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes."),
    ],
)
def test_out_of_memory_has_a_reason_of_its_own(recorded: Recorded, error: Exception) -> None:
    with pytest.raises(type(error)):
        recorded.train(FakeListener(fail_at=10, error=error))
    assert recorded.run.info.status == "FAILED"
    assert recorded.run.data.tags["reason"] == "out_of_memory"


def test_checkpoints_wait_for_their_seconds(tmp_path: Path) -> None:
    config = trial_config(tmp_path, train={"checkpoint_every_s": 3600.0})
    with pytest.raises(ZeroDivisionError):
        train_untracked(config, tmp_path / "trial", FakeListener(fail_at=10))
    assert not (tmp_path / "trial" / "checkpoints").exists()


def test_an_input_that_has_gone_fails_the_run(tmp_path: Path, mlflow_uri: str) -> None:
    path = tmp_path / "leaf.png"
    Image.new("RGB", (16, 16), "red").save(path)
    texture = ImageTexture(name="image", source="file", path=str(path))
    recorded = Recorded(tmp_path, mlflow_uri, texture=texture)
    path.unlink()
    with pytest.raises(ConfigError, match=r"leaf\.png does not exist"):
        recorded.train()
    assert recorded.run.info.status == "FAILED"


class DivergingLoss(GramLoss):
    """A style loss that is not a number from its sixth call on."""

    n_calls = itertools.count()

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images) * (torch.nan if next(self.n_calls) >= 5 else 1.0)


def test_a_diverged_run_keeps_its_last_finite_picture(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nca.training.losses.GramLoss", DivergingLoss)
    listener = FakeListener()
    outcome = recorded.train(listener)
    assert (outcome.reason, outcome.n_steps) == ("diverged", 5)
    assert outcome.metrics["last_loss"] == listener.losses[5]
    assert "not finite at step 5; try a lower learning rate" in capsys.readouterr().out
    assert recorded.run.info.status == "FAILED"
    assert recorded.run.data.tags["reason"] == "diverged"
    assert recorded.losses == list(listener.losses.values())
    assert len(recorded.losses) == 5
    assert outcome.picture is not None
    with Image.open(outcome.picture) as image:
        colors = image.getcolors(maxcolors=10_000)
    assert colors is not None
    assert len(colors) > 2
    assert recorded.artifacts >= FILES - {"output_large.png", "growth.gif", "viewer.html"}
    assert not (recorded.folder / "checkpoints").exists()


def test_divergence_at_the_first_step_keeps_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    save_file({key: 1e20 * tensor for key, tensor in vgg_weights().items()}, path)
    config = trial_config(tmp_path, features=FeaturesConfig("vgg16", str(path)))
    outcome = train_untracked(config, tmp_path / "trial")
    assert (outcome.reason, outcome.n_steps) == ("diverged", 0)
    assert outcome.picture is not None
    assert outcome.picture.exists()


def test_the_pool_holds_64_states_per_batch_row_unless_given_otherwise() -> None:
    sizes = [
        build_trainer(trial_config(train={"pool_size": pool_size, "batch_size": 3}), CPU)._pool.states.shape
        for pool_size in (None, 5)
    ]
    assert [shape[0] for shape in sizes] == [192, 5]


def test_pictures_are_taken_ever_more_rarely_and_at_the_end() -> None:
    assert [step for step in range(100) if is_picture_step(step, 100)] == [0, 1, 3, 7, 15, 31, 63, 99]
    assert is_picture_step(0, 1)


@pytest.mark.parametrize(
    ("size", "batch_size", "side", "measured"),
    [(16, 1, 64, True), (32, 1, 96, True), (48, 1, 144, False), (48, 64, 192, True)],
)
def test_the_outputs_of_a_short_run_are_scaled_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, batch_size: int, side: int, measured: bool
) -> None:
    config = trial_config(train={"size": size, "batch_size": batch_size, "max_ca_steps": 100})
    config = replace(config, outputs=OutputsConfig(robustness=True))
    n_updates, draw_mask = [0], Automaton.draw_mask

    def count(model: Automaton, state: Tensor, generator: torch.Generator | None) -> Tensor:
        n_updates[0] += state[:, 0].numel()
        return draw_mask(model, state, generator)

    def skip_training(trainer: Trainer) -> Iterator[StepRecord]:
        trainer.losses += [1.0] * STEPS
        yield StepRecord(STEPS - 1, trainer.losses)

    # The distance is measured at the same ages whatever the size of a run.
    grown = Grown(0.5, 0.5, torch.zeros(3, 3, size, size))
    monkeypatch.setattr("nca.training.run.measure_outputs", lambda *_: grown)
    monkeypatch.setattr(Automaton, "draw_mask", count)
    monkeypatch.setattr(Trainer, "steps", skip_training)
    outcome = train_untracked(config, tmp_path / "trial")
    assert 0 < n_updates[0] <= output_budget(config.train, STEPS)
    assert ("distance_at_3000" in outcome.metrics) == measured
    with Image.open(tmp_path / "trial" / "artifacts" / "output_large.png") as image:
        assert image.size == (side, side)


def test_the_outputs_take_a_fifth_of_the_cell_updates_of_training() -> None:
    config = train_config(batch_size=4, max_ca_steps=40, size=128)
    assert output_budget(config, 1) == MIN_OUTPUT_UPDATES
    assert output_budget(config, 10_000) == pytest.approx(0.2 * 10_000 * 4 * 30 * 128**2)


def test_the_peak_memory_includes_the_pictures_and_the_time_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trial"
    drawn = [folder / "artifacts" / name for name in ("growth.gif", "output_large.png")]
    monkeypatch.setattr("nca.training.run.peak_memory_mb", lambda _: sum(path.exists() for path in drawn))
    clock, paused_s = time.monotonic, [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock() + paused_s[0])

    def save_slowly(model: Automaton, size: int, seed: int, path: Path) -> None:
        save_growth(model, size, seed, path)
        paused_s[0] += 1e6

    monkeypatch.setattr("nca.training.run.save_growth", save_slowly)
    metrics = train_untracked(trial_config(tmp_path), folder).metrics
    assert metrics["peak_memory_mb"] == 2
    assert metrics["seconds_per_step"] < 1e4


def test_memory_is_counted_in_megabytes() -> None:
    assert 50 < peak_memory_mb(CPU) < 1e5
