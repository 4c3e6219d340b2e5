"""The application that the sweep engine runs: a trial is one training run or several, recorded in MLflow.

The coordinator loads it too, and never torch.
"""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig, name_texture
from nca.config.validation import build
from nca.outputs.contact_sheet import make_contact_sheet
from nca.outputs.verdict import DISTANCES
from nca.records.paths import RecordPaths
from nca.study.dashboard_notes import describe_study, make_notes
from nca.study.dashboard_plot import PLOT, plot_results
from nca.tracking.client import load_mlflow, mlflow_errors
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import DESCRIPTION_TAG
from nca.training.inputs import hash_custom_classes
from sweeps.application import DashboardNotes, Result
from sweeps.running_trial import RunningTrial
from sweeps.trials import TrialSummary

CONTACT_SHEET = "contact_sheet.png"
MAX_IN_SHEET = 200  # outputs
LOADED_BY_TRIALS = (
    "nca.study.repeats",
    "torch._dynamo",  # Adam
    "matplotlib.figure",  # loss.png
    "matplotlib.backends.backend_agg",
)
ENGINE_KEYS = ("links", "sweep", "uid")  # of a config, beside those of `TrialConfig`


class TextureSweep:
    """The application of a texture study; each method gets a config of its trials."""

    uses_mlflow = True

    def open_study(
        self, study: str, config: Mapping[str, Any], lock: Callable[[], AbstractContextManager[None]]
    ) -> dict[str, str]:
        """Create the MLflow experiment and the parent run of the study if missing; return their ids."""
        trial = _trial_config(config)
        links: dict[str, str] = dict(config["links"])
        if trial.tracking.uri is None:
            return links
        store = MlflowStore(trial.tracking.uri)
        with mlflow_errors(trial.tracking.uri), lock():
            artifacts = Path(trial.runs_dir) / "artifacts" / study
            experiment = store.experiments.open(study, artifacts, config["uid"])
            settings, last_step = config["sweep"], trial.train.steps - 1
            metrics = list(dict.fromkeys([*DISTANCES, *settings["objectives"]]))
            store.experiments.save_views(experiment, metrics, [*settings["space"]], last_step)
            known = links.get("mlflow_experiment_id") == experiment and store.has_run(links["mlflow_run_id"])
            run_id = links["mlflow_run_id"] if known else store.create_run(experiment, study)
            run = store.tracker(run_id)
            run.resume()
            links = {"mlflow_experiment_id": experiment, "mlflow_run_id": run_id}
            paths = RecordPaths(Path(trial.runs_dir).absolute(), settings["storage"], trial.tracking.uri)
            description = describe_study(study, trial, paths, links, settings["space"])
            tags = {
                "optuna_study": study,
                "texture": name_texture(trial.texture),
                DESCRIPTION_TAG: description,
            }
            run.set_tags(tags)
        return links

    def warm_up(self) -> None:
        """Import, once for all trials, the modules that each would import later."""
        if self.uses_mlflow:
            load_mlflow(sql=True)
        for name in LOADED_BY_TRIALS:
            importlib.import_module(name)

    def run(self, trial: RunningTrial) -> Result:
        """Train a trial, once per seed, and return the means of its objectives.

        With `low_memory` it recomputes its rollouts.
        """
        from nca.study.repeats import Repeats
        from nca.training.run import is_out_of_memory

        config, settings = _trial_config(trial.config), trial.config["sweep"]
        _check_custom_classes(config, settings.get("inputs", {}))
        if trial.low_memory:
            config = replace(config, train=replace(config.train, recompute=True, cuda_graph=False))
        repeats = Repeats(trial, config, int(settings["repeats"]))
        try:
            return repeats.train(settings["objectives"])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.print_exc()
            line = str(error).strip().partition("\n")[0]
            return Result("out_of_memory", attributes=repeats.attributes | {"error": line})

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        """End the MLflow runs of a trial whose worker died; a retry resumes them."""
        uri = _trial_config(config).tracking.uri
        if uri is not None:
            with mlflow_errors(uri):
                MlflowStore(uri).end_runs_in(folder, reason)

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], trials: Sequence[TrialSummary]
    ) -> DashboardNotes:
        """Draw target and all outputs, the best first; return notes on all trials."""
        trial, study = _trial_config(config), config["sweep"]["study"]
        runs, uri = Path(trial.runs_dir), trial.tracking.uri
        store = None if uri is None else MlflowStore(uri)
        folder = runs / "trials" / study
        if store is not None:
            store.deliver(folder)
        ranked = sorted(trials, key=lambda each: math.inf if each.value is None else each.value)
        values = [each.reason if each.value is None else f"{each.value:.3g}" for each in ranked]
        entries = [
            (folder / str(each.first_attempt) / "output.png", f"{each.first_attempt}: {value}")
            for each, value in zip(ranked, values, strict=True)
        ]
        paths, sheet = RecordPaths(runs.absolute(), config["sweep"]["storage"], uri), folder / CONTACT_SHEET
        has_outputs = any(path.exists() for path, _ in entries)
        if has_outputs:
            target = paths.find_target(study)
            targets = [] if target is None else [(target, "target")]
            make_contact_sheet([*targets, *entries[:MAX_IN_SHEET]]).save(sheet)
            if store is not None:
                store.log_file(links["mlflow_run_id"], sheet)
        notes = make_notes(study, trial, paths, links, trials)
        plots = {PLOT: plot_results(trials, config["sweep"]["objectives"])}
        return replace(notes, pictures=[sheet] * has_outputs, plots=plots)

    def close_study(
        self,
        config: Mapping[str, Any],
        links: Mapping[str, str],
        summary: Mapping[str, float],
        ended_at: datetime | None,
    ) -> None:
        """End the parent run with the metrics of the sweep's summary, at the time when its last trial ended.

        So the run is not longer after a command that starts no trial.
        """
        trial = _trial_config(config)
        uri, folder = trial.tracking.uri, Path(trial.runs_dir) / "trials" / config["sweep"]["study"]
        if uri is not None:
            store = MlflowStore(uri)
            with mlflow_errors(uri):
                run = store.tracker(links["mlflow_run_id"], folder)
                run.resume()
                run.log_metrics(summary, int(summary["n_trials"]))
                run.finish("FINISHED", ended_at)
                store.deliver(folder)


class UntrackedSweep(TextureSweep):
    """The application of a study with `tracking=none`, which saves the seconds of loading MLflow."""

    uses_mlflow = False


def _check_custom_classes(config: TrialConfig, expected: Mapping[str, str]) -> None:
    """Check that this machine has the code of a user's own classes that the study has.

    Raises:
        ConfigError: If it has other code.
    """
    for key, found in hash_custom_classes(config).items():
        if found != expected.get(key, found):
            raise ConfigError(f"{key} {expected[key]} -> {found}: this machine has another file")


def _trial_config(config: Mapping[str, Any]) -> TrialConfig:
    return build(TrialConfig, {key: value for key, value in config.items() if key not in ENGINE_KEYS})
