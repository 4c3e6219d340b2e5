"""A saved automaton holds everything that it needs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from nca.saved import save_model
from tests.builders import automaton


def test_a_saved_model_holds_kernels_weights_and_config(tmp_path: Path) -> None:
    model, config = automaton("relu", filters=9), {"model": {"filters": 9}, "seed": 0}
    save_model(model, config, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == config
        names = set(file.keys())
        assert names == {"kernels", "w0", "w1", "bias"}
        for name in names:
            assert torch.equal(file.get_tensor(name), model.state_dict()[name])
