"""The plain sliced loss is the one that it is a baseline of."""

from __future__ import annotations

import torch

from benchmarks.cases import DISTILL, make_loss
from tests.builders import generator


def test_the_plain_sliced_loss_has_the_value_and_the_gradient_of_ours() -> None:
    target = torch.rand(3, 64, 64, generator=generator(1))
    images = torch.rand(2, 3, 64, 64, generator=generator(2))
    found = []
    for plain in (True, False):
        loss = make_loss(DISTILL, target, torch.float32, plain=plain)
        loss.draw(generator(3))
        leaf = images.clone().requires_grad_()
        value = loss(leaf)
        found.append((value.detach(), torch.autograd.grad(value, leaf)[0], loss.energy))
    (value, gradient, energy), (ours, our_gradient, our_energy) = found
    torch.testing.assert_close(value, ours)
    torch.testing.assert_close(energy, our_energy)
    # A rounding may swap neighbors of nearly equal projections; a different formula would change all pixels.
    assert (gradient - our_gradient).norm() < 1e-2 * our_gradient.norm()
