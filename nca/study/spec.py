"""What the sweep engine gets of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.config.custom_class import find_source
from nca.config.schema import (
    PrunerConfig,
    SamplerConfig,
    SweepConfig,
    TrialConfig,
    custom_classes,
    training_values,
)
from nca.config.validation import flatten
from nca.study.plan import Plan, read_duration
from nca.training.inputs import hash_files
from sweeps.samplers import SamplerSpec
from sweeps.space import describe
from sweeps.spec import SweepSpec
from sweeps.study import PrunerSpec, StudySpec

BY_CONTENT = ("texture.path", "texture.url", "features.weights")  # files, compared by their hashes


def sweep_spec(plan: Plan, application: str, inputs: Mapping[str, str]) -> SweepSpec:
    """Return the sweep of a plan.

    Args:
        plan: With features resolved.
        application: Dotted path of the application.
        inputs: Hashes of the texture and the weights, see `hash_inputs`.
    """
    config, runs = plan.config, Path(plan.config.trial.runs_dir)
    return SweepSpec(
        study=study_spec(plan, inputs),
        sampler=sampler_spec(config),
        pruner=pruner_spec(config),
        n_trials=config.sweep.n_trials,
        retries=config.sweep.retries,
        application=application,
        compose=TrialConfigs(plan, inputs),
        trials=runs / "trials" / plan.name,
        artifacts=runs / "artifacts" / "optuna",
        timeout_s=read_duration("sweep.timeout", config.sweep.timeout),
        max_steps=config.sweep.max_steps,
        warm_start=config.sweep.warm_start,
        storage_timeout_s=read_duration("sweep.storage_timeout", config.sweep.storage_timeout) or 0.0,
    )


def study_spec(plan: Plan, inputs: Mapping[str, str]) -> StudySpec:
    """Return the study of a plan, with all fixed values that a result depends on."""
    sweep, values = plan.config.sweep, flatten(training_values(plan.config.trial))
    fixed = {key: value for key, value in values.items() if key not in plan.space and key not in BY_CONTENT}
    fixed |= {"sweep.repeats": sweep.repeats, **inputs}
    return StudySpec(plan.name, sweep.storage, plan.space, fixed, sweep.objectives)


def sampler_spec(config: SweepConfig) -> SamplerSpec:
    """Return the sampler of a sweep."""
    return SamplerSpec(config.sampler.name, config.sweep.seed, _options(config.sampler))


def pruner_spec(config: SweepConfig) -> PrunerSpec:
    """Return the pruner of a sweep."""
    return PrunerSpec(config.pruner.name, config.trial.train.steps, _options(config.pruner))


def _options(part: SamplerConfig | PrunerConfig) -> dict[str, int]:
    return {key: value for key, value in asdict(part).items() if key != "name" and value is not None}


class TrialConfigs:
    """Makes the configs of a study's trials, which read the texture and the weights from disk anew.

    Args:
        plan: Plan of the study.
        inputs: Hashes of its texture and weights.
    """

    def __init__(self, plan: Plan, inputs: Mapping[str, str]) -> None:
        self._plan, self._inputs = plan, inputs
        self._stamps = self._read_stamps()

    def __call__(self, params: Mapping[str, Any], trial_index: int) -> dict[str, Any]:
        """Return the config of a trial with the settings of the sweep.

        Raises:
            ConfigError: If the texture or the weights are missing, or have changed since the sweep began.
        """
        config, sweep = self._plan.trial_config(params, trial_index), self._plan.config.sweep
        if (stamps := self._read_stamps()) != self._stamps:
            self._check_inputs(config)
            self._stamps = stamps
        settings = {
            "study": self._plan.name,
            "storage": sweep.storage,
            "objectives": sweep.objectives,
            "space": describe(self._plan.space),
            "repeats": sweep.repeats,
            "inputs": dict(self._inputs),
        }
        return asdict(config) | {"sweep": settings}

    def _check_inputs(self, config: TrialConfig) -> None:
        for key, now in hash_files(config).items():
            if now != self._inputs[key]:
                raise ConfigError(
                    f"{key} {self._inputs[key]} -> {now}: the file has changed since the sweep began; "
                    "put it back, or begin another study with sweep.study=NAME"
                )

    def _read_stamps(self) -> list[tuple[int, int] | None]:
        """Return modification time and size of the files of the config, None for a missing one."""
        trial = self._plan.config.trial
        given = (getattr(trial.texture, "path", None), trial.features.weights)
        files = [Path(path).expanduser() for path in given if path]
        files += [find_source(group, name) for group, name in custom_classes(trial).items()]
        return [(f.stat().st_mtime_ns, f.stat().st_size) if f.exists() else None for f in files]
