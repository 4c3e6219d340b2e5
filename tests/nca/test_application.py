"""A trial of a texture sweep, as the engine runs it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from nca.application import TextureSweep
from nca.config import TrialConfig
from nca.run import Outcome
from nca.tracking import NullTracker
from sweeps.worker import RunningTrial
from tests.builders import trial_config


class Trial(RunningTrial):
    """A trial without a study."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.links, self.lean = folder, {}, False
        self.config: dict[str, Any] = asdict(trial_config(folder))


def test_a_lean_trial_recomputes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrialConfig] = []

    def train(config: TrialConfig, folder: Path, tracker: NullTracker, listener: object) -> Outcome:
        seen.append(config)
        return Outcome("complete", 1, {"final_loss": 0.5}, None)

    monkeypatch.setattr("nca.application.train", train)
    trial = Trial(tmp_path)
    assert TextureSweep().run(trial).values == (0.5,)
    trial.lean = True
    trial.config["train"]["cuda_graph"] = True  # refused beside recomputation
    assert TextureSweep().run(trial).values == (0.5,)
    assert [(c.train.recompute, c.train.cuda_graph) for c in seen] == [(False, False), (True, False)]


def test_only_want_of_memory_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        def train(*_: object) -> Outcome:
            raise error

        monkeypatch.setattr("nca.application.train", train)

    fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."))
    result = TextureSweep().run(Trial(tmp_path))
    assert (result.reason, result.values) == ("out_of_memory", ())
    assert result.attributes["error"] == "CUDA out of memory. Tried to allocate 2.00 GiB."
    fail(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        TextureSweep().run(Trial(tmp_path))
