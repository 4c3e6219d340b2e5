"""A saved automaton holds everything that it needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import make_seed_state
from nca.automaton.seeding import Streams
from nca.cli.errors import ConfigError
from nca.outputs.model_file import load_model, save_model
from nca.outputs.pictures import to_pixels
from tests.builders import CPU, automaton, trial_config


def test_a_saved_model_holds_kernels_weights_and_config(tmp_path: Path) -> None:
    model, config = automaton("relu", filters=9), {"model": {"filters": 9}, "seed": 0}
    save_model(model, config, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == config
        names = set(file.keys())
        assert names == {"kernels", "w0", "w1", "bias"}
        for name in names:
            assert torch.equal(file.get_tensor(name), model.state_dict()[name])


@pytest.mark.parametrize("rule", ["srnca", "relu"])
def test_what_was_saved_is_loaded_and_grows_the_same_texture(tmp_path: Path, rule: str) -> None:
    config = trial_config(rule=rule)
    model = automaton(rule, channels=4, filters=6)
    save_model(model, asdict(config), tmp_path / "m.safetensors", {"final_loss": 0.25})
    loaded = load_model(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.metrics) == (config, {"final_loss": 0.25})
    picture = loaded.grow(size=32, ca_steps=9, seed=5)
    assert picture.size == (32, 32)
    streams = Streams(5, CPU)
    state = make_seed_state(1, 4, 32, streams["seed_states"], CPU)
    with torch.no_grad():
        state = Rollout()(loaded.automaton, state, 9, streams["masks"])
    assert np.array_equal(np.asarray(picture), to_pixels(state[:, :3]))
    assert loaded.grow().size == (16, 16)


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00\x00\x00\x00\x00{}   ", b"nothing of the kind"])
def test_what_is_no_saved_automaton_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ConfigError, match=r"m.safetensors: not a model file \("):
        load_model(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"m.safetensors: not a model file \(|missing"):
        load_model(path)
