"""Modules of a user's own, written to a folder that is importable while a test runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RULE = """
import torch
import torch.nn.functional as F
from torch import nn

from nca.automaton.model import Automaton
from nca.automaton.perception import DISTILL_KERNELS, make_kernels, perceive


class Smooth(Automaton):
    def __init__(self, config, kernels, first, last):
        super().__init__(config, kernels)
        self.first, self.last = nn.Parameter(first), nn.Parameter(last)

    @classmethod
    def make(cls, config, streams):
        width = config.options.get("width", 8)
        if width > 64:
            raise ValueError("too wide")
        kernels = make_kernels(4, streams["filters"], DISTILL_KERNELS)
        first = torch.randn(width, 4 * config.channels, generator=streams["weights"])
        return cls(config, kernels, 0.1 * first, torch.zeros(config.channels, width))

    def delta(self, state):
        hidden = F.conv2d(perceive(state, self.kernels), self.first[:, :, None, None])
        return F.conv2d(hidden.tanh(), self.last[:, :, None, None])
"""
LOSS = """
import torch

from nca.loss.texture_loss import TextureLoss


class Means(TextureLoss):
    def __init__(self, extractor, target, weight=1.0):
        self.extractor, self.weight = extractor, weight
        with torch.no_grad():
            self.target = [features.mean(dim=2) for features in extractor(target[None])]
            self.energy = torch.stack([(mean**2).mean() for mean in self.target]).sum()

    def __call__(self, images):
        means = [features.mean(dim=2) for features in self.extractor(images)]
        terms = [((a - b) ** 2).mean() for a, b in zip(means, self.target, strict=True)]
        return self.weight * torch.stack(terms).sum()
"""
SMOOTH, MEANS = "my_rules.Smooth", "my_package.losses.Means"
BOTH = [f"model={SMOOTH}", f"loss={MEANS}"]


def write_custom_parts(folder: Path, rule: str = RULE, loss: str = LOSS) -> None:
    """Write the modules `my_rules` and `my_package.losses`."""
    package = folder / "my_package"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (folder / "my_rules.py").write_text(rule)
    (package / "losses.py").write_text(loss)


def forget_custom_parts() -> None:
    """Have the modules imported anew."""
    for name in ("my_rules", "my_package", "my_package.losses"):
        sys.modules.pop(name, None)


@pytest.fixture
def custom_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder, which holds the modules."""
    write_custom_parts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of a file within a second
    yield tmp_path
    forget_custom_parts()
