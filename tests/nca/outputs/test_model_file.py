"""A saved automaton holds everything that it needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nca.automaton.fast_rollout import Rollout
from nca.automaton.seeding import Streams
from nca.cli.errors import ConfigError
from nca.outputs.model_file import load_model, save_model
from nca.outputs.pictures import to_pixels
from tests.builders import CPU, RULES, automaton, trial_config


def test_a_saved_model_holds_kernels_weights_and_config(tmp_path: Path) -> None:
    model, config = automaton("distill", filters=9), {"model": {"filters": 9}, "seed": 0}
    save_model(model, config, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == config
        names = set(file.keys())
        assert names == {"kernels", "w0", "w1", "bias"}
        for name in names:
            assert torch.equal(file.get_tensor(name), model.state_dict()[name])


@pytest.mark.parametrize("rule", RULES)
def test_what_was_saved_is_loaded_and_grows_the_same_texture(tmp_path: Path, rule: str) -> None:
    config = trial_config(rule=rule)
    model = automaton(rule, channels=4)
    save_model(model, asdict(config), tmp_path / "m.safetensors", {"final_loss": 0.25})
    loaded = load_model(tmp_path / "m.safetensors")
    assert (loaded.config, loaded.metrics) == (config, {"final_loss": 0.25})
    picture = loaded.grow(size=32, ca_steps=9, seed=5)
    assert picture.size == (32, 32)
    streams = Streams(5, CPU)
    state = model.draw_seed_states(1, 32, streams["seed_states"])
    with torch.no_grad():
        state = Rollout()(loaded.automaton, state, 9, streams["masks"])
    assert np.array_equal(np.asarray(picture), to_pixels(model.rgb(state)))
    assert loaded.grow().size == (16, 16)


def damage(path: Path, metadata: dict[str, str], **tensors: Tensor | None) -> None:
    """Write a model file in which tensors, or parts of the header, are replaced or left out."""
    config, model = trial_config(rule="distill", model={"filters": 6}), automaton("distill", filters=6)
    kept = {name: tensor for name, tensor in (model.state_dict() | tensors).items() if tensor is not None}
    save_file(kept, path, {"config": json.dumps(asdict(config)), "metrics": "{}"} | metadata)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"w0": torch.full((8, 24), torch.nan)}, "w0 has values that are not finite"),
        ({"bias": torch.full((8,), torch.inf)}, "bias has values that are not finite"),
        ({"w0": torch.zeros(8, 25)}, r"w0 is torch.float32 \(8, 25\), where its config has .* \(8, 24\)"),
        ({"w1": torch.zeros(4)}, r"w1 is torch.float32 \(4,\), where"),
        ({"w1": torch.zeros(0, 8)}, r"w1 is torch.float32 \(0, 8\), where"),
        ({"kernels": torch.zeros(6, 9)}, r"kernels is torch.float32 \(6, 9\), where"),
        ({"kernels": torch.zeros(6, 3, 3)}, "must be the identity"),
        ({"w0": torch.zeros(8, 24, dtype=torch.int32)}, "w0 is torch.int32"),
        ({"w0": torch.zeros(8, 24, dtype=torch.float64)}, "w0 is torch.float64"),
        ({"bias": None}, r"it holds the tensors \['kernels', 'w0', 'w1'\] instead of \['bias', "),
        ({"w2": torch.zeros(1)}, "it holds the tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(
    tmp_path: Path, tensors: dict[str, Tensor | None], reason: str
) -> None:
    damage(tmp_path / "m.safetensors", {}, **tensors)
    with pytest.raises(ConfigError, match=rf"m.safetensors: not a model file \(.*{reason}") as error:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["config", "metrics"])
@pytest.mark.parametrize(
    "text", ["[]", "null", "1", "", "{", '{"train": 1}', '{"a": []}', "[" * 10**5, "9" * 5000]
)
def test_headers_that_cannot_be_read_are_one_line(tmp_path: Path, key: str, text: str) -> None:
    damage(tmp_path / "m.safetensors", {key: text})
    if key == "metrics" and text == '{"train": 1}':
        assert load_model(tmp_path / "m.safetensors").metrics == {"train": 1}
        return
    with pytest.raises(ConfigError) as error:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


def test_everybody_whom_the_umask_allows_may_read_a_model_file(tmp_path: Path) -> None:
    save_model(automaton(), {}, tmp_path / "m.safetensors")
    (tmp_path / "text").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "text").stat().st_mode


@pytest.mark.parametrize("content", [b"", b"\x05\x00\x00\x00\x00\x00\x00\x00{}   ", b"nothing of the kind"])
def test_what_is_no_saved_automaton_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ConfigError, match=r"m.safetensors: not a model file \("):
        load_model(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"m.safetensors: not a model file \(|missing"):
        load_model(path)
