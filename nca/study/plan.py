"""Plans of studies: what a command line fixes, what it searches, and how the studies are named."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nca.cli.errors import ConfigError, nearest
from nca.cli.options import read_out_path
from nca.config.custom_class import CUSTOM_GROUPS, find_source, is_custom_option
from nca.config.schema import (
    FREE_OF_TRAIN,
    FeaturesConfig,
    ImageTexture,
    LossConfig,
    ModelConfig,
    Objective,
    SweepConfig,
    Texture,
    TrainConfig,
    TrialConfig,
    build_sweep,
    custom_classes,
    name_study,
    with_values,
)
from nca.loss.vgg_weights import resolve_features
from nca.records.paths import is_study_name
from nca.textures.image_paths import find_images
from sweeps.space import Choice, Domain, Interval, Scalar, check_sampler
from sweeps.storage.sqlite import SQLITE

SCHEMAS = {
    "model": ModelConfig,
    "loss": LossConfig,
    "features": FeaturesConfig,
    "train": TrainConfig,
}  # groups whose values can be searched
FIXED = {"model.name", "loss.name", "features.name", "features.weights", "train.steps", "train.drop_steps"}
FIXED |= {"model.options", "loss.options"}
FIXED |= {f"train.{key}" for key in FREE_OF_TRAIN}
SEARCHABLE = {f"{group}.{item.name}" for group, part in SCHEMAS.items() for item in fields(part)} - FIXED
UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
COSTS = {"n_parameters", "seconds_per_step", "peak_memory_mb"}  # no training loss predicts these
PRUNED_BY = [name for name in get_args(Objective) if name not in COSTS]
PREVIEW_SUFFIXES = (".png",)
MAX_NAME_BYTES = 200  # of a study; those of files are limited to 255
MAX_SHOWN = 40  # characters of a name that is refused
NAME = re.compile(r"[^-. =,][^=,]*")
STUDY_GROUPS = ("texture", "model", "loss", "features")  # several names of one give a study each


@dataclass(frozen=True)
class Plan:
    """One study of a command line.

    Args:
        config: The config.
        space: What the sampler varies, by dotted key.
        note: A line on the folder that the plan's image is from, empty if there is none.
    """

    config: SweepConfig
    space: dict[str, Domain]
    note: str = ""

    def trial_config(self, params: Mapping[str, Any], trial_index: int) -> TrialConfig:
        """Return the config of a trial: its params, and training seeds that no other trial has."""
        trial = with_values(self.config.trial, params)
        return replace(trial, seed=trial.seed + trial_index * self.config.sweep.repeats)

    @property
    def largest_trials(self) -> list[TrialConfig]:
        """The configs that ask most of a machine: the largest number of every domain, with each precision."""
        largest = {key: max(numbers) for key, domain in self.space.items() if (numbers := _numbers(domain))}
        precision = "train.precision"
        precisions = _values(self.space[precision]) if precision in self.space else [None]
        return [
            with_values(self.config.trial, largest | ({} if each is None else {precision: each}))
            for each in precisions
        ]

    def custom_trials(self) -> list[TrialConfig]:
        """Return configs to try a user's own classes with: the fixed values, and each value of the search."""
        if not custom_classes(self.config.trial):
            return []
        own = [(key, domain) for key, domain in self.space.items() if key.partition(".")[0] in CUSTOM_GROUPS]
        changed = [{key: value} for key, domain in own for value in _values(domain)]
        return [with_values(self.config.trial, values) for values in ({}, *changed)]

    def with_features(self, features: FeaturesConfig) -> Plan:
        """Return the plan with another feature extractor, which also names its study."""
        trial = replace(self.config.trial, features=features)
        return replace(self, config=replace(self.config, trial=trial))

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.sweep.study or name_study(self.config.trial)


def make_plans(argv: Sequence[str]) -> list[Plan]:
    """Return the plans of a command line, one per combination of its textures, images, models and features.

    Raises:
        ConfigError: If a key is unknown or a value out of range.
        SweepError: If the sampler cannot draw from the space.
    """
    from nca.config.overrides import sort_overrides

    overrides = sort_overrides(argv)
    for group, names in overrides.groups.items():
        if group not in STUDY_GROUPS:
            several = ", ".join(STUDY_GROUPS)
            raise ConfigError(f"{group}={','.join(names)}: takes one name; only {several} take several")
    choices = [[f"{group}={name}" for name in names] for group, names in overrides.groups.items()]
    plans = [
        plan
        for chosen in itertools.product(*choices)
        for plan in _make_plans_of_images([*overrides.plain, *chosen], overrides.domains)
    ]
    for plan in plans:
        _check_name(plan.name if plan.config.sweep.study is None else plan.config.sweep.study)
    _check_names(plans)
    return plans


def _make_plans_of_images(overrides: list[str], domains: Mapping[str, Domain]) -> list[Plan]:
    """Return a plan per image file; the plan alone if the texture is another one, or a single file."""
    from nca.config.overrides import quote_text

    plan = _make_plan(overrides, domains)
    texture = plan.config.trial.texture
    if not isinstance(texture, ImageTexture):
        return [plan]
    paths, note = find_images(texture.path)
    if paths == [texture.path]:
        return [plan]
    each = ([*overrides, f"texture.path={quote_text(path)}"] for path in paths)
    return [replace(_make_plan(own, domains), note=note) for own in each]


def _make_plan(overrides: list[str], domains: Mapping[str, Domain]) -> Plan:
    from nca.config.compose import compose_plain
    from nca.config.overrides import keys_of, read_domain

    config = build_sweep(compose_plain("sweep", overrides))
    fixed = set(keys_of(overrides)) - domains.keys()
    space: dict[str, Domain] = {}
    values: dict[str, Any] = {}
    for key, text in {**config.search, **domains}.items():
        _check_searchable(key)
        domain = domains[key] if key in domains else read_domain(key, text)
        if key not in fixed and domain is None:
            values[key] = text
        elif key not in fixed and domain is not None:
            space[key] = _as_integers(domain, key)
    for group, name in custom_classes(config.trial).items():
        find_source(group, name)
    plan = Plan(replace(config, trial=with_values(config.trial, values)), space)
    _check_space(plan)
    _check_settings(config)
    check_sampler(config.sampler.name, space, len(config.sweep.objectives))
    return plan


def _check_name(study: str) -> None:
    """Check a study's name, which folders have too, and which command lines hold in lists with commas.

    Raises:
        ConfigError: If it is not allowed.
    """
    is_short = 0 < len(study.encode()) <= MAX_NAME_BYTES
    if not is_short or not is_study_name(study) or not NAME.fullmatch(study) or not study.isprintable():
        shown = repr(study[:MAX_SHOWN]) + "..." * (len(study) > MAX_SHOWN)
        raise ConfigError(
            f"sweep.study={shown}: must be a name of 1 to {MAX_NAME_BYTES} bytes without / = , and control "
            "characters, must not begin with - or . or a space, and not be reserved; give sweep.study=NAME"
        )


def _check_names(plans: Sequence[Plan]) -> None:
    """Check that no two studies have one name.

    Raises:
        ConfigError: If two do.
    """
    given = {study for plan in plans if (study := plan.config.sweep.study) is not None}
    if given and len(given) < len(plans):
        of_images = isinstance(plans[0].config.trial.texture, ImageTexture)
        own = "${stem:${texture.path}}" if of_images else "${texture.name}"
        raise ConfigError(
            f"sweep.study={min(given)}: one name for {len(plans)} studies; leave it out, or make it differ: "
            f"'sweep.study={own}-NAME'"
        )
    textures: dict[str, Texture] = {}
    for plan in plans:
        texture = plan.config.trial.texture
        other = textures.setdefault(plan.name, texture)
        if other != texture:
            first, second = (getattr(each, "path", each.name) for each in (other, texture))
            raise ConfigError(
                f"{first} and {second} would both be study {plan.name}; rename one, or give each its own "
                "command with sweep.study=NAME"
            )


def _check_searchable(key: str) -> None:
    if key in SEARCHABLE or is_custom_option(key):
        return
    if key in FIXED or key.partition(".")[0] not in SCHEMAS:
        raise ConfigError(f"{key} cannot be searched, only {', '.join(sorted(SEARCHABLE))}")
    raise ConfigError(f"unknown key '{key}'{nearest(key, SEARCHABLE | FIXED)}")


def _as_integers(domain: Domain, key: str) -> Domain:
    """Return the domain, of whole numbers where the schema has them.

    Raises:
        ConfigError: If its ends or its step are not whole then.
    """
    group, _, name = key.partition(".")
    if isinstance(domain, Choice):
        return domain
    is_whole = all(n is None or n == int(n) for n in (domain.low, domain.high, domain.step))
    if is_custom_option(key):  # of an unknown type: a range of whole numbers is one of these
        return replace(domain, integer=is_whole and domain.step is not None)
    hint = get_type_hints(SCHEMAS[group])[name]
    if int not in (hint, *get_args(hint)):
        return domain
    if not is_whole:
        raise ConfigError(f"{key}={domain}: must hold whole numbers")
    return replace(domain, integer=True)


def _check_space(plan: Plan) -> None:
    """Build the config with every option, and with the first two and the last number of every interval.

    If these are allowed, all are: ranges have no holes, a multiple plus a multiple is one, and the others are
    checked with the largest `min_ca_steps` and the smallest `max_ca_steps`.

    Raises:
        ConfigError: If one is not allowed.
    """
    from nca.config.overrides import COMMAS

    ends = {"train.min_ca_steps": max, "train.max_ca_steps": min}
    tightest = {
        key: end(numbers)
        for key, end in ends.items()
        if key in plan.space and (numbers := _numbers(plan.space[key]))
    }
    for key, domain in ({key: plan.space[key] for key in tightest} | plan.space).items():
        for value in _values(domain):
            try:
                with_values(plan.config.trial, tightest | {key: value})
            except ConfigError as error:
                hint = f"; {COMMAS}" if isinstance(domain, Choice) else ""
                raise ConfigError(f"{error}, in {domain}{hint}") from error


def _values(domain: Domain) -> Sequence[Scalar]:
    """Return the options of a choice, or the first two and the last number of an interval."""
    return domain.options if isinstance(domain, Choice) else _first_and_last(domain)


def _numbers(domain: Domain) -> list[int | float]:
    """Return the numbers among the values of a domain."""
    return [v for v in _values(domain) if isinstance(v, int | float) and not isinstance(v, bool)]


def _first_and_last(interval: Interval) -> list[float]:
    if interval.n_values == math.inf:
        return [interval.low, interval.high]
    last = int(interval.n_values) - 1
    return [interval.value(index) for index in (0, min(1, last), last)]


def _check_settings(config: SweepConfig) -> None:
    read_duration("sweep.timeout", config.sweep.timeout)
    read_duration("sweep.storage_timeout", config.sweep.storage_timeout)
    if config.sweep.preview is not None:
        read_out_path({"sweep.preview": config.sweep.preview}, "sweep.preview", "", PREVIEW_SUFFIXES)
    objectives = config.sweep.objectives
    shown = f"sweep.objectives=[{','.join(objectives)}]"
    if len(set(objectives)) < len(objectives):
        raise ConfigError(f"{shown}: names one twice")
    if objectives[0] not in PRUNED_BY and config.pruner.name != "none":
        raise ConfigError(
            f"pruner={config.pruner.name}: prunes by the training loss, which is not the first of {shown}; "
            f"put one of {', '.join(PRUNED_BY)} first, or give pruner=none"
        )


def read_duration(key: str, text: str | None) -> float | None:
    """Return the seconds of a text such as 90min; None for None.

    Raises:
        ConfigError: If it is not a duration above 0.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", text.strip())
    if found is None or not 0 < float(found[1]) < math.inf:
        raise ConfigError(f"{key}={text}: must be a number and s, min, h or d, as 90min or 2h")
    return float(found[1]) * UNITS_S[found[2]]


def resolve(plan: Plan) -> tuple[Plan, str]:
    """Resolve features=auto to the extractor of an existing study, or else to the best that is available.

    Returns:
        The plan with its extractor, and a line on the decision, empty if there was none.
    """
    features = plan.config.trial.features
    if features.name != "auto":
        return plan, ""
    ours = plan.with_features(resolve_features(features, plan.config.trial.loss))
    if ours.config.trial.loss.name != "gram":
        return ours, ""
    others = [FeaturesConfig("vgg16", features.weights), FeaturesConfig("random_filters")]
    for found in filter(has_study, [ours, *map(plan.with_features, others)]):
        kind = found.config.trial.features.name
        return found, f"features=auto: {kind}, as study {found.name} already uses it"
    if ours.config.trial.features.name == "vgg16":
        return ours, "features=auto: vgg16"
    return ours, (
        "warning: features=auto: VGG-16's weights are not cached and cannot be downloaded, so the style "
        "loss uses random_filters; losses of the two are not comparable"
    )


def has_study(plan: Plan) -> bool:
    """Return whether the plan's study exists; creates nothing."""
    storage = plan.config.sweep.storage
    if storage.startswith(SQLITE) and not Path(storage.removeprefix(SQLITE)).exists():
        return False
    from sweeps.admin import Studies
    from sweeps.storage.optuna_storage import NoStudiesError

    try:
        return plan.name in Studies(storage).names()
    except NoStudiesError:
        return False
