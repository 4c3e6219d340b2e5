"""Training steps as graphs, with a stand-in for the capture: the same numbers, every tensor where it was."""

from __future__ import annotations

import pytest
import torch

from nca.cli.errors import ConfigError
from nca.training import trainer as trainer_module
from nca.training.cuda_graphs import N_WARM_UP, Capture, Launch, StepGraphs
from nca.training.run import build_trainer
from nca.training.trainer import Trainer
from tests.builders import train_config, trial_config

CPU = torch.device("cpu")


def make_trainer(optimizer: str, *, cuda_graph: bool = False) -> Trainer:
    train = {"steps": 24, "learning_rate": 1 / 1024, "optimizer": optimizer}
    trainer = build_trainer(trial_config(train=train), CPU)
    if cuda_graph:
        config = train_config(**train, cuda_graph=True)
        trainer = Trainer(trainer.model, trainer._pool, trainer.texture_loss, config, trainer._streams)
    return trainer


def lasting_tensors(trainer: Trainer) -> list[int]:
    """Return where in memory everything lies that one step hands to the next."""
    optimizer = trainer._optimizer
    moments = [value for entry in optimizer.state.values() for value in entry.values()]
    rates = [group["lr"] for group in optimizer.param_groups]
    own = [trainer._diverged, trainer.output, optimizer.found_inf]  # type: ignore[attr-defined]  # undeclared
    return [tensor.data_ptr() for tensor in [*trainer.model.parameters(), *moments, *rates, *own]]


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_graphs_train_as_steps_do_and_move_nothing(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_captured = 0
    known: list[torch.Generator] = []

    def stand_in(generators: list[torch.Generator]) -> Capture:
        def capture(launch: Launch) -> Launch:
            nonlocal n_captured
            n_captured += 1
            before = lasting_tensors(graphed)

            def replay() -> None:
                launch()
                assert lasting_tensors(graphed) == before

            return replay

        known.extend(generators)
        return capture

    plain = make_trainer(optimizer)
    list(plain.steps())
    monkeypatch.setattr(trainer_module, "capture_on_cuda", stand_in)
    graphed = make_trainer(optimizer, cuda_graph=True)
    list(graphed.steps())
    assert known == [graphed._streams["masks"]]
    # The learning rate is float32 in memory: 1 / 1024 exactly, until it drops.
    assert graphed.losses[:9] == plain.losses[:9]
    assert graphed.losses == pytest.approx(plain.losses, rel=1e-5)
    assert n_captured == 3  # max_ca_steps=6 gives rollouts of 3, 4 and 5 CA steps
    assert torch.allclose(graphed.output, plain.output, atol=1e-3)


def test_a_capture_happens_once_for_a_length_after_the_warm_up() -> None:
    lengths: list[int] = []
    captured: list[int] = []

    def step(states: torch.Tensor, ca_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths.append(ca_steps)
        return states + ca_steps, states.sum()

    def capture(launch: Launch) -> Launch:
        captured.append(len(lengths))
        return launch

    graphs = StepGraphs(step, capture)
    for number, ca_steps in enumerate([4, 5, 4, 4, 5, 4, 5]):
        final, loss = graphs(torch.full((1, 2, 1, 1), float(number)), ca_steps)
        assert torch.equal(final, torch.full((1, 2, 1, 1), float(number + ca_steps)))
        assert float(loss) == 2 * number
    assert captured == [N_WARM_UP, N_WARM_UP + 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cuda_graph": True}, "train.cuda_graph=true: needs a GPU, and device is cpu; give false"),
        (
            {"cuda_graph": True, "recompute": True},
            "train.cuda_graph=true: not with train.recompute=true; set one of them to false",
        ),
        ({"precision": "tf32"}, "train.precision=tf32: needs a GPU, and device is cpu; give fp32"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_trainer(trial_config(train=changes), CPU)
    assert str(caught.value) == message
