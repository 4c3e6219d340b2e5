"""Plans: what a command line fixes and searches, what it refuses, and what a study is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig
from nca.study.plan import Plan, has_study, make_plans, read_duration, resolve
from nca.study.spec import sampler_spec
from sweeps import SweepError
from sweeps.space import Choice, Interval
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import StudySpec, open_study

TEXTURE = "texture=roundleaf"


def plan_of(*overrides: str) -> Plan:
    (plan,) = make_plans([TEXTURE, *overrides])
    return plan


def refuse(overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigError, SweepError), match=message) as error:
        make_plans(overrides)
    assert "\n" not in str(error.value)


def test_the_space_is_the_studys() -> None:
    assert plan_of().space == {
        "model.channels": Choice((6, 9, 12, 15)),
        "model.hidden_channels": Choice((16, 32, 64, 96)),
        "model.filters": Choice((4, 5, 6)),
        "model.update_rate": Interval(0.5, 1.0),
        "train.batch_size": Choice((2, 4)),
        "train.learning_rate": Choice((1e-3, 1e-4, 1e-5)),
    }


def test_domains_on_the_command_line_replace_and_extend_those_of_the_yaml() -> None:
    space = plan_of("model.channels=6,9", "train.max_ca_steps=20,40").space
    assert space["model.channels"] == Choice((6, 9))
    assert space["train.max_ca_steps"] == Choice((20, 40))
    assert space["model.filters"] == Choice((4, 5, 6))


def test_a_plain_value_fixes_a_parameter() -> None:
    plan = plan_of("model.channels=6", "++train.batch_size=4")
    assert plan.space.keys().isdisjoint({"model.channels", "train.batch_size"})
    assert (plan.config.trial.model.channels, plan.config.trial.train.batch_size) == (6, 4)
    assert plan.trial_config({}, 0).model.channels == 6


def test_a_plain_value_in_the_yaml_fixes_a_parameter_unless_the_command_line_searches_it() -> None:
    search = "search={model.channels: 6, train.batch_size: 3}"
    plan = plan_of(search)
    assert plan.space.keys().isdisjoint({"model.channels", "train.batch_size"})
    assert (plan.config.trial.model.channels, plan.config.trial.train.batch_size) == (6, 3)
    assert plan.trial_config({}, 0).train.batch_size == 3
    assert plan_of(search, "model.channels=12").config.trial.model.channels == 12
    assert plan_of(search, "model.channels=9,12").space["model.channels"] == Choice((9, 12))


def test_textures_and_models_make_a_study_each() -> None:
    plans = make_plans(["texture=roundleaf,alocasia", "model=srnca,distill"])
    assert [plan.name for plan in plans] == [
        "roundleaf-srnca-auto",
        "roundleaf-distill-auto",
        "alocasia-srnca-auto",
        "alocasia-distill-auto",
    ]


def test_each_study_searches_what_suits_its_model() -> None:
    srnca, distill, munca = make_plans([TEXTURE, "model=srnca,distill,munca"])
    assert srnca.space["train.learning_rate"] == Choice((1e-3, 1e-4, 1e-5))
    assert distill.space["train.learning_rate"] == Interval(5e-4, 5e-3, log=True)
    assert distill.space.keys() == srnca.space.keys()
    assert munca.space["model.seed_noise"] == Choice((0.2, 0.5))
    assert munca.space.keys().isdisjoint({"model.filters", "model.hidden_channels"})
    models = [plan.config.trial.model for plan in (srnca, distill, munca)]
    assert [model.name for model in models] == ["srnca", "distill", "munca"]
    assert [plan.config.trial.train.keep for plan in (srnca, distill, munca)] == ["last", "best", "best"]


def test_losses_make_a_study_each() -> None:
    plans = make_plans([TEXTURE, "model=distill", "loss=gram,sliced"])
    assert [plan.name for plan in plans] == ["roundleaf-distill-auto", "roundleaf-distill-sliced-auto"]
    assert plan_of("loss=sliced", "loss.directions=16,32").space["loss.directions"] == Choice((16, 32))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of three images, of which plans look at the names alone."""
    for name in ("b.png", "a (1).jpg", "x,y.png", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_images_make_a_study_each(images: Path) -> None:
    plans = make_plans(["texture=image", f"texture.path={images}", "model=srnca,distill"])
    names = [f"{stem}-{model}-auto" for model in ("srnca", "distill") for stem in ("a__1_", "b", "x_y")]
    assert [plan.name for plan in plans] == names
    assert {plan.note for plan in plans} == {f"{images}: 3 images, 1 other file left out"}
    assert all(plan.space == plan_of(f"model={plan.config.trial.model.name}").space for plan in plans)
    given = make_plans(["texture=image", f"texture.path={images}/x,y.png,{images}/b.png"])
    assert [plan.name for plan in given] == ["x_y-srnca-auto", "b-srnca-auto"]


def test_a_study_of_an_image_is_the_same_however_the_image_was_found(images: Path) -> None:
    found = make_plans(["texture=image", f"texture.path={images}", "model.channels=6"])
    (images / "a new one.png").touch()
    later = make_plans(["texture=image", f"texture.path={images}", "model.channels=6"])
    assert len(later) == len(found) + 1
    for plan in found:
        path = getattr(plan.config.trial.texture, "path", "")
        (alone,) = make_plans(["texture=image", f"texture.path={path}", "model.channels=6"])
        assert (alone.config, alone.space) == (plan.config, plan.space)
        assert any((each.config, each.space) == (plan.config, plan.space) for each in later)


def test_names_of_studies_of_several_images(images: Path) -> None:
    paths = f"texture.path={images}/b.png,{images}/x,y.png"
    plans = make_plans(["texture=image", paths, "sweep.study=${stem:${texture.path}}-ten"])
    assert [plan.name for plan in plans] == ["b-ten", "x_y-ten"]
    refuse(
        ["texture=image", paths, "sweep.study=mine"],
        r"^sweep\.study=mine: one name for 2 studies; .*'sweep\.study=\$\{stem:\$\{texture\.path\}\}-NAME'$",
    )
    (images / "b.jpg").touch()
    refuse(
        ["texture=image", f"texture.path={images}"],
        r"/b\.jpg and .*/b\.png would both be study b-srnca-auto;",
    )


def test_one_name_serves_several_studies_where_it_distinguishes_them() -> None:
    plans = make_plans(["texture=roundleaf,alocasia", "sweep.study=${texture.name}-mine"])
    assert [plan.name for plan in plans] == ["roundleaf-mine", "alocasia-mine"]


def test_names_of_studies(tmp_path: Path) -> None:
    assert plan_of("sweep.study=mine").name == "mine"
    assert plan_of("features=vgg16").name == "roundleaf-srnca-vgg16"
    (plan,) = make_plans(["texture=image", f"texture.path={tmp_path}/leaf.png"])
    assert plan.name == "leaf-srnca-auto"
    assert plan.with_features(FeaturesConfig("random_filters")).name == "leaf-srnca-random_filters"
    refuse(["texture=roundleaf,alocasia", "sweep.study=x"], "sweep.study=x: one name for 2 studies; leave it")
    names = ["a=b", "a,b", "-a", ".a", " a", "a\nb", "", "x" * 201, "ж" * 101, "Default", "a/b"]
    for name in names:
        refuse(
            ["texture=roundleaf", f"sweep.study='{name}'"],
            "^sweep.study=.*: must be a name of 1 to 200 bytes",
        )
    refuse(
        ["texture=image", f"texture.path={'x' * 230}.png"], "^sweep.study='x.*: must be a name of 1 to 200"
    )
    assert plan_of("sweep.study='лист 1 (a) \"b\" <script>'").name == 'лист 1 (a) "b" <script>'
    for name in ("a/b", "leaf/ratings", "..", "single-runs", "optuna"):
        refuse(["texture=roundleaf", f"sweep.study={name}"], f"sweep.study=.{name}.: must be a name of")


@pytest.mark.parametrize(
    ("override", "domain"),
    [
        ("model.channels=interval(4, 8)", Interval(4, 8, integer=True)),
        ("model.channels=range(4, 9, 2)", Interval(4, 9, step=2, integer=True)),
        ("train.size=range(16, 64, 16)", Interval(16, 64, step=16, integer=True)),
        ("train.size=range(16, 60, 16)", Interval(16, 60, step=16, integer=True)),
        ("train.pool_size=range(64, 256, 64)", Interval(64, 256, step=64, integer=True)),
        ("model.hidden_channels=tag(log, interval(8, 128))", Interval(8, 128, log=True, integer=True)),
        ("model.update_rate=range(0.5, 1, 0.25)", Interval(0.5, 1, step=0.25)),
    ],
)
def test_numbers_are_whole_where_the_schema_wants_it(override: str, domain: Interval) -> None:
    assert plan_of(override).space[override.partition("=")[0]] == domain


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.channels=interval(3.5, 6)", r"model.channels=interval\(3.5, 6\): must hold whole numbers"),
        ("model.channels=range(4, 8, 0.5)", "model.channels=.*: must hold whole numbers"),
        (
            "train.learning_rate=0,001",
            r"learning_rate=0: must be .*, in choice\(0, 001\); commas separate the choices",
        ),
        ("model.channels=2,6", "model.channels=2: must be a whole number, 3 to 64"),
        ("model.filters=range(19, 21)", "model.filters=21: .* 1 to 20"),
        ("model.update_rate=interval(0, 1)", r"model.update_rate=0.0: must be a number, in \(0, 1\]"),
        ("train.size=interval(16, 64)", "train.size=17: .* a multiple of 16"),
        ("train.size=range(16, 64, 8)", "train.size=24: .* a multiple of 16"),
        (
            f"model.channels=4,{'9' * 5000}",
            r"^model.channels=4,9+\.\.\.: holds a number of more",
        ),
        (f"model.channels=4,{'9' * 19}", "^model.channels: a number of more than 18 digits"),
        (f"model.channels=interval(4,{'9' * 400})", "cannot be read as key=value"),
        ("model.mask=cell,chanel", "model.mask=chanel: must be one of channel, cell"),
        ("search={model.filters: null}", "model.filters=null: model=srnca needs a value"),
        ("model.channels=six,nine", "model.channels=six: must be a whole number"),
    ],
)
def test_domains_outside_the_schema_are_refused(override: str, message: str) -> None:
    refuse([TEXTURE, override], message)


def test_a_seed_that_a_sampler_cannot_take_is_refused() -> None:
    refuse(
        [TEXTURE, f"sweep.seed={2**32}"], r"^sweep.seed=4294967296: must be a whole number, 0 to 4294967295$"
    )


def test_no_combination_of_two_domains_has_too_few_ca_steps() -> None:
    both = ["train.max_ca_steps=interval(25, 40)", "train.min_ca_steps=5,null,20"]
    assert plan_of(*both).trial_config({"train.min_ca_steps": 20, "train.max_ca_steps": 25}, 0)
    assert plan_of(*both, "model=distill", "train.max_ca_steps=interval(6, 40)", "train.min_ca_steps=1,5")
    both[1] = "train.min_ca_steps=5,25"
    message = r"^train\.min_ca_steps=25: must be less than train\.max_ca_steps=25; .*, in choice\(5, 25\)"
    refuse([TEXTURE, *both], message)
    refuse([TEXTURE, *reversed(both)], message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=3,4", "^train.steps cannot be searched, only features.levels, "),
        ("model.name=a,b", "^model.name cannot be searched, only "),
        ("loss.name=a,b", "^loss.name cannot be searched, only "),
        ("train.drop_steps=null,[3]", r"^train.drop_steps: \[3\] is not a single value"),
        ("train.checkpoint_every=1,2", "^train.checkpoint_every cannot be searched"),
        ("seed=1,2", "^seed cannot be searched"),
        ("texture.name=a,b", "^texture.name cannot be searched"),
        ("model.chanels=6,9", r"^unknown key 'model.chanels', did you mean 'model.channels'\?$"),
        (
            "sampler=tpe,random",
            "^sampler=tpe,random: takes one name; only texture, model, loss, features take",
        ),
        ("experiment=set5,set8", "^experiment=set5,set8: takes one name"),
        ("sweep.n_trials=0", "^sweep.n_trials=0: must be a whole number, 1 or more$"),
    ],
)
def test_what_cannot_be_searched_is_refused(override: str, message: str) -> None:
    refuse([TEXTURE, override], message)


def test_a_published_configuration_is_a_study_without_a_search() -> None:
    plan = plan_of("experiment=set5", "search=fixed")
    assert plan.space == {}
    assert (plan.config.trial.model.hidden_channels, plan.config.trial.model.channels) == (96, 15)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["sweep.objectives=[final_loss,speed]"],
            r"^sweep.objectives=.*speed.*: must be a list \[A,B\], each one",
        ),
        (["sweep.objectives=[]"], r"^sweep.objectives=\[\]: must be a list"),
        (["sweep.objectives=final_loss"], "^sweep.objectives=final_loss: must be a list"),
        (["sweep.objectives=[final_loss,final_loss]"], "names one twice$"),
        (
            ["sweep.objectives=[n_parameters,final_loss]", "pruner=asha"],
            r"^pruner=asha: prunes by the training loss, which is not the first of sweep.objectives="
            r"\[n_parameters,final_loss\]; put one of final_distance, .* first, or give pruner=none$",
        ),
        (
            [
                "sweep.objectives=[final_loss,n_parameters]",
                "sampler=cmaes",
                "search=fixed",
                "model.update_rate=interval(0.5,1)",
                "train.learning_rate=interval(1e-4,1e-3)",
            ],
            "^sampler=cmaes minimizes one objective, not 2; use sampler=tpe$",
        ),
        (["sweep.repeats=0"], "^sweep.repeats=0: must be a whole number, 1 to 100$"),
    ],
)
def test_wrong_objectives_and_repeats_are_refused(overrides: list[str], message: str) -> None:
    refuse([TEXTURE, *overrides], message)


def test_several_objectives_are_pruned_if_the_first_follows_the_loss() -> None:
    for objectives in ("[final_loss,n_parameters]", "[final_distance,seconds_per_step]"):
        config = plan_of("pruner=asha", f"sweep.objectives={objectives}").config
        assert (config.pruner.name, len(config.sweep.objectives)) == ("asha", 2)


def test_ten_configurations_are_the_same_for_every_texture() -> None:
    (roundleaf, alocasia) = make_plans(["texture=roundleaf,alocasia", "experiment=ten_sets"])
    assert sampler_spec(roundleaf.config) == sampler_spec(alocasia.config)
    assert (roundleaf.config.sampler.name, roundleaf.config.sweep.n_trials) == ("random", 10)
    assert roundleaf.space == alocasia.space


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("cmaes", "sampler=cmaes draws from intervals and ranges only, not from .* model.channels"),
        ("qmc", "sampler=qmc draws from intervals and ranges only"),
        ("grid", "sampler=grid needs choices or ranges, and model.update_rate is an interval"),
    ],
)
def test_samplers_that_cannot_draw_from_the_space_are_refused(sampler: str, message: str) -> None:
    refuse([TEXTURE, f"sampler={sampler}"], message)


def test_a_trial_is_the_plan_with_the_drawn_values_and_its_own_seed() -> None:
    plan = plan_of("seed=100", "model.seed_state=zeros,noise").with_features(FeaturesConfig("random_filters"))
    drawn = {"model.channels": 9, "train.learning_rate": 1e-5, "model.seed_state": "noise"}
    trial = plan.trial_config(drawn, 7)
    assert (trial.model.channels, trial.train.learning_rate, trial.model.seed_state) == (9, 1e-5, "noise")
    assert trial.seed == 107
    assert (
        replace(trial, seed=100, model=plan.config.trial.model, train=plan.config.trial.train)
        == plan.config.trial
    )
    assert trial.features == FeaturesConfig("random_filters")
    assert trial.model.hidden_channels == plan.config.trial.model.hidden_channels


def test_null_can_be_drawn() -> None:
    plan = plan_of("train.pool_size=null,32")
    assert plan.trial_config({"train.pool_size": None}, 0).train.pool_size is None
    assert plan.trial_config({"train.pool_size": 32}, 0).train.pool_size == 32


class TestResolve:
    """What features=auto becomes."""

    @pytest.fixture(autouse=True)
    def _offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setattr("nca.loss.vgg_weights._can_download", lambda: False)

    def test_asked_for_stays(self, tmp_path: Path) -> None:
        plan = plan_of("features=vgg16", f"runs_dir={tmp_path}")
        assert resolve(plan) == (plan, "")

    def test_offline_is_random_filters_with_a_warning(self, tmp_path: Path) -> None:
        plan, note = resolve(plan_of(f"runs_dir={tmp_path}"))
        assert plan.name == "roundleaf-srnca-random_filters"
        assert note.startswith("warning: features=auto: VGG-16's weights are not cached and")
        assert list(tmp_path.iterdir()) == []

    def test_downloadable_is_vgg16(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nca.loss.vgg_weights._can_download", lambda: True)
        plan, note = resolve(plan_of(f"runs_dir={tmp_path}"))
        assert (plan.name, note) == ("roundleaf-srnca-vgg16", "features=auto: vgg16")

    @pytest.mark.parametrize("kind", ["vgg16", "random_filters"])
    @pytest.mark.parametrize("online", [True, False])
    def test_an_existing_study_decides(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, online: bool
    ) -> None:
        monkeypatch.setattr("nca.loss.vgg_weights._can_download", lambda: online)
        plan = plan_of(f"runs_dir={tmp_path}")
        name = f"roundleaf-srnca-{kind}"
        storage = open_storage(plan.config.sweep.storage)
        open_study(StudySpec(name, plan.config.sweep.storage, plan.space, {}), storage)
        found, note = resolve(plan)
        assert found.name == name
        assert note == f"features=auto: {kind}, as study {name} already uses it"

    @pytest.mark.parametrize("online", [True, False])
    def test_the_sliced_loss_compares_patches(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool
    ) -> None:
        monkeypatch.setattr("nca.loss.vgg_weights._can_download", lambda: online)
        plan, note = resolve(plan_of("loss=sliced", f"runs_dir={tmp_path}"))
        assert (plan.name, note) == ("roundleaf-srnca-sliced-patches", "")
        assert plan.config.trial.features == plan_of("features=patches").config.trial.features

    def test_searching_for_a_study_creates_nothing(self, tmp_path: Path) -> None:
        assert not has_study(plan_of(f"runs_dir={tmp_path}"))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("1.5 min", 90), ("2h", 7200), ("1d", 86400)])
def test_durations_have_a_unit(text: str, seconds: float) -> None:
    assert read_duration("sweep.timeout", text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "-1h", "0s", "2 hours", "1e3s"])
def test_other_durations_are_refused(text: str) -> None:
    refuse(
        [TEXTURE, f"sweep.timeout='{text}'"],
        f"sweep.timeout={text}: must be a number and s, min, h or d, as 90min",
    )
