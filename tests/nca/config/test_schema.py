"""The schema: types, ranges, unions, and one line for every mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from nca.cli.errors import ConfigError
from nca.config.recorded import OLDER_TRAIN, build_recorded
from nca.config.schema import (
    ExecutorConfig,
    FeaturesConfig,
    GrayScottTexture,
    ImageTexture,
    LossConfig,
    ModelConfig,
    PlantTexture,
    PrunerConfig,
    TrainConfig,
    TrialConfig,
    name_study,
    name_texture,
)
from nca.config.validation import build, flatten
from tests.builders import GRAM, PATCHES, SLICED, model_config, train_config, trial_config

MODEL = asdict(model_config())
TRAIN = asdict(train_config())
GRAY_SCOTT: dict[str, Any] = {
    "name": "gray_scott",
    "source": "gray_scott",
    "preset": "coral",
    "feed": None,
    "kill": None,
    "seed": 0,
}


def refuse(schema: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(schema, values)
    assert "\n" not in str(error.value)


def test_a_config_survives_its_own_dictionary() -> None:
    config = trial_config()
    assert build(TrialConfig, asdict(config)) == config


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [("channels", 3, 64), ("hidden_channels", 1, 1024), ("filters", 1, 20), ("update_rate", 0.01, 1.0)],
)
def test_model_ranges_include_their_ends(key: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(build(ModelConfig, {**MODEL, key: value}), key) == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("channels", 2, r"^channels=2: must be a whole number, 3 to 64$"),
        ("channels", 65, "channels=65: must be a whole number, 3 to 64"),
        ("hidden_channels", 0, "hidden_channels=0: .* 1 to 1024"),
        ("hidden_channels", 1025, "hidden_channels=1025"),
        ("filters", 0, "filters=0: .* 1 to 20"),
        ("filters", 21, "filters=21"),
        ("update_rate", 0, r"update_rate=0: must be a number, in \(0, 1\]"),
        ("update_rate", 1.0001, "update_rate=1.0001"),
        ("clamp", 1, "clamp=1: must be true or false"),
        ("seed_state", "disc", "seed_state=disc: must be one of square, zeros, noise"),
        ("seed_noise", 1.1, "seed_noise=1.1: must be a number, 0 to 1"),
        ("seed_noise", -0.1, "seed_noise=-0.1"),
        ("mask", None, "mask=null: must be one of channel, cell"),
        ("name", "relu", "name=relu: must be one of srnca, distill, munca"),
    ],
)
def test_model_values_out_of_range_are_refused(key: str, value: Any, message: str) -> None:
    refuse(ModelConfig, {**MODEL, key: value}, message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 0, "steps=0: must be a whole number, 1 or more"),
        ("batch_size", 65, "batch_size=65: .* 1 to 64"),
        ("learning_rate", 0.0, r"learning_rate=0.0: must be a number, in \(0, 1\]"),
        ("learning_rate", 1.5, "learning_rate=1.5"),
        ("drop_steps", 4, r"drop_steps=4: must be a list \[A,B\], each a whole number or null"),
        ("drop_steps", [], r"drop_steps=\[\]: must be a list"),
        ("drop_steps", [4, 0.5], r"drop_steps=\[4, 0.5\]: must be a list"),
        ("drop_steps", [4, -1], r"train.drop_steps=\[4, -1\]: must be 0 or more, or null"),
        ("min_ca_steps", 0, "min_ca_steps=0: .* 1 to 1024"),
        ("min_ca_steps", 6, "train.min_ca_steps=6: must be less than train.max_ca_steps=6"),
        ("max_ca_steps", 1, "max_ca_steps=1: .* 2 to 1024"),
        ("overflow_weight", -1, "overflow_weight=-1: must be a finite number, 0 or more"),
        ("gradient_per_ca_step", 1, "gradient_per_ca_step=1: must be true or false"),
        ("keep", "first", "keep=first: must be one of best, last"),
        ("size", 24, "size=24: .* a multiple of 16, 16 to 1024"),
        ("size", 1040, "size=1040"),
        ("size", 0, "size=0"),
        ("pool_size", 0, "pool_size=0: must be a whole number, 1 or more"),
        ("precision", "fp16", "precision=fp16: must be one of fp32, tf32, bf16"),
        ("rollout", "slow", "rollout=slow: must be one of fast, plain"),
        ("checkpoint_every", 0, "checkpoint_every=0"),
        ("checkpoint_every_s", -1, r"checkpoint_every_s=-1: must be a finite number, 0 or more"),
    ],
)
def test_train_values_out_of_range_are_refused(key: str, value: Any, message: str) -> None:
    refuse(TrainConfig, {**TRAIN, key: value}, message)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (ModelConfig, MODEL | {"filters": None}, "model.filters=null: model=srnca needs a value"),
        (ModelConfig, MODEL | {"hidden_channels": None}, "model.hidden_channels=null: model=srnca needs"),
        (
            ModelConfig,
            MODEL | {"name": "munca", "filters": None},
            "model.hidden_channels=8: model=munca has no",
        ),
        (LossConfig, {"name": "sliced", "norm": "l1"}, "loss.directions=null: loss=sliced needs a value"),
        (LossConfig, {"name": "sliced", "directions": 4}, "loss.norm=null: loss=sliced needs a value"),
        (LossConfig, {"name": "gram", "norm": "l1"}, "loss.norm=l1: loss=gram has no such option"),
        (FeaturesConfig, {"name": "patches"}, "features.side=null: features=patches needs a value"),
        (FeaturesConfig, {"name": "vgg16", "levels": 2}, "features.levels=2: features=vgg16 has no such"),
    ],
)
def test_a_part_has_the_options_that_belong_to_it(part: type, values: dict[str, Any], message: str) -> None:
    refuse(part, values, f"^{message}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    refuse(ModelConfig, {**MODEL, "update_rate": value}, f"update_rate={value}: must be a number")
    refuse(TrainConfig, {**TRAIN, "learning_rate": value}, f"learning_rate={value}")
    refuse(TrainConfig, {**TRAIN, "steps": value}, f"steps={value}: must be a whole number")
    for key in ("overflow_weight", "checkpoint_every_s"):
        refuse(TrainConfig, {**TRAIN, key: value}, f"^{key}={value}: must be a finite number, 0 or more$")


def test_a_number_is_one_of_several_only_if_it_is_of_their_type() -> None:
    for value in (3.0, True, "3"):
        with pytest.raises(ConfigError, match=r"^side=.*: must be one of 3, 5, 7 or null$"):
            build(FeaturesConfig, {**asdict(PATCHES), "side": value})


def test_numbers_that_no_database_holds_are_refused() -> None:
    for key in ("steps", "learning_rate"):
        refuse(
            TrainConfig,
            {**TRAIN, key: 10**400},
            f"^{key}: a number of more than 18 digits; must be a .*number",
        )
    refuse(
        TrainConfig, {**TRAIN, "drop_steps": [1, 10**18 + 1]}, "^drop_steps: a number of more than 18 digits"
    )


@pytest.mark.parametrize("value", [True, False])
def test_a_bool_is_no_number(value: bool) -> None:
    shown = str(value).lower()
    refuse(ModelConfig, {**MODEL, "channels": value}, f"channels={shown}: must be a whole number")
    refuse(ModelConfig, {**MODEL, "update_rate": value}, f"update_rate={shown}: must be a number")
    refuse(ModelConfig, {**MODEL, "mask": value}, f"mask={shown}: must be one of")


@pytest.mark.parametrize("value", [3.0, "3", None, [3], {"a": 3}])
def test_only_an_int_is_a_whole_number(value: Any) -> None:
    refuse(ModelConfig, {**MODEL, "channels": value}, "channels=.*: must be a whole number")


def test_an_int_fits_where_a_float_is_wanted_and_becomes_one() -> None:
    rate = build(ModelConfig, {**MODEL, "update_rate": 1}).update_rate
    assert rate == 1.0
    assert isinstance(rate, float)


def test_unknown_key_is_refused_with_the_nearest() -> None:
    refuse(
        ModelConfig, {**MODEL, "chanels": 4}, r"^unknown key 'chanels', did you mean '(hidden_)?channels'\?$"
    )
    refuse(ModelConfig, {**MODEL, "zzz": 4}, r"^unknown key 'zzz'$")


def test_unknown_nested_key_is_named_in_full() -> None:
    values = asdict(trial_config())
    values["train"]["stesp"] = 3
    refuse(TrialConfig, values, r"unknown key 'train\.stesp', did you mean 'steps'\?")


def test_missing_key_is_refused_with_how_to_give_it() -> None:
    values = asdict(trial_config())
    del values["model"]["update_rate"]
    refuse(TrialConfig, values, r"^'model\.update_rate' is missing: give model\.update_rate=VALUE$")


def test_missing_key_with_a_default_takes_it() -> None:
    assert build(PrunerConfig, {"name": "none"}).min_resource is None
    assert build(FeaturesConfig, {"name": "vgg16"}).weights is None


def test_a_part_that_is_no_mapping_is_refused() -> None:
    refuse(
        TrialConfig, {**asdict(trial_config()), "model": "srnca"}, "model=srnca: must be one of conf/model/"
    )
    refuse(TrialConfig, {**asdict(trial_config()), "texture": None}, "texture=null: must be one of")


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ({"name": "roundleaf", "source": "drawn", "url": ""}, PlantTexture),
        ({"name": "roundleaf", "source": "photo", "url": ""}, PlantTexture),
        ({"name": "image", "source": "file", "path": "a.png"}, ImageTexture),
        (GRAY_SCOTT, GrayScottTexture),
    ],
)
def test_the_source_picks_the_kind_of_texture(values: dict[str, Any], schema: type) -> None:
    built = build(TrialConfig, {**asdict(trial_config()), "texture": values}).texture
    assert type(built) is schema
    assert {
        key: value for key, value in asdict(built).items() if key in values or value is not None
    } == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "roundleaf", "source": "file", "url": ""},
            "texture.source=file: must be one of drawn, photo",
        ),
        ({"name": "roundleaf", "source": "oil", "url": ""}, "texture.source=oil: .* drawn, photo"),
        (
            {"name": "a", "path": "a.png"},
            "texture.source=null: .* drawn, photo, file, gray_scott",
        ),
        (
            {**GRAY_SCOTT, "feed": 0.3},
            "texture.feed=0.3: must be a number, 0 to 0.2",
        ),
        ({**GRAY_SCOTT, "seed": -1}, "texture.seed=-1"),
    ],
)
def test_bad_textures_are_refused(values: dict[str, Any], message: str) -> None:
    refuse(TrialConfig, {**asdict(trial_config()), "texture": values}, message)


@pytest.mark.parametrize("name", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_unknown_devices_are_refused(name: str) -> None:
    values = asdict(trial_config()) | {"device": name}
    refuse(TrialConfig, values, f"device={name}: must be auto, cuda, cuda:N or cpu")


def test_a_union_of_number_and_text_takes_both_and_nothing_else() -> None:
    values = {"name": "local", "workers": 2, "threads": "auto", "gpus": 0, "trials_per_gpu": 1}
    assert asdict(build(ExecutorConfig, values)) == {**values, "address": None, "storage_path": None}
    refuse(
        ExecutorConfig,
        {**values, "workers": "many"},
        "workers=many: must be a whole number, 1 to 1024 or auto",
    )
    refuse(ExecutorConfig, {**values, "workers": 0}, "workers=0")


IMAGE = {"name": "image", "source": "file", "path": "a.png"}


@pytest.mark.parametrize(
    "crop", [[0, 0, 16], [0, 0, 16, 16, 16], [-1, 0, 16, 16], [0, -1, 16, 16], [0, 0, 15, 16], [0, 0, 16, 15]]
)
def test_a_crop_that_is_no_rectangle_of_pixels_is_refused(crop: list[int]) -> None:
    shown = re.escape(str(crop))
    refuse(
        ImageTexture, {**IMAGE, "crop": crop}, rf"texture\.crop={shown}: must be \[LEFT,TOP,WIDTH,HEIGHT\]"
    )


def test_a_crop_and_a_scale_are_numbers() -> None:
    assert build(ImageTexture, {**IMAGE, "crop": [0, 0, 16, 16], "scale": 1}) == ImageTexture(
        "image", "file", "a.png", [0, 0, 16, 16], 1.0
    )
    refuse(
        ImageTexture, {**IMAGE, "crop": [0.5, 0, 16, 16]}, "crop=.*: must be a list .* each a whole number"
    )
    for scale in (0, -1, 65):
        refuse(ImageTexture, {**IMAGE, "scale": scale}, rf"scale={scale}: must be a number, in \(0, 64\]")


def test_studies_are_named_after_texture_model_loss_and_features() -> None:
    config = trial_config()
    image = ImageTexture(name="image", source="file", path="/a/b/my leaf,2.tar.png")
    simulated = GrayScottTexture(**GRAY_SCOTT)
    assert name_texture(image) == "my leaf,2.tar"
    assert name_study(config) == "roundleaf-srnca-random_filters"
    assert name_study(replace(config, texture=image)) == "my_leaf_2.tar-srnca-random_filters"
    assert name_study(replace(config, texture=simulated)) == "gray_scott_coral-srnca-random_filters"
    assert name_study(replace(config, features=FeaturesConfig("vgg16"))) == "roundleaf-srnca-vgg16"
    sliced = trial_config(rule="munca", loss=SLICED, features=PATCHES)
    assert name_study(sliced) == "roundleaf-munca-sliced-patches"


def test_flatten_joins_keys_with_dots() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
    assert flatten({}) == {}
    assert flatten({"a": 1}, "x.") == {"x.a": 1}


def test_the_schema_loads_the_standard_library_only() -> None:
    code = (
        "import sys, nca.config.schema; "
        "print(sorted({'torch', 'hydra', 'numpy', 'optuna'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("recorded", [{"endurance": False}, {}])
def test_the_config_of_an_older_run_is_read(recorded: dict[str, bool]) -> None:
    values = asdict(trial_config())
    del values["outputs"]
    values["tracking"] |= recorded
    config = build_recorded(values)
    assert config.outputs.robustness == recorded.get("endurance", True)
    assert config.tracking == trial_config().tracking
    assert build_recorded(asdict(config)) == config


def recorded_before_free_states(**model: Any) -> dict[str, Any]:
    """Return what a run recorded when there was one loss, one drop of the rate and one seed state."""
    values = asdict(trial_config())
    del values["loss"]
    for key in ("clamp", "seed_state", "seed_noise"):
        del values["model"][key]
    for key in OLDER_TRAIN.keys() - {"keep_checkpoint"}:
        del values["train"][key]
    values["model"] |= model
    return values


@pytest.mark.parametrize("activation", [{}, {"activation": "linear"}])
@pytest.mark.parametrize(
    ("recorded", "drop_steps"), [({}, None), ({"drop_step": None}, None), ({"drop_step": 7}, [7])]
)
def test_a_run_from_before_free_states_has_the_values_it_had(
    activation: dict[str, str], recorded: dict[str, int | None], drop_steps: list[int] | None
) -> None:
    values = recorded_before_free_states(**activation)
    values["train"] |= recorded
    config = build_recorded(values)
    assert config.loss == GRAM
    assert (config.model.clamp, config.model.seed_state, config.model.seed_noise) == (True, "square", 0.0)
    assert config.train == train_config(drop_steps=drop_steps)
    assert config.train.min_ca_steps is None
    assert build_recorded(asdict(config)) == config


def test_what_a_run_recorded_wins_over_the_values_of_older_ones() -> None:
    train = {"drop_steps": [3, 5], "min_ca_steps": 2, "overflow_weight": 1.5, "keep": "best"}
    config = trial_config(
        rule="munca", loss=SLICED, features=PATCHES, train=train | {"gradient_per_ca_step": True}
    )
    assert build_recorded(asdict(config)) == config


def test_a_run_of_the_rule_that_is_gone_says_what_to_do() -> None:
    values = recorded_before_free_states(name="relu", activation="relu")
    with pytest.raises(ConfigError, match=r"^model=relu: the ReLU rule .* train again with model=distill$"):
        build_recorded(values)


def test_what_is_no_config_of_a_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="missing"):
        build_recorded({})
