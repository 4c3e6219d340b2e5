"""A finished study, as Optuna and MLflow tell of it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run
from optuna.trial import Trial
from optuna_dashboard import get_note
from PIL import Image
from safetensors import safe_open
from yaml import safe_load

from nca.config.compose import compose_plain
from nca.config.validation import flatten
from nca.outputs.contact_sheet import GAP_PX, SIDE_PX
from sweeps.study import read_records
from tests.integration.commands import SMALL, listing, run_module
from tests.integration.conftest import Finished
from tests.integration.records import Records, complete_trials

STEPS = 12
TRIALS = range(3)
PICTURE_STEPS = {0, 1, 3, 7, STEPS - 1}
ARTIFACTS = {
    "output.png",
    "output_large.png",
    "target.png",
    "loss.png",
    "growth.gif",
    "model.safetensors",
    "config.yaml",
    "viewer.html",
    "stages.png",
    "healing.gif",
    "log.txt",
}


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def output_size(run: Run) -> tuple[int, int]:
    """Return the size of an output: the rows of a batch side by side, with gaps of 2 px between."""
    n_rows = int(run.data.params["train.batch_size"])
    return (18 * n_rows - 2, 16)


def test_every_trial_is_complete(records: Records) -> None:
    trials = records.study.get_trials()
    assert [trial.number for trial in trials] == list(TRIALS)
    assert complete_trials(records.study) == trials
    assert {trial.user_attrs["reason"] for trial in trials} == {"complete"}


def test_experiment_holds_a_finished_parent_and_a_finished_run_per_trial(records: Records) -> None:
    assert len(records.parents) == 1
    assert sorted(records.children) == list(TRIALS)
    assert {run.info.status for run in (*records.parents, *records.children.values())} == {"FINISHED"}
    parent = records.parents[0]
    assert parent.info.run_name == records.study.study_name
    assert {run.data.tags["mlflow.parentRunId"] for run in records.children.values()} == {parent.info.run_id}
    with Image.open(records.files(parent) / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * 136 + 8, 152 + 8)  # target and three outputs of 128 px with their captions
    best = records.study.best_value
    assert parent.data.metrics == {"n_trials": 3.0, "best_value": pytest.approx(best, rel=1e-12)}


def test_links_lead_from_optuna_to_mlflow_and_back(records: Records) -> None:
    parent = records.parents[0]
    assert records.experiment is not None
    assert read_records(records.study)["links"] == {
        "mlflow_experiment_id": records.experiment.experiment_id,
        "mlflow_run_id": parent.info.run_id,
    }
    assert parent.data.tags["optuna_study"] == records.study.study_name
    for trial in records.study.get_trials():
        run = records.children[trial.number]
        assert trial.user_attrs["mlflow_run_id"] == run.info.run_id
        assert run.data.tags["optuna_study"] == records.study.study_name
        assert run.info.run_name == f"trial {trial.number}"


OF_OTHER_OPTIONS = [
    "features.weights",
    "features.side",
    "features.levels",
    "features.unsharp",
    "loss.directions",
    "loss.norm",
    "loss.options",
    "model.options",
]


def test_params_are_the_flat_config_with_the_drawn_values(finished: Finished, records: Records) -> None:
    asked = [*SMALL, "train.steps=12", "outputs.robustness=true", f"runs_dir={finished.runs}"]
    composed = flatten(compose_plain("train", asked))
    for trial in records.study.get_trials():
        params = records.children[trial.number].data.params
        expected = {**composed, **trial.params, "seed": trial.number, **dict.fromkeys(OF_OTHER_OPTIONS)}
        expected["train.checkpoint_every_s"] = float(composed["train.checkpoint_every_s"])
        assert params == {key: str(value) for key, value in expected.items()}


def test_loss_is_recorded_at_every_step(records: Records) -> None:
    for run in records.children.values():
        history = records.client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in history) == list(range(STEPS))
        assert all(point.value > 0 for point in history)
        assert len({point.value for point in history}) > 1


def test_final_metrics_stand_at_the_last_step(records: Records) -> None:
    for trial in complete_trials(records.study):
        run = records.children[trial.number]
        points = {
            name: records.client.get_metric_history(run.info.run_id, name)
            for name in run.data.metrics
            if name != "loss"
        }
        assert {"final_loss_median", "final_loss_relative", "seconds_per_step", "peak_memory_mb"} < set(
            points
        )
        assert {name: [p.step for p in found] for name, found in points.items()} == {
            name: [STEPS - 1] for name in points
        }
        losses = sorted(
            records.client.get_metric_history(run.info.run_id, "loss"), key=lambda point: point.step
        )
        assert run.data.metrics["final_loss"] == losses[-1].value == trial.value
        low, high = min(point.value for point in losses), max(point.value for point in losses)
        assert low <= run.data.metrics["final_loss_median"] <= high
        assert run.data.metrics["final_loss_relative"] > 0
        assert 0 < run.data.metrics["seconds_per_step"] < 10
        assert 50 < run.data.metrics["peak_memory_mb"] < 5000


def test_images_lie_over_the_steps(records: Records) -> None:
    for run in records.children.values():
        images = records.files(run) / "images"
        found = {path: re.match(r"output\+step\+(\d+)\+", path.name) for path in images.glob("*.png")}
        steps = [int(match[1]) for match in found.values() if match]
        assert sorted(steps) == sorted(PICTURE_STEPS)
        assert {size_of(path) for path in found} == {output_size(run)}


def test_artifacts_are_complete_and_readable(records: Records) -> None:
    for number, run in records.children.items():
        files = records.files(run)
        assert {path.name for path in files.iterdir()} == ARTIFACTS | {"images"}
        sizes = {}
        for name in ("output.png", "output_large.png", "target.png", "growth.gif"):
            with Image.open(files / name) as image:
                image.load()
                sizes[name] = (image.size, getattr(image, "n_frames", 1))
        assert sizes["output.png"] == (output_size(run), 1)
        assert sizes["target.png"] == ((16, 16), 1)
        assert sizes["output_large.png"] == ((64, 64), 1)
        assert sizes["growth.gif"][1] > 1
        with Image.open(files / "loss.png") as image:
            assert min(image.size) > 200
        config = safe_load((files / "config.yaml").read_text())
        assert config["seed"] == number
        params = run.data.params
        assert {key: str(value) for key, value in flatten(config).items()} == params
        with safe_open(files / "model.safetensors", framework="pt") as weights:
            assert int(params["model.channels"]) in weights.get_tensor("w1").shape


def test_runs_record_where_they_come_from(records: Records) -> None:
    expected = {
        "git_commit": r"[0-9a-f]{40}|unknown",
        "git_dirty": r"true|false|unknown",
        "texture.hash": r"[0-9a-f]{64}",
        "features.hash": r"[0-9a-f]{64}",
        "device": r"cpu|cuda.*",
        "device_name": r".+",
        "threads": r"[1-9]\d*",
        "host": r".+",
        "python": r"3\.\d+\.\d+",
        "reason": r"complete",
    }
    expected |= {f"version.{name}": r"\d+\.\d+.*" for name in ("torch", "optuna", "mlflow", "hydra-core")}
    for run in records.children.values():
        tags = run.data.tags
        assert not {key for key, form in expected.items() if not re.fullmatch(form, tags.get(key, ""))}
    hashes = {run.data.tags["texture.hash"] for run in records.children.values()}
    assert hashes == {read_records(records.study)["fingerprint"]["fixed"]["texture.hash"]}


def test_optuna_shows_each_trials_output_beside_the_target(finished: Finished, records: Records) -> None:
    from optuna.artifacts import get_all_artifact_meta

    for trial in records.study.get_trials():
        metas = get_all_artifact_meta(trial, storage=records.study._storage)
        assert [(meta.filename, meta.mimetype) for meta in metas] == [("target_and_output.png", "image/png")]
        stored = finished.runs / "artifacts" / "optuna" / metas[0].artifact_id
        with Image.open(stored) as shown:
            both = np.asarray(shown)
        for left, name in ((GAP_PX, "target.png"), (2 * GAP_PX + SIDE_PX, "output.png")):
            with Image.open(records.files(records.children[trial.number]) / name) as picture:
                first = np.asarray(picture.convert("RGB"))[:, : picture.height]
            scale = SIDE_PX // len(first)
            assert (both[GAP_PX : GAP_PX + SIDE_PX : scale, left : left + SIDE_PX : scale] == first).all()


def test_output_names_the_best_trial_and_its_picture(finished: Finished, records: Records) -> None:
    assert f"study {finished.name}: 3 complete" in finished.output
    best = records.study.best_trial
    metrics = records.children[best.number].data.metrics
    distance, at_1000 = metrics["final_distance"], metrics["distance_at_1000"]
    told = f"best: trial {best.number}, final loss {best.value:.6g}, "
    told += f"texture distance at 1,000 CA steps {at_1000:.6g}, final distance {distance:.6g}, "
    assert told in finished.output
    result = f"result: poor, little but the target's colors (texture distance {at_1000:.2g}); "
    assert f"{result}experiment=distill grows better textures sooner\n" in finished.output
    pictures = re.findall(r"^best output: (.+)$", finished.output, re.MULTILINE)
    assert size_of(Path(pictures[0])) == output_size(records.children[best.number])
    (viewer,) = re.findall(r"^viewer: (.+)$", finished.output, re.MULTILINE)
    assert Path(viewer) == records.files(records.children[best.number]) / "viewer.html"
    assert f"<h1>{finished.name}, trial {best.number}</h1>" in Path(viewer).read_text()
    for number in TRIALS:
        assert f"trial {number} starts: " in finished.output
        assert f"trial {number} complete " in finished.output


def test_the_commands_that_the_output_ends_with_can_be_given(finished: Finished, tmp_path: Path) -> None:
    commands = re.findall(r"^(?:render|gallery): python (.+)$", finished.output, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        argv = shlex.split(command.replace("size=512", "size=64"))
        assert argv[0] == "-m"
        done = run_module(*argv[1:], folder=tmp_path)
        assert done.returncode == 0, done.stderr
    assert set(listing(tmp_path)) == {f"{finished.name}.html", "grown.png"}


def test_the_dashboard_has_notes_with_params_and_links(finished: Finished, records: Records) -> None:
    study = records.study
    assert "All outputs: `python -m analysis.gallery" in get_note(study)
    for trial in study.get_trials():
        note = get_note(Trial(study, trial._trial_id))
        run = records.children[trial.number].info
        assert f"http://127.0.0.1:5000/#/experiments/{run.experiment_id}/runs/{run.run_id}" in note
        for key, value in trial.params.items():
            assert key.rpartition(".")[2].replace("_", " ") in note
            assert f"{value:.4g}" in note
        assert f"{trial.value:.4g}" in note


def test_nothing_is_written_outside_runs_dir(finished: Finished) -> None:
    assert listing(finished.folder) == []
    assert {path.name for path in finished.runs.iterdir()} - {
        f"{name}.db-{kind}" for name in ("optuna", "mlflow") for kind in ("wal", "shm")
    } == {"artifacts", "trials", "optuna.db", "mlflow.db"}


def test_no_checkpoint_or_half_written_file_remains(finished: Finished) -> None:
    files = listing(finished.runs / "trials")
    assert not [path for path in files if path.endswith((".partial", "run_id"))]
    assert not [path for path in files if "checkpoints/" in path]


def test_every_picture_of_a_trial_is_its_own(records: Records) -> None:
    outputs = {records.files(run).joinpath("output.png").read_bytes() for run in records.children.values()}
    assert len(outputs) == len(TRIALS)
    targets = {records.files(run).joinpath("target.png").read_bytes() for run in records.children.values()}
    assert len(targets) == 1
