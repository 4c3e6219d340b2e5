"""From a command line to studies: what is fixed, what is searched, what a study is called."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from nca.cli.errors import ConfigError, nearest
from nca.config.schema import (
    FREE_OF_TRAIN,
    FeaturesConfig,
    ModelConfig,
    SweepConfig,
    TrainConfig,
    TrialConfig,
    build_sweep,
    name_study,
    with_values,
)
from nca.config.validation import flatten
from nca.loss.vgg_weights import resolve_features
from nca.records.paths import is_study_name
from sweeps.space import Choice, Domain, Interval, check_sampler

if TYPE_CHECKING:
    from sweeps.samplers import SamplerSpec
    from sweeps.study import PrunerSpec

__all__ = [
    "Plan",
    "has_study",
    "make_plans",
    "pruner_spec",
    "read_duration",
    "resolve",
    "sampler_spec",
]

# Searched values live in these groups; train.steps is the length of every trial.
SEARCHABLE = ("model.", "train.")
NOT_SEARCHABLE = ("model.name", "train.steps", *(f"train.{key}" for key in FREE_OF_TRAIN))
UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
# Several names of these give a study each; other parts take one.
STUDY_PARTS = ("texture", "model", "features")


@dataclass(frozen=True)
class Plan:
    """One study as a command line asks for it.

    Args:
        config: The whole config, features as asked for.
        space: What the sampler varies, by dotted key.
    """

    config: SweepConfig
    space: dict[str, Domain]

    def trial_config(self, params: Mapping[str, Any], trial_index: int) -> TrialConfig:
        """Return the config of a trial: its params, and training seeds that no other trial has."""
        trial = with_values(self.config.trial, params)
        return replace(trial, seed=trial.seed + trial_index * self.config.sweep.repeats)

    def with_features(self, features: FeaturesConfig) -> Plan:
        """Return the plan with another feature extractor, which also names its study."""
        trial = replace(self.config.trial, features=features)
        return replace(self, config=replace(self.config, trial=trial))

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.sweep.study or name_study(self.config.trial)


def make_plans(words: Sequence[str]) -> list[Plan]:
    """Turn a command line into studies: one, or one per combination of swept textures, models, features.

    Raises:
        ConfigError: If anything is misspelt or out of range, in one line.
        SweepError: If the sampler cannot draw from the space.
    """
    from nca.config.compose import sort_overrides

    overrides = sort_overrides(words)
    for part in overrides.parts:
        if part not in STUDY_PARTS:
            names = ",".join(overrides.parts[part])
            several = ", ".join(STUDY_PARTS)
            raise ConfigError(f"{part}={names}: takes one name; only {several} take several, a study each")
    plans = []
    for combination in itertools.product(*overrides.parts.values()):
        chosen = [f"{part}={name}" for part, name in zip(overrides.parts, combination, strict=True)]
        plans.append(_make_plan([*overrides.plain, *chosen], overrides.domains))
    for plan in plans:
        study = plan.config.sweep.study
        if study is not None and not is_study_name(study):
            raise ConfigError(f"sweep.study={study}: must be a name without /, and none that is taken by us")
    if study is not None and len({plan.config.sweep.study for plan in plans}) < len(plans):
        raise ConfigError(
            f"sweep.study={study}: one name for {len(plans)} studies; leave it out, or tell them apart: "
            "'sweep.study=${texture.name}-NAME'"
        )
    return plans


def _make_plan(overrides: list[str], domains: Mapping[str, Domain]) -> Plan:
    from nca.config.compose import compose_plain, read_domain

    values = compose_plain("sweep", overrides)
    config = build_sweep(values)
    known = flatten({part: values[part] for part in ("model", "train")})
    fixed = {word.lstrip("+").partition("=")[0] for word in overrides}
    space: dict[str, Domain] = {}
    plain: dict[str, Any] = {}
    for key, text in {**config.search, **domains}.items():
        _check_searchable(key, known)
        domain = text if isinstance(text, Choice | Interval) else read_domain(key, text)
        if domain is None and key not in fixed:
            plain[key] = text
        elif domain is not None and (key in domains or key not in fixed):
            space[key] = _fit(domain, key)
    config = replace(config, trial=with_values(config.trial, plain))
    plan = Plan(config, space)
    _check_values(plan)
    read_duration("sweep.timeout", config.sweep.timeout)
    read_duration("sweep.storage_timeout", config.sweep.storage_timeout)
    n_objectives = len(config.sweep.objectives)
    if len(set(config.sweep.objectives)) < n_objectives:
        raise ConfigError(f"sweep.objectives={_listed(config)}: names one twice")
    if n_objectives > 1 and config.pruner.name != "none":
        raise ConfigError(
            f"pruner={config.pruner.name}: ends trials by one objective, not by the {n_objectives} of "
            f"sweep.objectives={_listed(config)}; give pruner=none"
        )
    check_sampler(config.sampler.name, space, n_objectives)
    return plan


def _listed(config: SweepConfig) -> str:
    return f"[{','.join(config.sweep.objectives)}]"


def _check_searchable(key: str, known: Mapping[str, Any]) -> None:
    if key in known and key not in NOT_SEARCHABLE:
        return
    if key in NOT_SEARCHABLE or not key.startswith(SEARCHABLE):
        allowed = ", ".join(sorted(set(known) - set(NOT_SEARCHABLE)))
        raise ConfigError(f"{key} cannot be searched, only {allowed}")
    raise ConfigError(f"unknown key '{key}'{nearest(key, known)}")


def _fit(domain: Domain, key: str) -> Domain:
    """Return the domain in whole numbers where the schema wants one.

    Raises:
        ConfigError: If its ends or its step are not whole.
    """
    group, _, name = key.partition(".")
    hint = get_type_hints({"model": ModelConfig, "train": TrainConfig}[group])[name]
    if isinstance(domain, Choice) or int not in (hint, *get_args(hint)):
        return domain
    if any(number is not None and number != int(number) for number in (domain.low, domain.high, domain.step)):
        raise ConfigError(f"{key}={domain}: must hold whole numbers")
    return replace(domain, integer=True)


def _check_values(plan: Plan) -> None:
    """Build the config at every option, and at the first two and the last number of every interval.

    What fits there fits everywhere: ranges have no holes, and a multiple plus a multiple is one.
    """
    for key, domain in plan.space.items():
        for value in domain.options if isinstance(domain, Choice) else _first_and_last(domain):
            with_values(plan.config.trial, {key: value})


def _first_and_last(interval: Interval) -> list[float]:
    if interval.n_values == math.inf:
        return [interval.low, interval.high]
    last = int(interval.n_values) - 1
    return [interval.value(index) for index in (0, min(1, last), last)]


def resolve(plan: Plan) -> tuple[Plan, str]:
    """Decide what features=auto means here: the kind of a study that exists, else what can be had.

    Returns:
        The plan with features resolved, and a line to say about it, empty where nothing was decided.
    """
    features = plan.config.trial.features
    if features.name != "auto":
        return plan, ""
    ours = plan.with_features(resolve_features(features))
    others = [plan.with_features(FeaturesConfig("vgg16", features.weights))]
    others.append(plan.with_features(FeaturesConfig("random_filters")))
    for found in filter(has_study, [ours, *others]):
        kind = found.config.trial.features.name
        return found, f"features=auto: {kind}, as study {found.name} already uses it"
    if ours.config.trial.features.name == "vgg16":
        return ours, "features=auto: vgg16"
    return ours, (
        "warning: features=auto: VGG-16's weights are neither cached nor to be downloaded here, so the style "
        "loss uses random_filters; losses of the two are not comparable"
    )


def has_study(plan: Plan) -> bool:
    """Say whether the plan's study exists; creates nothing."""
    storage = plan.config.sweep.storage
    file = Path(storage.removeprefix("sqlite:///"))
    if storage.startswith("sqlite:///") and not file.exists():
        return False
    from sweeps.storage.optuna_storage import open_storage
    from sweeps.study import find_study

    return find_study(open_storage(storage, create=False), plan.name) is not None


def sampler_spec(config: SweepConfig) -> SamplerSpec:
    """Return how sets are drawn."""
    from sweeps.samplers import SamplerSpec

    return SamplerSpec(config.sampler.name, config.sweep.seed, _options(config.sampler))


def read_duration(key: str, text: str | None) -> float | None:
    """Return the seconds of a text such as 90min; None for None.

    Raises:
        ConfigError: If it is none.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{key}={text}: must be a number and s, min, h or d, as 90min or 2h")
    return float(found[1]) * UNITS_S[found[2]]


def pruner_spec(config: SweepConfig) -> PrunerSpec:
    """Return which trials end early."""
    from sweeps.study import PrunerSpec

    return PrunerSpec(config.pruner.name, config.trial.train.steps, _options(config.pruner))


def _options(part: Any) -> dict[str, int]:
    return {key: value for key, value in asdict(part).items() if key != "name" and value is not None}
