"""A study of textures: what all its trials share, and the config of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca.config.schema import TrialConfig, training_values
from nca.config.validation import flatten
from nca.study.plan import Plan

if TYPE_CHECKING:
    from sweeps.study import StudySpec

__all__ = ["TrialComposer", "study_spec"]


def study_spec(plan: Plan, identity: Mapping[str, str]) -> StudySpec:
    """Return the study with everything that a result depends on; files count by what is in them."""
    from sweeps.study import StudySpec

    sweep = plan.config.sweep
    fixed = _fixed_values(plan, plan.trial_config({}, 0), identity)
    return StudySpec(plan.name, sweep.storage, plan.space, fixed, sweep.objectives)


def _fixed_values(plan: Plan, config: TrialConfig, identity: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that all trials of a study share, as the config of one has them."""
    values = flatten(training_values(replace(config, seed=plan.config.seed)))
    fixed = {key: value for key, value in values.items() if key not in plan.space}
    for by_content in ("texture.path", "texture.url", "features.weights"):
        fixed.pop(by_content, None)
    return fixed | {"sweep.repeats": plan.config.sweep.repeats, **identity}


class TrialComposer:
    """Composes the configs of a study's trials, each of which must still be of the study.

    `conf/` is read anew for each, and each trial reads the texture and the weights from disk.

    Args:
        plan: The study's.
        identity: Of its texture and weights, see `identify_inputs`.
    """

    def __init__(self, plan: Plan, identity: Mapping[str, str]) -> None:
        self.spec = study_spec(plan, identity)
        self._plan, self._identity = plan, identity
        self._stamps = self._look()

    def __call__(self, params: Mapping[str, Any], ordinal: int) -> dict[str, Any]:
        """Return a trial's config, and in it what the sweep adds.

        Raises:
            ConfigError: If it cannot be composed any more, or the texture has gone.
            SweepError: If it differs from the study's in a fixed value.
        """
        from nca.training.preflight import identify_inputs
        from sweeps.study import check_fingerprint

        config = self._plan.trial_config(params, ordinal)
        if (stamps := self._look()) != self._stamps:
            self._identity, self._stamps = identify_inputs(config), stamps
        fixed = _fixed_values(self._plan, config, self._identity)
        check_fingerprint(replace(self.spec, fixed=fixed), self.spec.fingerprint)
        sweep = self._plan.config.sweep
        settings = {
            "study": self._plan.name,
            "storage": sweep.storage,
            "objectives": sweep.objectives,
            "repeats": sweep.repeats,
        }
        return asdict(config) | {"sweep": settings}

    def _look(self) -> list[tuple[int, int] | None]:
        """Return time and size of the files that the user gave, None for one that has gone."""
        config = self._plan.config
        given = (getattr(config.texture, "path", None), config.features.weights)
        files = [Path(path).expanduser() for path in given if path]
        return [(f.stat().st_mtime_ns, f.stat().st_size) if f.exists() else None for f in files]
