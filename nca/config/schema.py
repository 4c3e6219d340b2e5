"""Schema of conf/: frozen dataclasses with the type and the range of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nca.config.validation import build, in_range


@dataclass(frozen=True)
class PlantTexture:
    """One of the original study's four plants, as a drawing or as its photograph."""

    name: str
    source: Literal["drawn", "photo"]
    url: str


@dataclass(frozen=True)
class ImageTexture:
    """An image file."""

    name: str
    source: Literal["file"]
    path: str


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


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The update rule and its perception."""

    name: str
    channels: int = in_range(3, 64)
    hidden_channels: int = in_range(1, 1024)
    filters: int = in_range(1, 20)
    update_rate: float = in_range(0, 1, open_low=True)
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

    steps: int = in_range(1)
    batch_size: int = in_range(1, 64)
    learning_rate: float = in_range(0, 1, open_low=True)
    max_ca_steps: int = in_range(2, 1024)
    size: int = in_range(16, 1024, multiple_of=16)
    pool_size: int | None = in_range(1)
    precision: Literal["fp32", "tf32", "bf16"]
    rollout: Literal["fast", "plain"]
    recompute: bool
    cuda_graph: bool
    checkpoint_every: int = in_range(1)
    checkpoint_every_s: float = in_range(0)
    # Configs of older runs have neither.
    drop_step: int | None = in_range(0, default=None)
    keep_checkpoint: bool = False


@dataclass(frozen=True)
class TrackingConfig:
    """Where runs are recorded; `uri` belongs to mlflow."""

    name: Literal["mlflow", "none"]
    uri: str | None = None


@dataclass(frozen=True)
class OutputsConfig:
    """Optional outputs of a complete run."""

    robustness: bool = True


# Keys of a config, and of its `train`, that do not affect the results.
FREE = ("tracking", "outputs", "device", "runs_dir")
FREE_OF_TRAIN = {"rollout", "recompute", "cuda_graph", "keep_checkpoint"}
FREE_OF_TRAIN |= {"checkpoint_every", "checkpoint_every_s"}


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One training run; the schema of train.yaml."""

    texture: Texture
    model: ModelConfig
    features: FeaturesConfig
    train: TrainConfig
    tracking: TrackingConfig
    outputs: OutputsConfig = OutputsConfig()
    seed: int = in_range(0)
    device: str
    runs_dir: str


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
    objectives: list[Objective]
    repeats: int = in_range(1, 100)
    warm_start: str | None
    n_trials: int = in_range(1)
    storage: str
    storage_timeout: str
    retries: int = in_range(0, 100)
    timeout: str | None
    max_steps: int | None = in_range(1)
    seed: int = in_range(0)


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
        parts.setdefault(group, asdict(getattr(config, group)))[name] = value
    return replace(config, **{g: build(type(getattr(config, g)), part, f"{g}.") for g, part in parts.items()})


def build_recorded(values: Mapping[str, Any]) -> TrialConfig:
    """Build the config of a recorded run; older runs have `tracking.endurance` for `outputs.robustness`.

    Raises:
        ConfigError: If it is not a config.
    """
    tracking = dict(values.get("tracking", {}))
    if "endurance" in tracking:
        outputs = {"robustness": tracking.pop("endurance")}
        values = {**values, "tracking": tracking, "outputs": outputs}
    return build(TrialConfig, values)


def training_values(config: TrialConfig) -> dict[str, Any]:
    """Return the values that affect the results of a run."""
    values = {key: value for key, value in asdict(config).items() if key not in FREE}
    train = {key: value for key, value in values["train"].items() if key not in FREE_OF_TRAIN}
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
    """Return texture-model-features, with _ for characters that a file name may not have everywhere."""
    parts = (name_texture(config.texture), config.model.name, config.features.name)
    return "-".join("".join(c if c.isalnum() or c in "_." else "_" for c in part) for part in parts)
