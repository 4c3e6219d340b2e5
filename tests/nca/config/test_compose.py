"""Composition: one line for every kind of mistake, and overrides sorted into values, studies and domains."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nca.cli.errors import ConfigError
from nca.config.compose import compose_plain
from nca.config.files import CONF
from nca.config.overrides import read_domain, sort_overrides
from nca.config.schema import TrialConfig, build_sweep
from nca.config.validation import build
from sweeps.space import Choice, Interval

TEXTURE = "texture=roundleaf"


def refuse(overrides: list[str], message: str, config_name: str = "sweep") -> None:
    with pytest.raises(ConfigError, match=message) as error:
        compose_plain(config_name, overrides)
    assert "\n" not in str(error.value)
    assert str(error.value).strip() == str(error.value)


def test_composed_values_are_plain_and_hold_no_hydra() -> None:
    values = compose_plain("sweep", [TEXTURE])
    assert "hydra" not in values
    assert {type(part) for part in values.values()} <= {dict, int, str}
    assert build_sweep(values).trial.texture.name == "roundleaf"


def test_train_composes_without_the_sweep_parts() -> None:
    values = compose_plain("train", [TEXTURE])
    assert values.keys().isdisjoint({"sweep", "search", "sampler", "pruner", "executor"})
    build(TrialConfig, values)


def test_overrides_reach_their_values() -> None:
    values = compose_plain(
        "sweep", [TEXTURE, "model=distill", "model.channels=7", "++train.size=32", "seed=4"]
    )
    assert (values["model"]["name"], values["model"]["channels"]) == ("distill", 7)
    assert (values["train"]["size"], values["seed"]) == (32, 4)


def test_the_search_space_follows_the_model() -> None:
    spaces = [compose_plain("sweep", [TEXTURE, f"model={name}"])["search"] for name in ("srnca", "distill")]
    assert spaces[0]["train.learning_rate"].startswith("choice")
    assert spaces[1]["train.learning_rate"].startswith("tag(log")


@pytest.mark.parametrize("config_name", ["sweep", "train"])
def test_the_training_follows_the_model(config_name: str) -> None:
    trains = {
        name: compose_plain(config_name, [TEXTURE, f"model={name}"])["train"]
        for name in ("srnca", "distill", "munca")
    }
    own = ("steps", "batch_size", "drop_steps", "min_ca_steps", "max_ca_steps")
    assert trains["munca"] == trains["distill"] | {key: trains["munca"][key] for key in own}
    assert trains["munca"]["steps"] > trains["distill"]["steps"]
    assert trains["srnca"].keys() == trains["distill"].keys()
    assert (trains["srnca"]["keep"], trains["distill"]["keep"]) == ("last", "best")
    assert (trains["srnca"]["drop_steps"], trains["distill"]["drop_steps"]) == (None, [1200, 1740])
    assert compose_plain(config_name, [TEXTURE, "model=distill", "train=srnca"])["train"] == trains["srnca"]
    given = compose_plain(config_name, [TEXTURE, "model=distill", "train.drop_steps=[5,9]"])["train"]
    assert given == trains["distill"] | {"drop_steps": [5, 9]}


def test_the_folder_of_records_is_absolute_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somebody")
    values = compose_plain("sweep", [TEXTURE])
    assert values["runs_dir"] == str(tmp_path / "mlruns")
    assert values["sweep"]["storage"] == f"sqlite:///{tmp_path}/mlruns/optuna.db"
    assert values["tracking"]["uri"] == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert compose_plain("train", [TEXTURE, "runs_dir='~/runs'"])["runs_dir"] == "/somebody/runs"


@pytest.mark.parametrize("config_name", ["sweep", "train"])
def test_missing_option_lists_what_there_is(config_name: str) -> None:
    names = ", ".join(sorted(file.stem for file in CONF.glob("texture/*.yaml")))
    refuse([], f"^'texture' is missing: give texture=NAME, one of {names}$", config_name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=distil", r"^model=distil: must be one of distill, munca, srnca, did you mean 'distill'\?$"),
        ("sampler=xyz", "^sampler=xyz: must be one of cmaes, gp, grid, qmc, random, tpe$"),
        ("experiment=set4", "^experiment=set4: must be one of .*set5, set8"),
        ("model=null", "^model=null: must be one of distill, munca, srnca$"),
        ("search=null", "^search=null: must be one of distill, fixed, munca, quick, srnca"),
        ("tracking=true", "^tracking=true: must be one of mlflow, none$"),
        ("pruner=3", "^pruner=3: must be one of asha, hyperband, median, none$"),
    ],
)
def test_unknown_option_lists_what_there_is(override: str, message: str) -> None:
    refuse([TEXTURE, override], message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.name=distill",
            r"^model.name=distill: cannot be set; give model=NAME, one of distill, munca, srnca$",
        ),
        ("++model.name=foo", r"^model.name=foo: cannot be set; give model=NAME"),
        ("model={name: foo}", r"^model.name=foo: cannot be set; give model=NAME"),
        (
            "texture.name=alocasia",
            r"^texture.name=alocasia: cannot be set; give texture=NAME, one of alocasia",
        ),
        ("+texture@model=alocasia", r"^model.name=alocasia: cannot be set; give model=NAME"),
        ("features.name=vgg16", r"^features.name=vgg16: cannot be set; give features=NAME"),
        (
            "tracking.name=none",
            r"^tracking.name=none: cannot be set; give tracking=NAME, one of mlflow, none$",
        ),
        ("sampler.name=grid", r"^sampler.name=grid: cannot be set; give sampler=NAME"),
        ("pruner.name=asha", r"^pruner.name=asha: cannot be set; give pruner=NAME"),
        ("executor.name=ray", r"^executor.name=ray: cannot be set; give executor=NAME, one of local, ray$"),
    ],
)
def test_a_part_is_chosen_as_a_whole(override: str, message: str) -> None:
    refuse([TEXTURE, override], message)


@pytest.mark.parametrize(
    "override",
    ["hydra.sweeper._target_=x.Y", "hydra/sweeper=basic", "+hydra.job.env_set.A=1", "~hydra.sweeper"],
)
def test_hydras_own_settings_are_not_ours(override: str) -> None:
    refuse([TEXTURE, override], "settings of Hydra itself cannot be changed$")


@pytest.mark.parametrize(
    "file", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_a_part_has_the_name_of_its_file(file: Path) -> None:
    name = (yaml.safe_load(file.read_text()) or {}).get("name", file.stem)
    assert name in ({"???", "custom"} if file.stem == "custom" else {file.stem})  # a class gives its own name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=distill", r"^unknown key 'modle', did you mean 'model'\?$"),
        ("model.chanels=3", r"^unknown key 'model.chanels', did you mean 'model.channels'\?$"),
        ("train.stesp=3", r"^unknown key 'train.stesp', did you mean 'train.steps'\?$"),
        ("sweep.n_trails=3", r"^unknown key 'sweep.n_trails', did you mean 'sweep.n_trials'\?$"),
        ("train.steps.more=3", r"^unknown key 'train.steps.more', did you mean 'train.steps'\?$"),
        ("zzz=3", r"^unknown key 'zzz'$"),
        ("texture.url=${nope}", "unknown key 'nope'"),
    ],
)
def test_misspelt_key_is_named_with_the_nearest(override: str, message: str) -> None:
    refuse([TEXTURE, override], message)


def test_key_of_another_option_is_named() -> None:
    refuse(
        [TEXTURE, "features=random_filters", "features.weights=a"],
        "^'features.weights' does not belong to the chosen option of features, see conf/$",
    )
    refuse([TEXTURE, "loss.norm=l1"], "^unknown key 'loss.norm'")
    refuse(
        [TEXTURE, "model=munca", "model.filters=4"], "^'model.filters' does not belong to the chosen option"
    )
    refuse([TEXTURE, "texture.path=a"], "unknown key 'texture.path'")


def test_what_belongs_to_a_sweep_is_no_part_of_a_single_run() -> None:
    refuse([TEXTURE, "sweep.n_trials=3"], "^unknown key 'sweep.n_trials'$", "train")
    refuse([TEXTURE, "sampler=random"], "^'sampler' is no part of nca.train$", "train")
    refuse([TEXTURE, "experiment=quick"], "^'search' is no part of nca.train$", "train")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["texture=image"], "^'texture.path' is missing: give texture.path=VALUE$"),
        ([TEXTURE, "~seed"], "^'seed' is missing: give seed=VALUE$"),
        ([TEXTURE, "runs_dir=null"], "^runs_dir=None: must be the path of a folder$"),
        ([TEXTURE, "runs_dir=''"], "^runs_dir=: must be the path of a folder$"),
        ([TEXTURE, "runs_dir="], "^runs_dir=: must be the path of a folder$"),
        ([TEXTURE, "runs_dir= "], "^runs_dir= : must be the path of a folder$"),
    ],
)
def test_missing_values_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build_sweep(compose_plain("sweep", overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["model.channels", "=3", "x='", "a=[1", "-x=3", "a=b=c{", ""])
def test_what_is_no_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read as key=value \(.*\); try quotes") as error:
        sort_overrides([override])
    assert "\n" not in str(error.value)
    assert f"'{override}'" in str(error.value)


def test_overrides_are_sorted() -> None:
    given = [
        "seed=3",
        "texture=roundleaf,alocasia",
        "model.channels=6,9",
        "train.size=32",
        "train.learning_rate=tag(log, interval(1e-5, 1e-3))",
    ]
    overrides = sort_overrides(given)
    assert overrides.plain == ["seed=3", "train.size=32"]
    assert overrides.groups == {"texture": ["roundleaf", "alocasia"]}
    assert overrides.domains == {
        "model.channels": Choice((6, 9)),
        "train.learning_rate": Interval(1e-5, 1e-3, log=True),
    }


AWKWARD = [
    "leaf (1).jpg",
    "лист.jpg",
    "a,b.jpg",
    "a#b",
    "[a]{b}",
    "it's.jpg",
    '"',
    "a\\'b\\",
    "a=b",
    "7",
    "$x",
    " a",
]


@pytest.mark.parametrize("text", [*AWKWARD, "~/leaf.jpg", "choice(a,b)", "a\nb", "true", "-1"])
def test_paths_and_names_are_taken_as_they_are(text: str) -> None:
    texture = ["texture=image", f"texture.path={text}"]
    others = [f"++features.weights={text}", f"sweep.study={text}", f"tracking.uri=sqlite:///{text}"]
    for values in (
        compose_plain("sweep", [*texture, *others]),
        compose_plain("sweep", sort_overrides([*texture, *others]).plain),
    ):
        assert (values["texture"]["path"], values["features"]["weights"]) == (text, text)
        assert (values["sweep"]["study"], values["tracking"]["uri"]) == (text, f"sqlite:///{text}")
    assert compose_plain("train", [*texture, f"runs_dir=/tmp/{text}"])["runs_dir"] == f"/tmp/{text}"


def test_quoted_text_interpolations_and_null_keep_their_meaning() -> None:
    given = ["texture=image", "texture.path='a (1).jpg'", 'sweep.study="${texture.name}-x"']
    values = compose_plain(
        "sweep", [*given, "sweep.warm_start=null", "sweep.storage=sqlite:///${runs_dir}/(1).db"]
    )
    assert (values["texture"]["path"], values["sweep"]["study"]) == ("a (1).jpg", "image-x")
    assert values["sweep"]["warm_start"] is None
    assert values["sweep"]["storage"] == f"sqlite:///{values['runs_dir']}/(1).db"


def test_a_decimal_comma_is_explained() -> None:
    message = r"^train.learning_rate=0,001: takes one value; commas separate .* the decimal sign is a point$"
    refuse([TEXTURE, "train.learning_rate=0,001"], message, "train")


def test_a_quoted_list_is_one_value() -> None:
    assert sort_overrides(["sweep.study='a,b'"]).plain == ["sweep.study='a,b'"]


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("choice(6, 9)", Choice((6, 9))),
        ("6,9", Choice((6, 9))),
        ("choice(1e-3, 1e-4)", Choice((1e-3, 1e-4))),
        ("choice(zeros, 'noise')", Choice(("zeros", "noise"))),
        ("true,null", Choice((True, None))),
        ("range(4, 8)", Interval(4, 8, step=1)),
        ("range(4, 8, 2)", Interval(4, 8, step=2)),
        ("interval(0.5, 1.0)", Interval(0.5, 1.0)),
        ("interval(1, 2)", Interval(1, 2)),
        ("tag(log, interval(1e-5, 1e-3))", Interval(1e-5, 1e-3, log=True)),
    ],
)
def test_domains_are_read(text: str, domain: Choice | Interval) -> None:
    assert read_domain("a.b", text) == domain
    assert sort_overrides([f"a.b={text}"]).domains == {"a.b": domain}


@pytest.mark.parametrize("value", [40, 0.5, "noise", None, True, "[4, 5]"])
def test_plain_values_are_no_domains(value: object) -> None:
    assert read_domain("a.b", value) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("choice()", r"a.b=choice\(\): an empty domain; give at least one value"),
        ("6,6", r"a.b: choice\(6, 6\) names a value twice"),
        ("interval(1, 0.5)", r"a.b: interval\(1, 0.5\) is empty: its low end must not lie above"),
        ("tag(log, interval(0, 1))", "a.b: .* a logarithmic interval must start above 0"),
        ("tag(lgo, interval(1, 2))", "a.b: unknown tag 'lgo', only log"),
        ("interval(a, b)", "cannot be read as key=value"),
        ("[3,4],[5]", r"a.b: \[3, 4\] is not a single value"),
        ("glob(*)", r"a.b=glob\(\*\): give the values one by one"),
    ],
)
def test_bad_domains_are_refused(text: str, message: str) -> None:
    for read in (lambda: read_domain("a.b", text), lambda: sort_overrides([f"a.b={text}"])):
        with pytest.raises(ConfigError, match=message) as error:
            read()
        assert "\n" not in str(error.value)


def test_glob_of_options_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"texture=glob\(\*\): give the values one by one"):
        sort_overrides(["texture=glob(*)"])
