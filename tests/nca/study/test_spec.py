"""What the engine gets of a plan: fixed values, sampler, pruner, and the configs of trials."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from nca.cli.errors import ConfigError
from nca.config.schema import training_values
from nca.study.plan import Plan, make_plans
from nca.study.spec import TrialConfigs, pruner_spec, sampler_spec, study_spec
from nca.training.inputs import hash_inputs
from sweeps import SweepError
from sweeps.study import check_fingerprint


def plan_of(*overrides: str) -> Plan:
    (plan,) = make_plans(["texture=roundleaf", *overrides])
    return plan


def test_a_trial_is_refused_once_the_texture_has_changed(tmp_path: Path) -> None:
    picture = tmp_path / "leaf.png"
    Image.new("RGB", (32, 32), "green").save(picture)
    overrides = ["texture=image", f"texture.path={picture}", "features=random_filters", "train.size=16"]
    (plan,) = make_plans([*overrides, "train.steps=7"])
    compose = TrialConfigs(plan, hash_inputs(plan.trial_config({}, 0)))
    drawn = {"model.channels": 9, "train.learning_rate": 1e-5}
    assert compose(drawn, 3)["seed"] == 3
    os.utime(picture, (0, 0))  # the same picture
    assert compose(drawn, 4)["train"]["learning_rate"] == 1e-5
    Image.new("RGB", (32, 32), "red").save(picture)
    with pytest.raises(
        ConfigError, match=r"^texture\.hash .* -> .*: the file has changed since the sweep began"
    ):
        compose(drawn, 5)
    Image.new("RGB", (32, 32), "green").save(picture)
    assert compose(drawn, 5)["seed"] == 5
    picture.unlink()
    with pytest.raises(ConfigError, match=r"leaf\.png"):
        compose(drawn, 6)


def test_the_fixed_values_of_a_study_hold_hashes_instead_of_paths(tmp_path: Path) -> None:
    overrides = [
        "texture=image",
        f"texture.path={tmp_path}/a.png",
        "features=vgg16",
        "features.weights=/x.pt",
    ]
    (plan,) = make_plans([*overrides, f"runs_dir={tmp_path}"])
    identity = {"texture.hash": "abc", "features.hash": "def"}
    spec = study_spec(plan, identity)
    assert spec.fixed.items() >= identity.items()
    assert str(tmp_path) not in str(spec.fixed)
    assert "/x.pt" not in str(spec.fixed)
    assert spec.fixed.keys().isdisjoint(plan.space)
    assert spec.storage == f"sqlite:///{tmp_path}/optuna.db"
    assert spec.space == plan.space


def test_the_part_of_an_image_is_fixed_only_where_it_is_given() -> None:
    """Studies and runs that were begun before crop and scale existed stay the same."""
    (plan,) = make_plans(["texture=image", "texture.path=a.png"])
    assert training_values(plan.config.trial)["texture"] == {
        "name": "image",
        "source": "file",
        "path": "a.png",
    }
    specs = {"": study_spec(plan, {})}
    for override in ("texture.crop=[1,2,30,40]", "texture.scale=0.25"):
        (plan,) = make_plans(["texture=image", "texture.path=a.png", override])
        specs[override] = study_spec(plan, {})
    crop, scale = list(specs.values())[1:]
    assert (crop.fixed["texture.crop"], scale.fixed["texture.scale"]) == ([1, 2, 30, 40], 0.25)
    for ours, others in itertools.permutations(specs.values(), 2):
        with pytest.raises(SweepError, match=r"texture\.(crop|scale) .* -> "):
            check_fingerprint(ours, json.loads(json.dumps(others.fingerprint)))
    assert specs[""].fixed.keys().isdisjoint({"texture.crop", "texture.scale"})


def test_only_what_a_result_depends_on_is_fixed() -> None:
    spec = study_spec(plan_of(), {})
    same = ["device=cpu", "tracking=none", "runs_dir=/x", "train.checkpoint_every=9", "train.rollout=plain"]
    same += ["sampler=random", "pruner=asha", "sweep.n_trials=9", "sweep.seed=9", "executor.workers=3"]
    assert study_spec(plan_of(*same), {}).fixed == spec.fixed
    for override in ("train.steps=9", "seed=9", "model.mask=cell", "train.size=64", "train.precision=bf16"):
        assert study_spec(plan_of(override), {}).fixed != spec.fixed, override


def test_sampler_and_pruner_specs_hold_the_chosen_options() -> None:
    config = plan_of("sampler=gp", "sampler.n_startup_trials=3", "sweep.seed=5", "pruner=asha").config
    sampler, pruner = sampler_spec(config), pruner_spec(config)
    assert (sampler.name, sampler.seed, sampler.options) == ("gp", 5, {"n_startup_trials": 3})
    assert (pruner.name, pruner.max_resource) == ("asha", 16384)
    assert pruner.options == {"min_resource": 512, "reduction_factor": 4}
