"""The transcriptions of published programs are what they are named for, and the command resumes."""

from __future__ import annotations

import dataclasses
import json
from datetime import date
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import peer_runs, peers
from benchmarks.peer_runs import NAMES, Measure, Panel, Run, is_point, to_automaton
from benchmarks.published import losses
from benchmarks.published.losses import cool, relaxed_ot, sinkhorn_divergence, sliced_ot
from benchmarks.published.rules import CHANNELS, Munca, make_google, make_noisenca
from benchmarks.published.training import RECIPES, PublishedTrainer
from nca.outputs import grown
from tests.builders import generator, vgg_weights

PANEL = Panel("roundleaf", 32)
RULES = (make_google, make_noisenca, Munca)


@pytest.fixture(autouse=True)
def _rollouts_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, dataclasses.replace(recipe, min_ca_steps=2, max_ca_steps=5))
    monkeypatch.setattr(grown, "OLD_CA_STEPS", 20)


@pytest.fixture
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "N_PATCHES", 40)
    monkeypatch.setattr(losses, "N_TARGET_PATCHES", 60)


def target() -> Tensor:
    return torch.rand(3, 32, 32, generator=generator(1))


@pytest.mark.parametrize("make", RULES, ids=lambda make: make.__name__)
def test_a_published_rule_is_ours_with_the_same_weights(make: type[Munca]) -> None:
    rule = make(generator(0))
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(2)))
    rate, rule.update_rate = rule.update_rate, 1.0
    state = torch.rand(2, CHANNELS, 16, 16, generator=generator(3)) - 0.5
    model = to_automaton(rule)
    ours = model.update(state, torch.ones(2, 1, 16, 16, dtype=torch.int8))
    assert (ours - state).abs().mean() > 0.01
    torch.testing.assert_close(rule(state, generator(4)), ours)
    torch.testing.assert_close(
        rule.draw_seeds(2, 16, generator(5)), model.draw_seed_states(2, 16, generator(5))
    )

    rule.update_rate = rate
    changed = (rule(state, generator(4)) != state).any(dim=1).float()
    assert to_automaton(rule).config.update_rate == rate
    assert changed.mean() == pytest.approx(rate, abs=0.1)


@pytest.mark.usefixtures("few_patches")
@pytest.mark.parametrize("name", RECIPES)
def test_a_published_program_takes_a_step_and_resumes(name: str) -> None:
    whole, first, second = (
        PublishedTrainer(RECIPES[name], target(), vgg_weights(), pool_rows=5) for _ in range(3)
    )
    found = [whole.train_step() for _ in range(4)]
    assert found[:2] == [first.train_step(), first.train_step()]
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    assert found[2:] == [second.train_step(), second.train_step()]
    start = RECIPES[name].make_rule(generator(0)).state_dict()
    moved = [key for key, tensor in whole.rule.state_dict().items() if not torch.equal(tensor, start[key])]
    assert moved == [key for key, _ in whole.rule.named_parameters()]


@pytest.mark.parametrize("name", RECIPES)
def test_the_target_has_no_loss(name: str) -> None:
    loss = RECIPES[name].make_loss(
        target(), vgg_weights(width=8)
    )  # fewer features are 0 somewhere, all at once
    others = torch.rand(2, 3, 32, 32, generator=generator(6)) ** 2
    assert float(loss(target()[None], generator(0))) < 0.02 * float(loss(others, generator(0)))


def test_sinkhorns_divergence_of_shifted_points_is_half_the_squared_shift() -> None:
    y = 10 * torch.rand(1, 30, 5, generator=generator(7))
    x = (y.flip(1) + 0.3).requires_grad_()
    found = sinkhorn_divergence(torch.cat([x, y]), y)
    torch.testing.assert_close(found, torch.tensor([5 * 0.3**2 / 2, 0.0]), atol=1e-3, rtol=0)
    (gradient,) = torch.autograd.grad(found[0], x)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.3 / 30), atol=1e-3, rtol=0)
    assert cool(0.4) == pytest.approx([0.16, 0.16, 0.04, 0.01, 0.0025])


def test_transport_does_not_see_the_order_of_positions() -> None:
    x = torch.rand(1, 6, 40, generator=generator(8))
    shuffled = x[:, :, torch.randperm(40, generator=generator(9))]
    assert float(sliced_ot(shuffled, x, generator(0))) == pytest.approx(0, abs=1e-9)
    assert float(sliced_ot(x + 0.1, x, generator(0))) > 0.1
    assert float(relaxed_ot(shuffled[0].T, x[0].T)) == pytest.approx(0, abs=1e-6)
    near = x[0, :, :1].T.expand(40, 6)  # all of its points are near, most of the target's are not
    assert float(relaxed_ot(near, x[0].T)) > 0.01


def test_outputs_are_measured_four_times_per_doubling() -> None:
    steps = [step for step in range(1, 65) if is_point(step)]
    assert steps == [16, 20, 23, 27, 32, 39, 46, 54, 64]


@pytest.mark.parametrize("name", ["NoiseNCA", "ours, distill"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peer_runs, "FIRST_POINT", 2)
    weights = vgg_weights()
    measure = Measure(PANEL.load_target(), weights)

    def run(folder: str) -> Run:
        return Run(tmp_path / folder, PANEL, name, weights, measure)

    whole, part = run("whole"), run("part")
    for _ in range(4):
        whole.train(1e-9)  # one step
    for _ in range(3):
        part.train(1e-9)
    resumed = run("part")
    resumed.train(1e-9)
    assert resumed.step == whole.step == 4
    expected, found = ([(p.step, p.distance, p.vgg_ratio) for p in each.curve] for each in (whole, resumed))
    assert found == expected
    assert [step for step, *_ in found] == [2, 3, 4]
    assert resumed.curve[:2] == part.curve
    assert resumed.seconds > part.seconds


@pytest.mark.usefixtures("few_patches")
def test_the_command_goes_on_and_compares(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PANELS", {PANEL.name: PANEL})
    monkeypatch.setattr(peers, "vgg_weights", vgg_weights)
    monkeypatch.setattr(peers, "measure_machine", dict)
    monkeypatch.setattr(peers, "RESULTS", tmp_path / "peers.json")
    monkeypatch.setattr(peers, "PICTURES", tmp_path)
    monkeypatch.setattr(peer_runs, "LIMIT_S", 1e-9)
    monkeypatch.setattr(peer_runs, "TIMED_ROUNDS", 1)
    folder = str(tmp_path / "runs")
    with pytest.raises(SystemExit):
        peers.main([folder, "--hours", "0"])
    assert "no measured runs yet" in capsys.readouterr().err
    peers.main([folder, "--program", *NAMES[1:]])
    peers.main([folder])
    found = json.loads((tmp_path / "peers.json").read_text())
    assert list(found["runs"][PANEL.name]) == list(NAMES)
    for run in found["runs"][PANEL.name].values():
        assert (run["steps"], run["end"], len(run["curve"])) == (1, "shortened", 1)
    assert found["step_seconds"][PANEL.name].keys() == set(NAMES)
    assert len(found["compared"]) == 2 * len(RECIPES)
    assert (tmp_path / "peers_32.png").stat().st_size > 10_000
    assert "seeded random weights" in capsys.readouterr().out

    torch.save(vgg_weights(seed=1), tmp_path / "vgg.pt")
    with pytest.raises(SystemExit) as ended:
        peers.main([folder, f"features.weights={tmp_path / 'vgg.pt'}"])
    assert ended.value.code == 2
    assert "other weights" in capsys.readouterr().err


def test_records_of_other_targets_and_programs_are_kept_if_they_have_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "measure_machine", dict)
    old: dict[str, object] = {"curve": [[10.0, 1, 0.9, 0.5]]}
    new: dict[str, object] = {"curve": [[5.0, 1, 0.8, 0.4]]}
    runs = {"roundleaf-64": {"muNCA": old}, "roundleaf-128": {"ours, distill": old, "muNCA": old}}
    before = {"vgg16": "a", "step_seconds": {"roundleaf-64": {"muNCA": 2.5}}, "runs": runs}
    timed = {"roundleaf-128": {"muNCA": 5.0}}
    found = peers.merge(before, {"roundleaf-128": {"NoiseNCA": new, "muNCA": new}}, timed, "a")
    new["measured"] = str(date.today())
    assert found["runs"] == {
        "roundleaf-64": {"muNCA": old},
        "roundleaf-128": {"NoiseNCA": new, "muNCA": new, "ours, distill": old},
    }
    assert found["step_seconds"] == {"roundleaf-64": {"muNCA": 2.5}, **timed}
    assert [(row["panel"], row["program"]) for row in found["compared"]][::2] == [
        ("roundleaf-64", "muNCA"),
        ("roundleaf-128", "NoiseNCA"),
        ("roundleaf-128", "muNCA"),
    ]
    assert peers.merge(before, {"roundleaf-128": {"muNCA": new}}, {}, "b")["runs"] == {
        "roundleaf-128": {"muNCA": new}
    }


def test_ours_is_sooner_where_its_curve_is_first_as_low() -> None:
    curves = {
        "muNCA": [[10.0, 1, 0.9, 0.5], [20.0, 2, 0.4, 0.3], [30.0, 3, 0.5, 0.2]],
        "ours, distill": [[1.0, 1, 0.5, 0.3], [2.0, 2, 0.4, 0.25], [4.0, 3, 0.3, 0.25]],
    }
    rows = peers.compare({"roundleaf-64": {name: {"curve": curve} for name, curve in curves.items()}})
    assert [row["best"] for row in rows] == [0.4, 0.2]
    assert [row["seconds"]["muNCA"] for row in rows] == [20.0, 30.0]
    assert [row["seconds"]["ours, distill"] for row in rows] == [2.0, None]
