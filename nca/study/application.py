"""What the sweep engine runs for a texture: a trial is one training run or several, recorded in MLflow."""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nca.config.schema import TrialConfig
from nca.config.validation import build
from nca.outputs.pictures import make_contact_sheet
from nca.records.paths import RecordPaths
from nca.study.dashboard_notes import make_notes
from nca.study.repeats import TrialRuns
from nca.tracking.client import load_mlflow, mlflow_errors
from nca.tracking.store import MlflowStore
from nca.training.run import is_out_of_memory
from sweeps.application import DashboardNotes, FinishedTrial, Result
from sweeps.running_trial import RunningTrial

__all__ = ["TextureSweep", "UntrackedSweep"]

CONTACT_SHEET = "contact_sheet.png"
MOST_IN_SHEET = 200  # outputs
LOADED_LATE = ("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg")  # Adam, loss.png
NOT_OF_A_TRIAL = ("links", "sweep", "uid")  # what the engine and the sweep add to a trial's config


class TextureSweep:
    """The application of a texture sweep: what the engine runs and what it keeps in MLflow."""

    def open_study(self, study: str, config: Mapping[str, Any]) -> dict[str, str]:
        """Create the MLflow experiment and the study's parent run where they are missing."""
        trial = _trial_config(config)
        links: dict[str, str] = dict(config["links"])
        if trial.tracking.uri is None:
            return links
        store = MlflowStore(trial.tracking.uri)
        with mlflow_errors(trial.tracking.uri):
            artifacts = Path(trial.runs_dir) / "artifacts" / study
            experiment = store.experiments.open(study, artifacts, config["uid"])
            known = links.get("mlflow_experiment_id") == experiment and store.has_run(links["mlflow_run_id"])
            if not known:
                links = {
                    "mlflow_experiment_id": experiment,
                    "mlflow_run_id": store.create_run(experiment, study),
                }
            tags = {"optuna_study": study, "texture": trial.texture.name}
            run = store.tracker(links["mlflow_run_id"])
            run.resume()
            run.set_tags(tags)
        return links

    def warm_up(self) -> None:
        """Load, once for all trials, what each would load in its course; torch came with this module."""
        load_mlflow(sql=True)
        _load_late()

    def run(self, trial: RunningTrial) -> Result:
        """Train the trial's set, once per seed, and return the means of its objectives.

        With `low_memory` it recomputes its rollouts.
        """
        config, settings = _trial_config(trial.config), trial.config["sweep"]
        if trial.low_memory:
            config = replace(config, train=replace(config.train, recompute=True, cuda_graph=False))
        seeds = TrialRuns(trial, config, int(settings["repeats"]))
        try:
            return seeds.train(settings["objectives"])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.print_exc()
            line = str(error).strip().partition("\n")[0]
            return Result("out_of_memory", attributes=seeds.attributes | {"error": line})

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        """End the MLflow runs of a trial whose worker died; a retry takes them up again."""
        trial = _trial_config(config)
        if trial.tracking.uri is None:
            return
        with mlflow_errors(trial.tracking.uri):
            MlflowStore(trial.tracking.uri).end_runs_in(folder, reason)

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], ended: Sequence[FinishedTrial]
    ) -> DashboardNotes:
        """Draw the outputs so far, the best first, for the parent run; return notes on all trials."""
        trial = _trial_config(config)
        if trial.tracking.uri is not None:
            MlflowStore(trial.tracking.uri).deliver(_folder(trial, config["sweep"]["study"]))
        if ended:
            self._draw_outputs(trial, links, ended)
        runs = Path(trial.runs_dir).absolute()
        paths = RecordPaths(runs, config["sweep"]["storage"], trial.tracking.uri)
        return make_notes(config["sweep"]["study"], trial, paths, links, ended)

    def _draw_outputs(
        self, trial: TrialConfig, links: Mapping[str, str], ended: Sequence[FinishedTrial]
    ) -> None:
        entries = [
            (
                each.folder / "output.png",
                f"{each.number}: {each.reason if each.value is None else f'{each.value:.3g}'}",
            )
            for each in sorted(ended, key=lambda e: math.inf if e.value is None else e.value)
        ]
        if not any(path.exists() for path, _ in entries):
            return
        sheet = ended[0].folder.parent / CONTACT_SHEET
        make_contact_sheet(entries[:MOST_IN_SHEET]).save(sheet)
        if trial.tracking.uri is not None:
            MlflowStore(trial.tracking.uri).log_file(links["mlflow_run_id"], sheet)

    def close_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], summary: Mapping[str, float]
    ) -> None:
        """End the parent run with the sweep's summary."""
        trial = _trial_config(config)
        if trial.tracking.uri is not None:
            store, folder = MlflowStore(trial.tracking.uri), _folder(trial, config["sweep"]["study"])
            with mlflow_errors(trial.tracking.uri):
                run = store.tracker(links["mlflow_run_id"], folder)
                run.resume()
                run.log_metrics(summary, int(summary["n_trials"]))
                run.finish("FINISHED")
                store.deliver(folder)


class UntrackedSweep(TextureSweep):
    """A sweep with `tracking=none`, which does without MLflow's seconds of loading."""

    def warm_up(self) -> None:
        """Load the rest."""
        _load_late()


def _folder(trial: TrialConfig, study: str) -> Path:
    """Return the folder of a study's trials."""
    return Path(trial.runs_dir) / "trials" / study


def _load_late() -> None:
    for name in LOADED_LATE:
        importlib.import_module(name)


def _trial_config(config: Mapping[str, Any]) -> TrialConfig:
    return build(TrialConfig, {key: value for key, value in config.items() if key not in NOT_OF_A_TRIAL})
