"""A study of textures: what all its trials share, and the config of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig, training_values
from nca.config.validation import flatten
from nca.study.plan import Plan

if TYPE_CHECKING:
    from sweeps.study import StudySpec

__all__ = ["TrialComposer", "study_spec"]


def study_spec(plan: Plan, identity: Mapping[str, str]) -> StudySpec:
    """Return the study with everything that a result depends on; files count by what is in them."""
    from sweeps.study import StudySpec

    sweep, values = plan.config.sweep, flatten(training_values(plan.config.trial))
    by_content = ("texture.path", "texture.url", "features.weights")
    fixed = {key: value for key, value in values.items() if key not in plan.space and key not in by_content}
    fixed |= {"sweep.repeats": sweep.repeats, **identity}
    return StudySpec(plan.name, sweep.storage, plan.space, fixed, sweep.objectives)


class TrialComposer:
    """Makes the configs of a study's trials, which read the texture and the weights from disk anew.

    Args:
        plan: The study's.
        identity: Of its texture and weights, see `identify_inputs`.
    """

    def __init__(self, plan: Plan, identity: Mapping[str, str]) -> None:
        self._plan, self._identity = plan, identity
        self._stamps = self._read_stamps()

    def __call__(self, params: Mapping[str, Any], trial_index: int) -> dict[str, Any]:
        """Return a trial's config, and in it what the sweep adds.

        Raises:
            ConfigError: If the texture or the weights have gone or changed since the study was planned.
        """
        config, sweep = self._plan.trial_config(params, trial_index), self._plan.config.sweep
        if (stamps := self._read_stamps()) != self._stamps:
            self._check_inputs(config)
            self._stamps = stamps
        settings = {
            "study": self._plan.name,
            "storage": sweep.storage,
            "objectives": sweep.objectives,
            "repeats": sweep.repeats,
        }
        return asdict(config) | {"sweep": settings}

    def _check_inputs(self, config: TrialConfig) -> None:
        from nca.training.preflight import identify_inputs

        for key, now in identify_inputs(config).items():
            if now != self._identity[key]:
                raise ConfigError(
                    f"{key} {self._identity[key]} -> {now}: the file has changed since the sweep began; "
                    "put it back, or begin another study with sweep.study=NAME"
                )

    def _read_stamps(self) -> list[tuple[int, int] | None]:
        """Return time and size of the files that the user gave, None for one that has gone."""
        trial = self._plan.config.trial
        given = (getattr(trial.texture, "path", None), trial.features.weights)
        files = [Path(path).expanduser() for path in given if path]
        return [(f.stat().st_mtime_ns, f.stat().st_size) if f.exists() else None for f in files]
