"""What the sweep engine runs for a texture: a trial is a training run, recorded in MLflow."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nca.config import TrialConfig
from nca.run import is_out_of_memory, open_tracker, train
from nca.schema import build
from nca.tracking import MlflowStore, NullTracker, Tracker, load_mlflow
from sweeps.worker import Result, RunningTrial

__all__ = ["OBJECTIVE", "TextureSweep"]

OBJECTIVE = "final_loss"


class TextureSweep:
    """The application of a texture sweep: what the engine runs and what it keeps in MLflow."""

    def open_study(self, study: str, config: Mapping[str, Any]) -> dict[str, str]:
        """Create the MLflow experiment and the study's parent run where they are missing."""
        trial = _trial_config(config)
        links: dict[str, str] = dict(config["links"])
        if trial.tracking.uri is None:
            return links
        store = MlflowStore(trial.tracking.uri)
        experiment = store.open_experiment(study, Path(trial.runs_dir) / "artifacts" / study)
        known = links.get("mlflow_experiment_id") == experiment and store.has_run(links["mlflow_run_id"])
        if not known:
            links = {
                "mlflow_experiment_id": experiment,
                "mlflow_run_id": store.create_run(experiment, study),
            }
        store.take_up_run(links["mlflow_run_id"]).set_tags(
            {"optuna_study": study, "texture": trial.texture.name}
        )
        return links

    def warm_up(self) -> None:
        """Load MLflow; torch came with this module."""
        load_mlflow()

    def run(self, trial: RunningTrial) -> Result:
        """Train the trial and return its final loss; a lean one recomputes its rollouts."""
        config = _trial_config(trial.config)
        if trial.lean:
            config = replace(config, train=replace(config.train, recompute=True, cuda_graph=False))
        tracker: Tracker = NullTracker()
        attributes: dict[str, Any] = {"training_seed": config.seed}
        if config.tracking.uri is not None:
            tracker = mlflow = open_tracker(
                MlflowStore(config.tracking.uri),
                trial.links["mlflow_experiment_id"],
                config,
                trial.folder,
                name=f"trial {trial.origin}",
                parent_run_id=trial.links["mlflow_run_id"],
            )
            attributes["mlflow_run_id"] = mlflow.run_id
            tracker.set_tags({"optuna_study": trial.study_name, "optuna_trial": str(trial.number)})
        try:
            outcome = train(config, trial.folder, tracker, trial)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.print_exc()
            line = str(error).strip().partition("\n")[0]
            return Result("out_of_memory", attributes=attributes | {"error": line})
        pictures = [] if outcome.picture is None else [outcome.picture]
        value = outcome.metrics.get(OBJECTIVE)
        attributes |= outcome.metrics | {"n_steps": outcome.n_steps}
        return Result(outcome.reason, () if value is None else (value,), attributes, pictures)

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        """End the MLflow run of a trial whose worker died; a retry takes it up again."""
        trial = _trial_config(config)
        note = folder / "run_id"
        if trial.tracking.uri is None or not note.exists():
            return
        store = MlflowStore(trial.tracking.uri)
        if store.has_run(note.read_text()):
            store.end_run(note.read_text(), "KILLED", {"reason": reason})

    def close_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], summary: Mapping[str, float]
    ) -> None:
        """End the parent run with the sweep's summary."""
        trial = _trial_config(config)
        if trial.tracking.uri is not None:
            run = MlflowStore(trial.tracking.uri).take_up_run(links["mlflow_run_id"])
            run.log_metrics(summary, int(summary["n_trials"]))
            run.finish("FINISHED")


def _trial_config(config: Mapping[str, Any]) -> TrialConfig:
    return build(TrialConfig, {key: value for key, value in config.items() if key != "links"})
