"""Schema of conf/: frozen dataclasses with the type and the range of every value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nca.cli.errors import ConfigError
from nca.config.custom_class import CUSTOM_GROUPS, check_name, check_values, is_custom
from nca.config.validation import build, in_range, set_value

RULE_NAMES = ("srnca", "distill", "munca")
LOSS_NAMES = ("gram", "sliced")


@dataclass(frozen=True)
class PlantTexture:
    """One of the original study's four plants, as a drawing or as its photograph."""

    name: str
    source: Literal["drawn", "photo"]
    url: str


MIN_SIDE_PX = 16  # of an image, and of the part that is taken from it: the smallest size of training


@dataclass(frozen=True)
class ImageTexture:
    """An image file, and which part of it is the target; see `nca.textures.image_file.view_image`."""

    name: str
    source: Literal["file"]
    path: str
    crop: list[int] | None = None
    scale: float | None = in_range(0, 64, open_low=True, default=None)

    def __post_init__(self) -> None:
        if self.crop is None:
            return
        left, top, width, height = self.crop if len(self.crop) == 4 else (-1, -1, 0, 0)
        if min(left, top) < 0 or min(width, height) < MIN_SIDE_PX:
            raise ConfigError(
                f"texture.crop={self.crop}: must be [LEFT,TOP,WIDTH,HEIGHT] in px of the image, the first "
                f"two 0 or more, the others {MIN_SIDE_PX} or more; or null"
            )


@dataclass(frozen=True, kw_only=True)
class GrayScottTexture:
    """A simulated reaction-diffusion pattern; `feed` and `kill` default to the preset's."""

    name: str
    source: Literal["gray_scott"]
    preset: str
    feed: float | None = in_range(0, 0.2)
    kill: float | None = in_range(0, 0.2)
    seed: int = in_range(0)


Texture = PlantTexture | ImageTexture | GrayScottTexture


def _check_options(group: str, name: str, options: Mapping[str, object], *, needed: bool) -> None:
    """Check that the part `name` of a group has a value for each of these options, or for none of them.

    Raises:
        ConfigError: If one is missing, or does not belong to the part.
    """
    for key, value in options.items():
        if (value is not None) != needed:
            shown = "null" if value is None else value
            reason = "needs a value" if needed else "has no such option"
            raise ConfigError(f"{group}.{key}={shown}: {group}={name} {reason}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The update rule and its states; `hidden_channels` and `filters` belong to ours, `options` to others."""

    name: str
    channels: int = in_range(3, 64)
    hidden_channels: int | None = in_range(1, 1024, default=None)
    filters: int | None = in_range(1, 20, default=None)
    update_rate: float = in_range(0, 1, open_low=True)
    mask: Literal["channel", "cell"]
    clamp: bool
    seed_state: Literal["square", "zeros", "noise"]
    seed_noise: float = in_range(0, 1)
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_name("model", self.name, RULE_NAMES)
        sizes = {"hidden_channels": self.hidden_channels, "filters": self.filters}
        _check_options("model", self.name, sizes, needed=self.name in {"srnca", "distill"})
        _check_options("model", self.name, {"options": self.options}, needed=is_custom(self.name))
        check_values("model", self.options)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss; `directions` and `norm` belong to sliced, `options` to a class of a user's own."""

    name: str
    directions: int | None = in_range(1, 1024, default=None)
    norm: Literal["l1", "squared"] | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_name("loss", self.name, LOSS_NAMES)
        _check_options("loss", self.name, {"options": self.options}, needed=is_custom(self.name))
        check_values("loss", self.options)
        options = {"directions": self.directions, "norm": self.norm}
        _check_options("loss", self.name, options, needed=self.name == "sliced")


@dataclass(frozen=True)
class FeaturesConfig:
    """The features that the loss compares; an option belongs to the extractors whose YAML has it."""

    name: Literal["vgg16", "random_filters", "patches", "auto"]
    weights: str | None = None
    side: Literal[3, 5, 7] | None = None
    levels: int | None = in_range(1, 6, default=None)
    unsharp: float | None = in_range(0, 10, default=None)

    def __post_init__(self) -> None:
        options = {"side": self.side, "levels": self.levels, "unsharp": self.unsharp}
        _check_options("features", self.name, options, needed=self.name == "patches")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    steps: int = in_range(1)
    batch_size: int = in_range(1, 64)
    optimizer: Literal["adam", "soap"]
    learning_rate: float = in_range(0, 1, open_low=True)
    warmup_steps: int = in_range(0)
    drop_steps: list[int] | None
    min_ca_steps: int | None = in_range(1, 1024)
    max_ca_steps: int = in_range(2, 1024)
    size: int = in_range(16, 1024, multiple_of=16)
    pool_size: int | None = in_range(1)
    reseed_every: int = in_range(1)
    damage_every: int | None = in_range(1)
    precision: Literal["fp32", "tf32", "bf16"]
    rollout: Literal["fast", "plain"]
    recompute: bool
    cuda_graph: bool
    overflow_weight: float = in_range(0)
    gradient_per_ca_step: bool
    keep: Literal["best", "last"]
    checkpoint_every: int = in_range(1)
    checkpoint_every_s: float = in_range(0)
    keep_checkpoint: bool

    def __post_init__(self) -> None:
        if self.min_ca_steps is not None and self.min_ca_steps >= self.max_ca_steps:
            raise ConfigError(
                f"train.min_ca_steps={self.min_ca_steps}: must be less than "
                f"train.max_ca_steps={self.max_ca_steps}; give a smaller one, or null for half of that"
            )
        if self.drop_steps is not None and min(self.drop_steps) < 0:
            raise ConfigError(f"train.drop_steps={self.drop_steps}: must be 0 or more, or null")


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are recorded; `uri` belongs to mlflow."""

    name: Literal["mlflow", "none"]
    uri: str | None = None


@dataclass(frozen=True)
class OutputsConfig:
    """Optional outputs of a complete run."""

    robustness: bool = True


# Keys of a part that what was begun before them lacks, where they are null.
ADDED = {"texture": ("crop", "scale"), "model": ("options",), "loss": ("options",)}

# Keys of a config, and of its `train`, that do not affect the results.
FREE = ("tracking", "outputs", "device", "runs_dir")
FREE_OF_TRAIN = {"rollout", "recompute", "cuda_graph", "keep_checkpoint"}
FREE_OF_TRAIN |= {"checkpoint_every", "checkpoint_every_s"}


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One training run; the schema of train.yaml."""

    texture: Texture
    model: ModelConfig
    loss: LossConfig
    features: FeaturesConfig
    train: TrainConfig
    tracking: TrackingConfig
    outputs: OutputsConfig = OutputsConfig()
    seed: int = in_range(0)
    device: str
    runs_dir: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device={self.device}: must be auto, cuda, cuda:N or cpu")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """The sampler, which draws the params of trials."""

    name: Literal["tpe", "random", "gp", "cmaes", "qmc", "grid"]
    n_startup_trials: int | None = in_range(1, default=None)


@dataclass(frozen=True, kw_only=True)
class PrunerConfig:
    """The pruner, which ends unpromising trials; an option belongs to the pruners whose YAML has it."""

    name: Literal["none", "median", "asha", "hyperband"]
    n_startup_trials: int | None = in_range(0, default=None)
    n_warmup_steps: int | None = in_range(0, default=None)
    min_resource: int | None = in_range(1, default=None)
    reduction_factor: int | None = in_range(2, default=None)


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where trials run; an option belongs to the executors whose YAML has it."""

    name: Literal["local", "ray"]
    workers: int | Literal["auto"] = in_range(1, 1024)
    threads: int | Literal["auto"] = in_range(1, 1024)
    gpus: int | Literal["auto"] | None = in_range(0, 1024, default=None)
    trials_per_gpu: int = in_range(1, 64)
    address: str | None = None
    storage_path: str | None = None


Objective = Literal[
    "final_distance",
    "distance_at_1000",
    "final_loss",
    "final_loss_median",
    "final_loss_relative",
    "n_parameters",
    "seconds_per_step",
    "peak_memory_mb",
]


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """The study: its name, size, storage, objectives and limits."""

    study: str | None
    preview: str | None
    objectives: list[Objective]
    repeats: int = in_range(1, 100)
    warm_start: str | None
    n_trials: int = in_range(1)
    storage: str
    storage_timeout: str
    retries: int = in_range(0, 100)
    timeout: str | None
    max_steps: int | None = in_range(1)
    seed: int = in_range(0, 2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A whole sweep; in sweep.yaml the keys of `trial` are on the top level."""

    trial: TrialConfig
    sweep: SweepSettings
    sampler: SamplerConfig
    pruner: PrunerConfig
    executor: ExecutorConfig
    search: dict[str, Any]


def build_sweep(values: Mapping[str, Any]) -> SweepConfig:
    """Build the config of a sweep from the composed values of sweep.yaml.

    Raises:
        ConfigError: If a value is wrong.
    """
    shared = {item.name for item in fields(TrialConfig)}
    trial = build(TrialConfig, {key: value for key, value in values.items() if key in shared})
    own = {key: value for key, value in values.items() if key not in shared}
    return build(SweepConfig, {**own, "trial": trial})


def with_values(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Return a config with some values replaced, given by dotted keys such as `model.channels`.

    Raises:
        ConfigError: If a value is wrong.
    """
    parts: dict[str, Any] = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        set_value(parts.setdefault(group, asdict(getattr(config, group))), name, value)
    return replace(config, **{g: build(type(getattr(config, g)), part, f"{g}.") for g, part in parts.items()})


def custom_classes(config: TrialConfig) -> dict[str, str]:
    """Return the dotted paths of a config's parts that are a user's own classes, by group."""
    names = {group: getattr(config, group).name for group in CUSTOM_GROUPS}
    return {group: name for group, name in names.items() if is_custom(name)}


def training_values(config: TrialConfig) -> dict[str, Any]:
    """Return the values that affect the results of a run."""
    values = {key: value for key, value in asdict(config).items() if key not in FREE}
    train = {key: value for key, value in values["train"].items() if key not in FREE_OF_TRAIN}
    for part, added in ADDED.items():
        values[part] = {key: v for key, v in values[part].items() if v is not None or key not in added}
    return values | {"train": train}


def name_texture(texture: Texture) -> str:
    """Return the name of a texture, with a simulation's preset; of an image the stem of its file."""
    match texture:
        case ImageTexture(path=path):
            return Path(path).stem
        case GrayScottTexture(name=name, preset=preset):
            return f"{name}_{preset}"
        case PlantTexture(name=name):
            return name


def name_study(config: TrialConfig) -> str:
    """Return texture-model-loss-features without gram."""
    loss = () if config.loss.name == "gram" else (config.loss.name,)
    parts = (name_texture(config.texture), config.model.name, *loss, config.features.name)
    return "-".join(map(clean_name, parts))


def clean_name(text: str) -> str:
    """Return a text with _ for what file names may not have everywhere."""
    return "".join(c if c.isalnum() or c in "_." else "_" for c in text)
