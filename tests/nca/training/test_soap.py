"""SOAP: plain Adam where there is nothing to rotate, and in any basis as good as Adam in the best one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nca.training.soap import Soap

BETAS = (0.9, 0.95)


def train(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor]) -> list[Tensor]:
    """Return the weight after each of the steps with given gradients."""
    weights = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        weights.append(weight.detach().clone())
    return weights


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(gradients: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights that SOAP and Adam come to from zeros."""
    found = []
    for kind in (Soap, torch.optim.Adam):
        weight = nn.Parameter(torch.zeros_like(gradients[0]))
        found.append(train(kind([weight], lr=0.01, betas=BETAS), weight, gradients))
    return found[0], found[1]


def test_a_vector_gets_adam() -> None:
    for ours, adams in zip(*both([draw(5, seed=seed) for seed in range(6)]), strict=True):
        assert torch.allclose(ours, adams, atol=1e-12)


def test_a_matrix_whose_gradients_lie_along_the_axes_gets_adam() -> None:
    gradients = [
        torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64) * (seed + 1)) for seed in range(6)
    ]
    for ours, adams in zip(*both(gradients), strict=True):
        assert torch.allclose(ours, adams, atol=1e-9)


def minimize(kind: type[torch.optim.Optimizer], rotate: Tensor, n_steps: int = 400) -> float:
    """Return the loss after steps on a quadratic that is 1,000 times as steep along some axes."""
    weight, target = nn.Parameter(torch.zeros(8, 8, dtype=torch.float64)), draw(8, 8, seed=1)
    scales = torch.logspace(-1.5, 1.5, 8, dtype=torch.float64)
    optimizer = kind([weight], lr=0.02, betas=BETAS)  # type: ignore[call-arg]
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = ((scales[:, None] * (rotate @ (weight - target))) ** 2).sum()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_a_rotated_basis_costs_little_where_adam_loses_much() -> None:
    straight, rotated = torch.eye(8, dtype=torch.float64), torch.linalg.qr(draw(8, 8, seed=2)).Q
    best = minimize(torch.optim.Adam, straight)
    assert minimize(Soap, rotated) < 3 * best
    assert minimize(torch.optim.Adam, rotated) > 10 * best


def test_its_bases_are_the_eigenvectors_of_what_gradients_have_in_common() -> None:
    weight, basis = (
        nn.Parameter(torch.zeros(6, 4, dtype=torch.float64)),
        torch.linalg.qr(draw(6, 6, seed=3)).Q,
    )
    optimizer = Soap([weight], lr=0.01)
    scales = torch.logspace(0, -2, 6, dtype=torch.float64)
    train(optimizer, weight, [basis @ (scales[:, None] * draw(6, 4, seed=seed)) for seed in range(200)])
    state = optimizer.state[weight]
    found = state["rows_basis"]
    assert torch.allclose(found.T @ found, torch.eye(6, dtype=torch.float64), atol=1e-9)
    rotated = found.T @ state["rows"] @ found
    assert float((rotated - rotated.diag().diag()).norm()) < 0.05 * float(rotated.norm())


def test_nothing_changes_once_a_step_has_diverged() -> None:
    weight, bias = nn.Parameter(draw(3, 2)), nn.Parameter(draw(3))
    before = [weight.detach().clone(), bias.detach().clone()]
    optimizer = Soap([weight, bias], lr=0.01, found_inf=torch.ones(()))
    weight.grad, bias.grad = torch.full((3, 2), torch.nan, dtype=torch.float64), draw(3)
    optimizer.step()
    assert torch.equal(weight, before[0])
    assert torch.equal(bias, before[1])
    optimizer = Soap([weight, bias], lr=torch.tensor(0.01), found_inf=torch.zeros(()))
    weight.grad = draw(3, 2)
    optimizer.step()
    assert not torch.equal(weight, before[0])
