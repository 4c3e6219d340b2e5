"""One training run, from a checked config to its outcome: training, records, artifacts."""

from __future__ import annotations

import contextlib
import resource
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from PIL import Image

from nca.automaton.rules import make_automaton
from nca.automaton.seeding import Streams
from nca.config.schema import TrainConfig, TrialConfig, name_study
from nca.loss.distance import TextureDistance
from nca.loss.features import load_extractor
from nca.outputs.grown import Grown, measure_outputs
from nca.outputs.model_file import save_model
from nca.outputs.pictures import (
    CA_STEPS_PER_PX,
    GIF_AGES,
    render_texture,
    save_growth,
    save_loss_curve,
    to_pixels,
)
from nca.outputs.robustness import N_CA_STEPS, measure_robustness
from nca.outputs.viewer import GRID_SIDE, describe_facts, has_viewer, make_viewer
from nca.records.paths import MODEL
from nca.textures.load import load_pixels, load_texture
from nca.tracking.store import RUN_ID
from nca.tracking.tracker import Tracker
from nca.training.checkpoint import Checkpoints
from nca.training.device import allow_tf32, check_device, keep_freed_memory, pick_device
from nca.training.inputs import hash_inputs
from nca.training.losses import make_loss
from nca.training.memory import n_pool_rows
from nca.training.outcome import STATUS, Listener, Outcome, Reason
from nca.training.pool import Pool
from nca.training.provenance import describe_run
from nca.training.trainer import DivergedError, StepRecord, Trainer, smoothed_loss

N_REPORTS = 32  # intermediate values of a whole run
LARGE_SCALES = (4, 3, 2, 1)  # side of output_large.png over the trained side
# Cell updates of the outputs over those of training, which also goes backward: a tenth of its time at most.
OUTPUT_SHARE = 0.2
MIN_OUTPUT_UPDATES = 6_500_000  # 400 CA steps at 128 px: a second or two after the shortest training


def build_trainer(config: TrialConfig, device: torch.device) -> Trainer:
    """Return a trainer with model, pool, loss and random streams of a config.

    Raises:
        ConfigError: If the texture or the weights cannot be loaded.
    """
    train = config.train
    check_device(train, device)
    allow_tf32(train.precision == "tf32")
    streams = Streams(config.seed, device)
    target = load_texture(config.texture, train.size).to(device)
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    texture_loss = make_loss(config.loss, load_extractor(config.features, device, dtype), target)
    model = make_automaton(config.model, streams).to(device)
    pool = Pool(n_pool_rows(train), model, train.size, streams)
    return Trainer(model, pool, texture_loss, train, streams)


def train(
    config: TrialConfig, folder: Path, tracker: Tracker, listener: Listener, title: str | None = None
) -> Outcome:
    """Train from the folder's last checkpoint, or from the start, and record everything.

    Args:
        config: With features resolved.
        folder: Folder of this run alone; holds its checkpoints while it trains.
        tracker: Records the run, and ends it.
        listener: Receives every fetched loss; may end the run.
        title: Of its viewer; the name that a study of its own would have if not given.

    Raises:
        ConfigError: If an input has been deleted since it was checked.
        Exception: Any error of training except divergence; the tracker's run is FAILED then.
    """
    try:
        device = pick_device(config.device)
        trainer = build_trainer(config, device)
        keep_freed_memory()
        every, every_s = config.train.checkpoint_every, config.train.checkpoint_every_s
        checkpoints = Checkpoints(folder / "checkpoints", every, every_s)
        restored = checkpoints.load()
        if restored is not None:
            trainer.load_state(restored)
            print(f"continues from its checkpoint after step {trainer.step - 1}", flush=True)
        tracker.set_tags(describe_run(device) | hash_inputs(config))
        run = _Run(config, folder, tracker, listener, trainer, checkpoints, title or name_study(config))
        return run.finish(run.train())
    except BaseException as error:
        _record_failure(tracker, error)
        raise


def _record_failure(tracker: Tracker, error: BaseException) -> None:
    """Record why a run failed, each part on its own: on a full disk some can still be recorded."""
    with contextlib.suppress(Exception):
        tracker.log_text("".join(traceback.format_exception(error)), "traceback.txt")
    with contextlib.suppress(Exception):
        tracker.set_tags({"reason": "out_of_memory" if is_out_of_memory(error) else "crashed"})
    with contextlib.suppress(Exception):
        tracker.finish("FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the device or the host had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # PyTorch, on the host


@dataclass
class _Run:
    """Trains, records and ends one run.

    output.png shows final states of the last rollout, or, with `train.keep=best`, what has grown from
    the seed states of `final_distance` after 1,000 CA steps.
    """

    config: TrialConfig
    folder: Path
    tracker: Tracker
    listener: Listener
    trainer: Trainer
    checkpoints: Checkpoints
    title: str

    def __post_init__(self) -> None:
        self.target = load_pixels(self.config.texture, self.config.train.size)  # the file may be deleted
        device = self.trainer.model.kernels.device
        self.output = self.trainer.output  # replaced by what has grown from seeds, with `train.keep=best`
        self.distance = TextureDistance(load_texture(self.config.texture, self.config.train.size).to(device))
        self.started_at, self.first_step = time.monotonic(), self.trainer.step
        self.report_every = max(1, self.config.train.steps // N_REPORTS)

    def train(self) -> Reason:
        """Train to the end, or until the listener ends the run or it diverges."""
        try:
            for record in self.trainer.steps():
                if is_picture_step(record.step, self.config.train.steps):
                    self.record_picture(record.step)
                if record.fetched and (reason := self.record_losses(record)):
                    return reason
        except DivergedError as error:
            print(error, flush=True)
            return "diverged"
        return "complete"

    def record_picture(self, step: int) -> None:
        """Record the output after a step; with `train.keep=best`, keep the model if its distance is less.

        The first eighth of a run has no best model.
        """
        pixels = to_pixels(self.trainer.output)
        self.tracker.log_image(pixels, step)
        self.listener.show(pixels, self.target)
        if self.config.train.keep == "best" and 8 * step >= self.config.train.steps:
            self.trainer.keep_best(self.measure_outputs().final_distance)

    def measure_outputs(self) -> Grown:
        """Return grown outputs with their texture distances."""
        train = self.config.train
        return measure_outputs(self.trainer.model, train.size, train.max_ca_steps, self.distance)

    def record_losses(self, record: StepRecord) -> Reason | None:
        """Record the fetched losses and save a due checkpoint; return why the run ends early, if it does."""
        n_steps, total_steps, losses = record.step + 1, self.config.train.steps, self.trainer.losses
        self.tracker.log_losses(losses)
        self.listener.progress(n_steps, total_steps, losses[-1])
        if n_steps < total_steps:
            n_reports = n_steps // self.report_every - (n_steps - len(record.fetched)) // self.report_every
            if n_reports:
                self.listener.show(to_pixels(self.trainer.output), self.target)
                if not self.listener.report(n_steps, smoothed_loss(losses)):
                    return "pruned"
            if self.listener.cancelled():
                return "stopped"
            if self.listener.interrupt_requested():
                return "interrupted"
        if self.checkpoints.due(n_steps):
            self.checkpoints.save(self.trainer.state(), n_steps)
        return None

    def finish(self, reason: Reason) -> Outcome:
        """Record how the run ended; an interrupted one keeps a checkpoint to continue from."""
        trainer, n_steps = self.trainer, self.trainer.step
        seconds = time.monotonic() - self.started_at
        self.tracker.log_losses(trainer.losses, now=True)
        self.tracker.set_tags({"reason": reason})
        if reason == "interrupted":
            self.checkpoints.save(trainer.state(), n_steps)
            self.tracker.finish("KILLED")
            return Outcome(reason, n_steps, {}, None)
        files = self.folder / "artifacts"
        files.mkdir(parents=True, exist_ok=True)
        if reason == "complete" and self.config.train.keep_checkpoint:
            Checkpoints(files / "checkpoints", 1, 0.0).save(trainer.state(), n_steps)
        trainer.use_best()
        drawn = {} if reason == "diverged" else self.draw_texture(files, reason)
        metrics = self.measure("final" if reason == "complete" else "last", seconds) | drawn
        self.tracker.log_metrics(metrics, max(0, n_steps - 1))
        self.save_files(files, reason, metrics)
        self.tracker.finish(STATUS[reason])
        outcome = Outcome(reason, n_steps, metrics, self.folder / "output.png", self.tracker.run_id)
        outcome.save(self.folder)  # before the checkpoints are deleted
        self.checkpoints.clear()
        (self.folder / RUN_ID).unlink(missing_ok=True)
        return outcome

    def draw_texture(self, files: Path, reason: Reason) -> dict[str, float]:
        """Write growth.gif, output_large.png and, of a complete run, the pictures of its robustness.

        Returns:
            The texture distances, and those of the robustness, unless they would take too long for a run as
            short as this one.
        """
        model, size, seed = self.trainer.model, self.config.train.size, self.config.seed
        grown = self.measure_outputs()
        measured = {"final_distance": grown.final_distance, "distance_at_1000": grown.distance_at_1000}
        metrics = measured if reason == "complete" else {"last_distance": grown.final_distance}
        if self.config.train.keep == "best":
            self.output = grown.images
        save_growth(model, size, seed, files / "growth.gif")
        budget = output_budget(self.config.train, self.trainer.step) - GIF_AGES[-1] * size**2
        if reason == "complete" and self.config.outputs.robustness and budget >= N_CA_STEPS * size**2:
            metrics |= measure_robustness(model, size, seed, self.distance, files)
            budget -= N_CA_STEPS * size**2
        sides = [scale * size for scale in LARGE_SCALES]
        side = next((side for side in sides if CA_STEPS_PER_PX * side**3 <= budget), size)
        Image.fromarray(render_texture(model, side, seed)).save(files / "output_large.png")
        return metrics

    def measure(self, prefix: str, seconds: float) -> dict[str, float]:
        """Return the run's metrics, losses prefixed with `final` if it is complete, else `last`.

        Args:
            prefix: Of the losses.
            seconds: Duration of its training in this process.
        """
        trainer, losses = self.trainer, self.trainer.losses
        metrics = {}
        if losses:  # none if the first one was not finite
            metrics = {
                f"{prefix}_loss": losses[-1],
                f"{prefix}_loss_median": smoothed_loss(losses),
                f"{prefix}_loss_relative": losses[-1] / float(trainer.texture_loss.energy),
            }
        n_steps = max(1, len(losses) - self.first_step)
        return metrics | {
            "seconds_per_step": seconds / n_steps,
            "peak_memory_mb": peak_memory_mb(trainer.model.kernels.device),
            "n_parameters": float(sum(p.numel() for p in trainer.model.parameters())),
        }

    def save_files(self, files: Path, reason: Reason, metrics: Mapping[str, float]) -> None:
        """Write the run's other artifacts and hand all of them to the tracker.

        output.png and target.png are also kept in the run's folder: the gallery cannot read artifacts of a
        remote MLflow server.
        """
        config, model, losses = self.config, self.trainer.model, self.trainer.losses
        every = self.report_every
        Image.fromarray(to_pixels(self.output)).save(files / "output.png")
        Image.fromarray(self.target).save(files / "target.png")
        smoothed = [(n - 1, smoothed_loss(losses[:n])) for n in range(every, len(losses) + 1, every)]
        save_loss_curve(losses, smoothed, files / "loss.png")
        (files / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
        save_model(model, asdict(config), files / MODEL, metrics)
        if reason != "diverged" and has_viewer(model):
            pictures = {"target": self.target, "output": to_pixels(self.output[:1])}
            run = {} if self.tracker.run_id is None else {"MLflow run": self.tracker.run_id}
            facts, side = describe_facts(config, metrics) | run, max(GRID_SIDE, config.train.size)
            page = make_viewer(model, side, pictures, facts, self.title)
            (files / "viewer.html").write_text(page, encoding="utf-8")
        for name in ("output.png", "target.png"):
            shutil.copy(files / name, self.folder / name)
        if self.tracker.log_files(files):
            shutil.rmtree(files)


def output_budget(config: TrainConfig, n_steps: int) -> float:
    """Return how many cell updates the outputs at the end of a run of `n_steps` training steps may take."""
    ca_steps = 3 / 4 * config.max_ca_steps * config.batch_size * n_steps
    return max(MIN_OUTPUT_UPDATES, OUTPUT_SHARE * ca_steps * config.size**2)


def is_picture_step(step: int, n_steps: int) -> bool:
    """Return whether the output is recorded after a step: 0, 1, 3, 7, 15, ... and the last."""
    return (step + 1) & step == 0 or step + 1 == n_steps


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process in MB: allocated on a GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
