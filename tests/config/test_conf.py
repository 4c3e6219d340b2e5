"""Every YAML of conf/ composes and builds, every leaf is commented, and every field is read by some code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from nca.config import schema
from nca.config.compose import compose_plain
from nca.config.files import CONF
from nca.config.schema import PrunerConfig, SamplerConfig, SweepConfig, TrialConfig, build_sweep
from nca.config.validation import build
from nca.study.plan import make_plans
from nca.study.spec import pruner_spec, sampler_spec
from sweeps.pruning import make_pruner
from sweeps.samplers import make_sampler
from sweeps.space import Choice, Interval

FILES = sorted(CONF.glob("*/*.yaml"))
NAMES = [f"{file.parent.name}={file.stem}" for file in FILES]
GROUPS = sorted({file.parent.name for file in FILES})
# Parts of a sweep alone, and experiments whose differences reach into them.
SWEEP_ONLY = {"search", "sampler", "pruner", "executor"}
# What a domain may be: samplers that draw from one kind only need a space of that kind.
INTERVALS = ["model.channels=6", "model.hidden_channels=16", "model.filters=4", "train.batch_size=2"]
INTERVALS.append("train.learning_rate=interval(1e-5,1e-3)")
CHOICES = ["model.update_rate=0.5,1"]
SPACE_FOR = {"cmaes": INTERVALS, "qmc": INTERVALS, "grid": CHOICES}
CUSTOM = {
    "model": "tests.custom_parts.Rule",
    "loss": "tests.custom_parts.Loss",
}  # of which no class is made here
DEFAULTS = re.compile(r"^(defaults|hydra):")


def overrides_for(name: str) -> list[str]:
    if name == "texture=image":
        return [name, "texture.path=leaf.png"]
    if name in {"model=custom", "loss=custom"}:
        group = name.partition("=")[0]
        return ["texture=roundleaf", f"{group}={CUSTOM[group]}"]
    return [name] if name.startswith("texture=") else ["texture=roundleaf", name]


def is_sweep_only(file: Path) -> bool:
    if file.parent.name in SWEEP_ONLY:
        return True
    values = yaml.safe_load(file.read_text())
    overridden = {key.split("/")[-1] for default in values.get("defaults", []) for key in default}
    reached = overridden | values.keys() if file.parent.name == "experiment" else set()
    return bool(reached & (SWEEP_ONLY | {"sweep"}))


def test_there_is_something_to_test() -> None:
    assert set(GROUPS) >= {
        "texture",
        "model",
        "loss",
        "features",
        "train",
        "tracking",
        "experiment",
        *SWEEP_ONLY,
    }
    assert len(FILES) > 25


@pytest.mark.parametrize("name", NAMES)
def test_every_option_composes_and_builds_for_a_sweep(name: str) -> None:
    config = build_sweep(compose_plain("sweep", overrides_for(name)))
    group, _, option = name.partition("=")
    if group not in {"search", "train", "experiment"}:
        chosen = getattr(config if hasattr(config, group) else config.trial, group).name
        assert chosen == (CUSTOM[group] if option == "custom" else option)


@pytest.mark.parametrize("file", [file for file in FILES if not is_sweep_only(file)], ids=lambda f: f.stem)
def test_every_option_composes_and_builds_for_one_run(file: Path) -> None:
    build(TrialConfig, compose_plain("train", overrides_for(f"{file.parent.name}={file.stem}")))


@pytest.mark.parametrize("name", NAMES)
def test_every_option_makes_a_plan_whose_trials_build(name: str) -> None:
    overrides = overrides_for(name)
    if name.startswith("sampler="):
        overrides += SPACE_FOR.get(name.removeprefix("sampler="), [])
    (plan,) = make_plans(overrides)
    middle = {
        key: domain.options[0] if isinstance(domain, Choice) else domain.high
        for key, domain in plan.space.items()
    }
    trial = plan.trial_config(middle, 3)
    assert trial.seed == plan.config.trial.seed + 3
    for key, value in middle.items():
        group, _, field = key.partition(".")
        assert getattr(getattr(trial, group), field) == value


@pytest.mark.parametrize("file", sorted(CONF.glob("search/*.yaml")), ids=lambda file: file.stem)
def test_every_search_space_holds_domains_only(file: Path) -> None:
    (plan,) = make_plans(["texture=roundleaf", f"search={file.stem}"])
    assert all(isinstance(domain, Choice | Interval) for domain in plan.space.values())
    for key in yaml.safe_load(file.read_text()).keys() - {"defaults"}:
        assert key in plan.space


@pytest.mark.parametrize("name", [file.stem for file in CONF.glob("sampler/*.yaml")])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_sampler_is_made_with_its_options(name: str) -> None:
    overrides = ["texture=roundleaf", f"sampler={name}", *SPACE_FOR.get(name, [])]
    (plan,) = make_plans(overrides)
    make_sampler(sampler_spec(plan.config), plan.space)


@pytest.mark.parametrize("name", [file.stem for file in CONF.glob("pruner/*.yaml")])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_pruner_is_made_with_its_options(name: str) -> None:
    (plan,) = make_plans(["texture=roundleaf", f"pruner={name}"])
    make_pruner(pruner_spec(plan.config))


@pytest.mark.parametrize("option", [None, *(file.stem for file in CONF.glob("experiment/set*.yaml"))])
def test_a_run_and_a_sweep_share_their_values(option: str | None) -> None:
    overrides = ["texture=alocasia", *([f"experiment={option}"] if option else [])]
    run, sweep = (compose_plain(name, overrides) for name in ("train", "sweep"))
    assert {key: sweep[key] for key in run} == run
    assert run.keys() == {field.name for field in dataclasses.fields(TrialConfig)}
    own = {field.name for field in dataclasses.fields(SweepConfig)} - {"trial"}
    assert sweep.keys() == run.keys() | own


def test_a_run_and_a_sweep_comment_their_shared_values_alike() -> None:
    shared = ("device:", "runs_dir:")
    texts = [(CONF / f"{name}.yaml").read_text().splitlines() for name in ("train", "sweep")]
    run, sweep = ([line for line in text if line.startswith(shared)] for text in texts)
    assert run == sweep
    assert len(run) == len(shared)


def leaf_lines(file: Path) -> list[str]:
    """Return the lines of a YAML that hold a value, without defaults lists and Hydra's own node."""
    lines, inside = [], False
    for line in file.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            inside = bool(DEFAULTS.match(line))
        if not inside and re.match(r"^\s*[\w.]+:\s+[^#\s]", line):
            lines.append(line)
    return lines


@pytest.mark.parametrize("file", [*FILES, CONF / "sweep.yaml", CONF / "train.yaml"], ids=lambda f: f.stem)
def test_every_leaf_has_a_comment(file: Path) -> None:
    first = next(line for line in file.read_text().splitlines() if "@package" not in line)
    assert first.startswith("# "), "the first line says what the file is"
    if file.parent.name in {"search", "experiment"}:
        return  # explained by the header, and where the same keys have their defaults
    # A name is what the header explains.
    bare = [line for line in leaf_lines(file) if "#" not in line and not line.startswith("name:")]
    assert [line for line in bare if line.split(":")[0] not in inherited_keys(file)] == []


def inherited_keys(file: Path) -> set[str]:
    """Return the keys of the YAML whose values a file replaces, where they have their comments."""
    bases = [name for name in yaml.safe_load(file.read_text()).get("defaults", []) if isinstance(name, str)]
    files = [file.with_name(f"{name}.yaml") for name in bases if name != "_self_"]
    own = {line.split(":")[0] for base in files for line in leaf_lines(base)}
    return own.union(*map(inherited_keys, files))


def test_keys_of_another_file_are_found_through_every_file_between() -> None:
    fields = {field.name for field in dataclasses.fields(schema.TrainConfig)}
    assert inherited_keys(CONF / "train" / "munca.yaml") == fields
    assert inherited_keys(CONF / "train" / "srnca.yaml") == inherited_keys(CONF / "train.yaml") == set()


SCHEMAS: dict[str, list[type]] = {
    "model": [schema.ModelConfig],
    "train": [schema.TrainConfig],
    "loss": [schema.LossConfig],
    "features": [schema.FeaturesConfig],
    "tracking": [schema.TrackingConfig],
    "sampler": [schema.SamplerConfig],
    "pruner": [schema.PrunerConfig],
    "executor": [schema.ExecutorConfig],
    "texture": [schema.PlantTexture, schema.ImageTexture, schema.GrayScottTexture],
    "conf": [schema.TrialConfig, schema.OutputsConfig, schema.SweepSettings],
}


def allowed_texts(schemas: list[type], key: str) -> list[list[str]]:
    """Return what the comment on a key must hold by each schema that has it: its range, and its choices."""
    found = []
    for owner in schemas:
        for item in dataclasses.fields(owner):
            if item.name == key and key != "name":
                hint = get_type_hints(owner)[key]
                options = [option for kind in (hint, *get_args(hint)) for option in get_args(kind)]
                choices = [option for option in options if isinstance(option, str) and option != "auto"]
                allowed = item.metadata.get("range")
                found.append([*([str(allowed)] if allowed else []), *(choices if len(options) > 1 else [])])
    return found


COMMENTED = [file for file in [*FILES, *CONF.glob("*.yaml")] if file.parent.name in SCHEMAS]


@pytest.mark.parametrize("file", COMMENTED, ids=lambda file: file.stem)
def test_comments_give_the_ranges_and_choices_of_the_schema(file: Path) -> None:
    for line in leaf_lines(file):
        key, comment = line.split(":")[0].strip(), line.partition(" # ")[2]
        if not comment and key in inherited_keys(file):
            continue
        found = allowed_texts(SCHEMAS[file.parent.name], key)
        assert found or key == "name", line
        missing = [  # by schema that has the key
            [text for text in texts if not re.search(rf"(?<!\w){re.escape(text)}(?!\w)", comment)]
            for texts in found
        ]
        assert not missing or [] in missing, f"{line}: must give {missing}"


def test_leaves_are_found() -> None:
    assert len(leaf_lines(CONF / "train" / "srnca.yaml")) == len(dataclasses.fields(schema.TrainConfig))
    assert [line.split(":")[0].strip() for line in leaf_lines(CONF / "sweep.yaml")] == [
        "seed",
        "device",
        "runs_dir",
        *(field.name for field in dataclasses.fields(schema.OutputsConfig)),
        *(field.name for field in dataclasses.fields(schema.SweepSettings)),
    ]


def fields_of_the_schema() -> list[tuple[str, str]]:
    classes = [
        item for item in vars(schema).values() if isinstance(item, type) and dataclasses.is_dataclass(item)
    ]
    # Options of samplers and pruners are handed on as a whole: see the next test.
    own = [item for item in classes if item not in (SamplerConfig, PrunerConfig)]
    return [(item.__name__, field.name) for item in own for field in dataclasses.fields(item)]


@pytest.mark.parametrize(("owner", "field"), fields_of_the_schema())
def test_every_field_is_read_somewhere(owner: str, field: str) -> None:
    package = Path(schema.__file__).parents[1]
    code = "\n".join(file.read_text() for file in package.rglob("*.py") if file.name != "schema.py")
    assert re.search(rf"\.{field}\b|\"{field}\"", code), f"{owner}.{field}"


@pytest.mark.parametrize(("part", "spec"), [(SamplerConfig, sampler_spec), (PrunerConfig, pruner_spec)])
def test_every_option_of_samplers_and_pruners_is_handed_on(part: type, spec: Any) -> None:
    (plan,) = make_plans(["texture=roundleaf"])
    options = {field.name: 7 for field in dataclasses.fields(part) if field.name != "name"}
    group = part.__name__.removesuffix("Config").lower()
    name = getattr(plan.config, group).name
    config = dataclasses.replace(plan.config, **{group: part(name=name, **options)})
    assert dict(spec(config).options) == options
