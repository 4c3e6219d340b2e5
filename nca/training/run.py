"""One training run, from a checked config to an outcome: what is built, recorded and saved when."""

from __future__ import annotations

import resource
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from nca.automaton.model import make_automaton
from nca.automaton.seeding import Streams
from nca.config.schema import TrialConfig, name_study
from nca.config.validation import flatten
from nca.loss.features import load_extractor
from nca.loss.style import StyleLoss
from nca.outputs.model_file import save_model
from nca.outputs.pictures import render_texture, save_growth, save_loss_curve, save_pixels, to_pixels
from nca.outputs.robustness import measure_robustness
from nca.outputs.viewer import describe_facts, make_viewer
from nca.textures.load import load_pixels, load_texture
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import MlflowTracker, Tracker
from nca.training.checkpoint import Checkpoints
from nca.training.device import allow_tf32, check_device, keep_freed_memory, pick_device
from nca.training.outcome import STATUS, Listener, Outcome, Reason
from nca.training.pool import Pool, n_pool_rows
from nca.training.preflight import identify_inputs
from nca.training.provenance import describe_run
from nca.training.trainer import DivergedError, Trainer, smoothed_loss

__all__ = ["build_trainer", "is_out_of_memory", "open_tracker", "train"]

N_REPORTS = 32  # intermediate values of a whole run
LARGE = 4  # side of output_large.png over the trained side


def build_trainer(config: TrialConfig, device: torch.device) -> Trainer:
    """Assemble everything that a run trains with.

    Raises:
        ConfigError: If the texture or the weights cannot be had.
    """
    train = config.train
    check_device(train, device)
    allow_tf32(train.precision != "fp32")
    streams = Streams(config.seed, device)
    target = load_texture(config.texture, train.size).to(device)
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    style_loss = StyleLoss(load_extractor(config.features, device, dtype), target)
    model = make_automaton(config.model, streams).to(device)
    pool = Pool(n_pool_rows(train), config.model.channels, train.size, streams, device)
    return Trainer(model, pool, style_loss, train, streams)


def open_tracker(
    store: MlflowStore,
    experiment_id: str,
    config: TrialConfig,
    folder: Path,
    **run: Any,
) -> MlflowTracker:
    """Return a tracker for the run of a trial's folder: the one begun there before, else a new one.

    Args:
        store: The MLflow store.
        experiment_id: Where a new run goes.
        config: Recorded as params.
        folder: The run's, see `MlflowStore.open_run`.
        run: `name` and `parent_run_id` of a new run.
    """
    return store.open_run(folder, experiment_id, params=flatten(asdict(config)), **run)


def train(config: TrialConfig, folder: Path, tracker: Tracker, listener: Listener) -> Outcome:
    """Train from the folder's last checkpoint, or from the start, and record everything.

    Args:
        config: With features resolved.
        folder: Of this run alone; holds its checkpoints while it trains.
        tracker: Its run is ended here.
        listener: Sees every fetched loss; may end the run.

    Raises:
        ConfigError: If an input has gone since it was checked.
        Exception: Whatever training raises but divergence; as above, the tracker's run is FAILED then.
    """
    try:
        device = pick_device(config.device)
        trainer = build_trainer(config, device)
        keep_freed_memory()
        checkpoints = Checkpoints(
            folder / "checkpoints",
            config.train.checkpoint_every,
            config.train.checkpoint_every_s,
        )
        restored = checkpoints.load()
        if restored is not None:
            trainer.load_state(restored)
            print(f"goes on from its checkpoint after step {trainer.step - 1}", flush=True)
        tracker.set_tags(describe_run(device) | identify_inputs(config))
        run = _Run(config, folder, tracker, listener, trainer, checkpoints)
        return run.finish(run.train())
    except BaseException as error:
        tracker.log_text(traceback.format_exc(), "traceback.txt")
        tracker.set_tags({"reason": "out_of_memory" if is_out_of_memory(error) else "crashed"})
        tracker.finish("FAILED")
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that the device or the host had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # PyTorch, on the host


class _Run:
    """One run while it trains: what is recorded when, and how it ends."""

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        tracker: Tracker,
        listener: Listener,
        trainer: Trainer,
        checkpoints: Checkpoints,
    ) -> None:
        self._config = config
        self._folder = folder
        self._tracker = tracker
        self._listener = listener
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._target = load_pixels(config.texture, config.train.size)  # its file may go before the end
        self._started_at, self._first_step = time.monotonic(), trainer.step
        self._report_every = max(1, config.train.steps // N_REPORTS)
        self._n_reported = trainer.step // self._report_every

    def train(self) -> Reason:
        """Ask for steps until the end, or until someone says stop."""
        try:
            for record in self._trainer.steps():
                if is_picture_step(record.step, self._config.train.steps):
                    self._tracker.log_image(to_pixels(self._trainer.output), record.step)
                if record.fetched and (reason := self._follow(record.step + 1)):
                    return reason
        except DivergedError as error:
            print(error, flush=True)
            return "diverged"
        return "complete"

    def finish(self, reason: Reason) -> Outcome:
        """Record how the run ended; an interrupted one keeps its checkpoint and can be taken up again."""
        trainer = self._trainer
        n_steps = trainer.step
        self._tracker.log_losses(trainer.losses, now=True)
        self._tracker.set_tags({"reason": reason})
        if reason == "interrupted":
            self._checkpoints.save(trainer.state(), n_steps)
            self._tracker.finish("KILLED")
            return Outcome(reason, n_steps, {}, None)
        metrics = self._metrics_at_end("final" if reason == "complete" else "last")
        files = self._folder / "artifacts"
        files.mkdir(parents=True, exist_ok=True)
        if reason == "complete" and self._config.outputs.robustness:
            size, seed = self._config.train.size, self._config.seed
            metrics |= measure_robustness(trainer.model, size, seed, trainer.style_loss, files)
        self._tracker.log_metrics(metrics, max(0, n_steps - 1))
        if reason == "complete" and self._config.train.keep_checkpoint:
            Checkpoints(files / "checkpoints", 1, 0.0).save(trainer.state(), n_steps)
        picture = self._save_files(files, reason, metrics)
        self._tracker.finish(STATUS[reason])
        note = self._folder / "run_id"
        run_id = note.read_text() if note.exists() else None
        outcome = Outcome(reason, n_steps, metrics, picture, run_id)
        outcome.save(self._folder)  # before what it could be trained from goes
        self._checkpoints.clear()
        note.unlink(missing_ok=True)
        return outcome

    def _follow(self, n_steps: int) -> Reason | None:
        """Log, report, save; return why the run should end, if it should."""
        trainer = self._trainer
        self._tracker.log_losses(trainer.losses)
        self._listener.progress(n_steps, self._config.train.steps, trainer.losses[-1])
        if n_steps // self._report_every > self._n_reported and n_steps < self._config.train.steps:
            self._n_reported = n_steps // self._report_every
            if not self._listener.report(n_steps, smoothed_loss(trainer.losses)):
                return "pruned"
        if n_steps < self._config.train.steps:
            if self._listener.cancelled():
                return "stopped"
            if self._listener.interrupt_requested():
                return "interrupted"
        if self._checkpoints.due(n_steps):
            self._checkpoints.save(trainer.state(), n_steps)
        return None

    def _metrics_at_end(self, which: str) -> dict[str, float]:
        """Return what is known of the run; only a complete one has final losses, others have last ones."""
        losses, trainer = self._trainer.losses, self._trainer
        n_steps = max(1, len(losses) - self._first_step)
        metrics = {}
        if losses:  # none, where the first one was not finite
            metrics = {
                f"{which}_loss": losses[-1],
                f"{which}_loss_median": smoothed_loss(losses),
                f"{which}_loss_relative": losses[-1] / trainer.target_energy,
            }
        return metrics | {
            "seconds_per_step": (time.monotonic() - self._started_at) / n_steps,
            "peak_memory_mb": peak_memory_mb(trainer.model.w0.device),
            "n_parameters": float(sum(p.numel() for p in trainer.model.parameters())),
        }

    def _save_files(self, files: Path, reason: Reason, metrics: Mapping[str, float]) -> Path:
        """Write the run's files, hand them to the tracker, and return a kept copy of the output.

        The target is kept beside it: what a server has of it no page of ours could show.
        """
        config, trainer = self._config, self._trainer
        size, seed, losses = config.train.size, config.seed, trainer.losses
        save_pixels(to_pixels(trainer.output), files / "output.png")
        save_pixels(self._target, files / "target.png")
        curve = [
            (n - 1, smoothed_loss(losses[:n]))
            for n in range(self._report_every, len(losses) + 1, self._report_every)
        ]
        save_loss_curve(losses, curve, files / "loss.png")
        (files / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
        save_model(trainer.model, asdict(config), files / "model.safetensors", metrics)
        if reason != "diverged":
            save_pixels(render_texture(trainer.model, LARGE * size, seed), files / "output_large.png")
            save_growth(trainer.model, size, seed, files / "growth.gif")
            self._save_viewer(files / "viewer.html", metrics)
        for name in ("output.png", "target.png"):
            shutil.copy(files / name, self._folder / name)
        if self._tracker.log_files(files):
            shutil.rmtree(files)
        return self._folder / "output.png"

    def _save_viewer(self, path: Path, metrics: Mapping[str, float]) -> None:
        config, trainer = self._config, self._trainer
        size = config.train.size
        pictures = {"target": self._target, "output": to_pixels(trainer.output[:1])}
        path.write_text(
            make_viewer(trainer.model, size, pictures, describe_facts(config, metrics), name_study(config))
        )


def is_picture_step(step: int, n_steps: int) -> bool:
    """Say whether the output is recorded after a step: 0, 1, 3, 7, 15, ... and the last."""
    return (step + 1) & step == 0 or step + 1 == n_steps


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory that this process has held so far, in MB, on a GPU or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
