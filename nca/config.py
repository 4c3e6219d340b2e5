"""Typed schema of conf/: frozen dataclasses whose ranges are checked when they are built.

Standard library only, so that entry points can refuse bad input before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "ConfigError",
    "ExecutorConfig",
    "FeaturesConfig",
    "GrayScottTexture",
    "ImageTexture",
    "ModelConfig",
    "PlantTexture",
    "PrunerConfig",
    "SamplerConfig",
    "SweepConfig",
    "SweepSettings",
    "Texture",
    "TrackingConfig",
    "TrainConfig",
    "TrialConfig",
    "build",
    "exit_on_error",
    "flatten",
    "name_study",
    "nearest",
]


class ConfigError(ValueError):
    """A user's input was wrong: one line with the value, what is allowed and how to go on."""


T = typing.TypeVar("T")


def leaf(**allowed: Any) -> Any:
    """Declare a config value with what is allowed for it.

    Args:
        allowed: Any of `at_least`, `at_most`, `above` (numbers), `multiple_of` (integer), `default`.
    """
    default = allowed.pop("default", MISSING)
    return field(default=default, metadata=allowed)


@contextlib.contextmanager
def exit_on_error(*also: type[Exception]) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit code 2.

    Args:
        also: Further exceptions whose message is such a line.

    Raises:
        SystemExit: With code 2, after the line.
    """
    mistakes: tuple[type[Exception], ...] = (ConfigError, *also)
    try:
        yield
    except mistakes as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@dataclass(frozen=True)
class PlantTexture:
    """One of the study's four plants: drawn by `nca.drawing`, or its photograph."""

    name: str
    source: Literal["drawn", "photo"]
    url: str


@dataclass(frozen=True)
class ImageTexture:
    """An image file of the user's."""

    name: str
    source: Literal["file"]
    path: str


@dataclass(frozen=True, kw_only=True)
class GrayScottTexture:
    """A simulated reaction-diffusion pattern; `feed` and `kill` default to the preset's."""

    name: str
    source: Literal["gray_scott"]
    preset: str
    feed: float | None = leaf(at_least=0.0, at_most=0.2)
    kill: float | None = leaf(at_least=0.0, at_most=0.2)
    seed: int = leaf(at_least=0)


Texture = PlantTexture | ImageTexture | GrayScottTexture


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The update rule and its perception."""

    name: str
    channels: int = leaf(at_least=3, at_most=64)
    hidden_channels: int = leaf(at_least=1, at_most=1024)
    filters: int = leaf(at_least=1, at_most=20)
    update_rate: float = leaf(above=0.0, at_most=1.0)
    activation: Literal["linear", "relu"]
    mask: Literal["channel", "cell"]


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature extractor of the style loss; `weights` belongs to vgg16 and auto."""

    name: Literal["vgg16", "random_filters", "auto"]
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    steps: int = leaf(at_least=1)
    batch_size: int = leaf(at_least=1, at_most=64)
    learning_rate: float = leaf(above=0.0, at_most=1.0)
    max_ca_steps: int = leaf(at_least=2, at_most=1024)
    size: int = leaf(at_least=16, at_most=1024, multiple_of=16)
    pool_size: int | None = leaf(at_least=1)
    precision: Literal["fp32", "bf16"]
    rollout: Literal["fast", "plain"]
    checkpoint_every: int = leaf(at_least=1)
    checkpoint_every_s: float = leaf(at_least=0.0)


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are recorded; `uri` belongs to mlflow."""

    name: Literal["mlflow", "none"]
    uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that one training run needs; the schema of train.yaml."""

    texture: Texture
    model: ModelConfig
    features: FeaturesConfig
    train: TrainConfig
    tracking: TrackingConfig
    seed: int = leaf(at_least=0)
    device: str
    runs_dir: str


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How Optuna draws the sets."""

    name: Literal["tpe", "random", "gp", "cmaes", "qmc", "grid"]
    n_startup_trials: int | None = leaf(default=None, at_least=1)


@dataclass(frozen=True, kw_only=True)
class PrunerConfig:
    """Which trials end early; every option belongs to the pruners whose YAML lists it."""

    name: Literal["none", "median", "asha", "hyperband"]
    n_startup_trials: int | None = leaf(default=None, at_least=0)
    n_warmup_steps: int | None = leaf(default=None, at_least=0)
    min_resource: int | None = leaf(default=None, at_least=1)
    reduction_factor: int | None = leaf(default=None, at_least=2)


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """The slots that trials run in."""

    name: Literal["local"]
    workers: int | Literal["auto"] = leaf(at_least=1, at_most=1024)
    threads: int | Literal["auto"] = leaf(at_least=1, at_most=1024)
    gpus: int | Literal["auto"] = leaf(at_least=0, at_most=1024)


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """The study: its name, its size, its storage."""

    study: str | None
    n_trials: int = leaf(at_least=1)
    storage: str
    retries: int = leaf(at_least=0, at_most=100)
    seed: int = leaf(at_least=0)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The schema of sweep.yaml: a trial's config and what draws, ends and runs trials."""

    texture: Texture
    model: ModelConfig
    features: FeaturesConfig
    train: TrainConfig
    tracking: TrackingConfig
    sweep: SweepSettings
    sampler: SamplerConfig
    pruner: PrunerConfig
    executor: ExecutorConfig
    search: dict[str, Any]
    seed: int = leaf(at_least=0)
    device: str
    runs_dir: str


def name_study(config: TrialConfig) -> str:
    """Return texture-model-features, with an image file's stem or a simulation's preset in the texture."""
    match config.texture:
        case ImageTexture(path=path):
            texture = Path(path).stem
        case GrayScottTexture(name=name, preset=preset):
            texture = f"{name}_{preset}"
        case PlantTexture(name=name):
            texture = name
    parts = (texture, config.model.name, config.features.name)
    return "-".join("".join(c if c.isalnum() or c in "_." else "_" for c in part) for part in parts)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean '{close[0]}'?" if close else ""


def build(schema: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass of this module from a composed mapping.

    Args:
        schema: The dataclass.
        values: Plain nested mappings, lists and scalars.
        where: Dotted prefix of the keys, for messages.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has another type or lies out of its range.
    """
    hints = typing.get_type_hints(schema)
    known = {item.name: item for item in fields(schema)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{where}{key}'{nearest(key, known)}")
    built: dict[str, Any] = {}
    for name, item in known.items():
        if name in values:
            built[name] = _convert(hints[name], values[name], f"{where}{name}", item.metadata)
        elif item.default is MISSING:
            raise ConfigError(f"'{where}{name}' is missing: give {where}{name}=VALUE")
    return schema(**built)


def _convert(hint: Any, value: Any, key: str, allowed: Mapping[str, Any]) -> Any:
    options = list(_options(hint))
    nested = [option for option in options if is_dataclass(option)]
    if nested:
        return _build_nested(typing.cast("list[type]", nested), value, key)
    for option in options:
        if _fits(option, value):
            converted = float(value) if option is float else value
            if option in (int, float):
                _check_range(converted, key, allowed)
            return converted
    raise ConfigError(f"{key}={_shown(value)}: must be {_describe(options, allowed)}")


def _options(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            yield from _options(option)
    else:
        yield hint


def _build_nested(schemas: list[type], value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={_shown(value)}: must be one of conf/{key}/ by name")
    if len(schemas) == 1:
        return build(schemas[0], value, f"{key}.")
    by_source = {s: c for c in schemas for s in typing.get_args(typing.get_type_hints(c)["source"])}
    source = value.get("source")
    same_keys = [s for s, c in by_source.items() if {f.name for f in fields(c)} == set(value)]
    if source not in by_source or (same_keys and source not in same_keys):
        raise ConfigError(
            f"{key}.source={_shown(source)}: must be one of {', '.join(same_keys or by_source)}"
        )
    return build(by_source[source], value, f"{key}.")


def _fits(option: Any, value: Any) -> bool:
    if typing.get_origin(option) is Literal:
        return value in typing.get_args(option) and not isinstance(value, bool)
    if typing.get_origin(option) is dict:
        return isinstance(value, Mapping)
    if option is types.NoneType:
        return value is None
    if isinstance(value, bool):
        return option is bool
    return isinstance(value, (int, float) if option is float else option)


def _check_range(value: float, key: str, allowed: Mapping[str, Any]) -> None:
    inside = (
        value == value  # noqa: PLR0124 - NaN lies in no range
        and value >= allowed.get("at_least", value)
        and value <= allowed.get("at_most", value)
        and ("above" not in allowed or value > allowed["above"])
        and ("multiple_of" not in allowed or value % allowed["multiple_of"] == 0)
    )
    if not inside:
        raise ConfigError(f"{key}={_shown(value)}: must be {_describe([type(value)], allowed)}")


def _describe(options: list[Any], allowed: Mapping[str, Any]) -> str:
    return " or ".join(_describe_option(option, allowed) for option in options)


def _describe_option(option: Any, allowed: Mapping[str, Any]) -> str:
    if typing.get_origin(option) is Literal:
        words = [str(word) for word in typing.get_args(option)]
        return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "null",
    }
    text = names.get(option, "a mapping")
    if option in (int, float):
        low = allowed.get("at_least")
        text += "" if low is None else f", at least {low}"
        text += f", above {allowed['above']}" if "above" in allowed else ""
        text += f", at most {allowed['at_most']}" if "at_most" in allowed else ""
        text += f", a multiple of {allowed['multiple_of']}" if "multiple_of" in allowed else ""
    return text


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
