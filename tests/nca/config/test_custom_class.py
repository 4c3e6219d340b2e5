"""A user's own classes as options: named, found without an import, imported, refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nca import sweep
from nca.automaton.model import Automaton
from nca.cli.errors import ConfigError
from nca.config.compose import compose_plain
from nca.config.custom_class import check_named, find_source, is_custom, load_class
from nca.config.schema import TrialConfig, custom_classes, name_study
from nca.config.validation import build
from nca.study.plan import make_plans
from sweeps.space import Choice, Interval
from tests.custom_parts import BOTH, MEANS, SMOOTH, custom_folder

__all__ = ["custom_folder"]

TEXTURE = "texture=roundleaf"


@pytest.mark.parametrize("name", ["a.B", "my_rules.Smooth", "a.b_2.C", "größe.Ä"])
def test_a_dotted_path_is_a_class(name: str) -> None:
    assert is_custom(name)


@pytest.mark.parametrize("name", ["srnca", "a.", ".b", "a..b", "a.1", "a b.c", "a/b.c", "a.b\n", ""])
def test_all_else_is_none(name: str) -> None:
    assert not is_custom(name)


@pytest.mark.usefixtures("custom_folder")
def test_a_class_is_a_part_with_options_of_its_own() -> None:
    argv = [TEXTURE, *BOTH, "model.options.width=16", "loss.options.weight=0.5", "model.channels=8"]
    config = build(TrialConfig, compose_plain("train", argv))
    assert custom_classes(config) == {"model": SMOOTH, "loss": MEANS}
    assert (config.model.options, config.loss.options) == ({"width": 16}, {"weight": 0.5})
    assert (config.model.channels, config.train.rollout) == (8, "plain")
    assert name_study(config) == "roundleaf-my_rules.Smooth-my_package.losses.Means-auto"
    plain = build(TrialConfig, compose_plain("train", [TEXTURE]))
    assert (plain.model.options, plain.loss.options, custom_classes(plain)) == (None, None, {})


@pytest.mark.usefixtures("custom_folder")
def test_options_of_a_class_can_be_searched() -> None:
    argv = [TEXTURE, "model=srnca,my_rules.Smooth", "loss=my_package.losses.Means", "features=patches"]
    ours, own = make_plans(argv)
    assert (ours.config.trial.model.name, own.config.trial.model.name) == ("srnca", SMOOTH)
    argv = [TEXTURE, *BOTH, "search=fixed", "model.options.width=choice(8,16)", "loss.options.weight=2.0"]
    (plan,) = make_plans([*argv, "model.options.depth=range(1,5,2)", "model.options.gain=interval(0,1)"])
    assert plan.space == {
        "model.options.width": Choice((8, 16)),
        "model.options.depth": Interval(1, 5, step=2, integer=True),
        "model.options.gain": Interval(0, 1),
    }
    trial = plan.trial_config({"model.options.width": 16, "model.options.depth": 3}, 0)
    assert (trial.model.options, trial.loss.options) == ({"width": 16, "depth": 3}, {"weight": 2.0})
    tried = [each.model.options for each in plan.custom_trials()]
    assert tried == [{}, *({"width": w} for w in (8, 16)), *({"depth": d} for d in (1, 3, 5))] + [
        {"gain": gain} for gain in (0, 1)
    ]
    assert ours.custom_trials()[0].loss.name == MEANS


@pytest.mark.usefixtures("custom_folder")
def test_a_folder_of_configs_names_a_class() -> None:
    file = Path("mine/experiment/smooth.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\n# smooth\ndefaults:\n  - override /model: custom\n"
        f"model:\n  name: {SMOOTH}\n  options:\n    width: 24\n"
    )
    (plan,) = make_plans(["--config-dir=mine", TEXTURE, "experiment=smooth"])
    assert (plan.config.trial.model.name, plan.config.trial.model.options) == (SMOOTH, {"width": 24})
    assert plan.config.trial.train.optimizer == "soap"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["model=nowhere.Rule"],
            "^model=nowhere.Rule: there is no module nowhere in the working folder or on",
        ),
        (
            ["model=my_package.nope.Rule"],
            "^model=my_package.nope.Rule: there is no module my_package.nope in",
        ),
        (["loss=my_rules.more.X"], "there is no module my_rules.more in"),
        (
            ["model=smoth"],
            "^model=smoth: must be one of distill, munca, srnca, or a class of yours as MODULE",
        ),
        (["model=custom"], "^'model.name' is missing"),
        (["model=custom", "model.name=srnca"], r"^model.hidden_channels=null: model=srnca needs a value$"),
        (["model.name=my_rules.Smooth"], "^model.name=my_rules.Smooth: cannot be set; give model=NAME"),
        (["model.options.width=8"], r"^model.options=\{'width': 8\}: model=srnca has no such option$"),
        (
            ["model=my_rules.Smooth", "model.options.w=[1]"],
            r"^model.options.w=\[1\]: must be one number, text",
        ),
        (["model=my_rules.Smooth", "model.filters=4"], "^'model.filters' does not belong to the chosen"),
        (
            ["model=my_rules.Smooth", "++model.filters=4"],
            "^model.filters=4: model=my_rules.Smooth has no such",
        ),
    ],
)
@pytest.mark.usefixtures("custom_folder")
def test_mistakes_are_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make_plans([TEXTURE, *argv])
    assert "\n" not in str(error.value)


def test_a_dry_run_imports_nothing_of_it(custom_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (custom_folder / "my_rules.py").write_text("raise RuntimeError\n")
    sweep.main([TEXTURE, *BOTH])
    assert f"model     {SMOOTH}\n" in capsys.readouterr().out
    assert not {"my_rules", "my_package"} & sys.modules.keys()


def test_the_working_folder_is_searched_however_the_program_was_started(
    custom_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(custom_folder))])
    assert find_source("model", SMOOTH) == custom_folder / "my_rules.py"
    assert find_source("loss", MEANS) == custom_folder / "my_package" / "losses.py"
    assert sys.path[-1] == str(custom_folder)


@pytest.fixture
def module(custom_folder: Path) -> Iterator[Path]:
    """Return a file to write a module to."""
    yield custom_folder / "bad_module.py"
    sys.modules.pop("bad_module", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x = (",
            r"bad_module cannot be imported: SyntaxError: '\(' was never closed \(bad_module.py, line 1\)$",
        ),
        ("\nimport nowhere", r"ModuleNotFoundError: No module named 'nowhere' \(bad_module.py, line 2\)$"),
        ("def f():\n    raise OSError('a\\nb')\nf()", r"OSError: a \(bad_module.py, line 2\)$"),
        (
            "class Rules: pass",
            r"^model=bad_module.Rule: bad_module has no class Rule, did you mean 'Rules'\?$",
        ),
        ("Rule = 3", "bad_module has no class Rule$"),
        ("class Rule: pass", "must be a subclass of nca.automaton.model.Automaton$"),
        (
            "from nca.automaton.model import Automaton\nclass Rule(Automaton): pass",
            "^model=bad_module.Rule: lacks delta, make, which nca.automaton.model.Automaton asks for$",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_line(module: Path, text: str, message: str) -> None:
    module.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_class("model", "bad_module.Rule", Automaton)  # type: ignore[type-abstract]
    assert "\n" not in str(error.value)


def test_a_file_cannot_have_a_class_imported() -> None:
    check_named("x", "model", "srnca", None)
    check_named("x", "model", SMOOTH, SMOOTH)
    for given in (None, "srnca", "other.Rule"):
        with pytest.raises(ConfigError, match=f"^x: its model is {SMOOTH}, code .*by model={SMOOTH}$"):
            check_named("x", "model", SMOOTH, given)
