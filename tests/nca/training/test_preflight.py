"""What is refused before anything is created, and what identifies a run's inputs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig, ImageTexture
from nca.loss.features import hash_filters
from nca.textures.load import load_pixels, texture_hash
from nca.training.device import pick_device
from nca.training.preflight import check_environment, check_inputs
from nca.training.run import build_trainer
from tests.builders import CPU, PATCHES, trial_config, vgg_weights


def test_inputs_are_identified_by_their_content(tmp_path: Path) -> None:
    config = trial_config()
    identity = check_inputs(config)
    assert identity == {
        "texture.hash": texture_hash(load_pixels(config.texture, 16)),
        "features.hash": hash_filters(),
    }
    larger = replace(config, train=replace(config.train, size=32))
    assert check_inputs(larger)["texture.hash"] != identity["texture.hash"]
    save_file(vgg_weights(), tmp_path / "w.safetensors")
    given = FeaturesConfig("vgg16", str(tmp_path / "w.safetensors"))
    assert len(check_inputs(replace(config, features=given))["features.hash"]) == 64


@pytest.mark.parametrize(("factor", "energy"), [(-1.0, "0"), (1e20, "inf")])
def test_weights_whose_style_loss_is_0_or_infinite_are_refused(
    tmp_path: Path, factor: float, energy: str
) -> None:
    weights = vgg_weights()
    weights["features.0.weight"] = factor * weights["features.0.weight"].abs()
    weights |= {key: torch.zeros_like(tensor) for key, tensor in weights.items() if key.endswith("bias")}
    save_file(weights, tmp_path / "w.safetensors")
    features = FeaturesConfig("vgg16", str(tmp_path / "w.safetensors"))
    message = rf"w\.safetensors: an image without features has the style loss {energy}, which must be above 0"
    with pytest.raises(ConfigError, match=message):
        check_inputs(trial_config(features=features))


def test_a_black_texture_is_named_as_the_mistake(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")
    texture = ImageTexture("black", "file", str(tmp_path / "black.png"))
    with pytest.raises(ConfigError, match=r"^the texture is black"):
        check_inputs(trial_config(texture=texture, features=PATCHES))


def test_surroundings_are_checked_without_creating_anything(tmp_path: Path) -> None:
    check_environment(trial_config(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"runs_dir=.*/file/runs: .*/file is not a folder"):
        check_environment(trial_config(tmp_path / "file" / "runs"))
    missing = ImageTexture(name="image", source="file", path=str(tmp_path / "no.png"))
    with pytest.raises(ConfigError, match=r"no\.png does not exist"):
        check_environment(trial_config(tmp_path, texture=missing))


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    # Not even the superuser, who may write everywhere, makes a folder here.
    with pytest.raises(
        ConfigError, match=r"runs_dir=/proc/runs: /proc is not writable; give runs_dir=FOLDER"
    ):
        check_environment(trial_config("/proc/runs"))


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        # 16 x 16 floats: 8 states of the pool and 2 x 6 of a rollout, of 4 channels; 2 images of 85 features
        ({}, 4 * 16**2 * ((8 + 2 * 6) * 4 + 2 * 85)),
        ({"pool_size": None}, 4 * 16**2 * ((128 + 2 * 6) * 4 + 2 * 85)),
        ({"recompute": True}, 4 * 16**2 * ((8 + 2 * 2) * 4 + 85)),
        ({"pool_size": 10**12}, 4 * 16**2 * ((10**12 + 2 * 6) * 4 + 2 * 85)),
    ],
)
def test_a_run_that_needs_more_memory_than_the_machine_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], needed: int
) -> None:
    config = trial_config(tmp_path / "runs", train=changes)
    monkeypatch.setattr("nca.training.preflight.host_memory_bytes", lambda: needed)
    check_environment(config)
    monkeypatch.setattr("nca.training.preflight.host_memory_bytes", lambda: needed - 1)
    with pytest.raises(ConfigError, match=r"train\.pool_size=.*: a run needs more than .* GB .* cpu has"):
        check_environment(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capabilities", "allowed"),
    [({"avx2": True, "avx512_bf16": False}, False), ({"amx_bf16": True}, True), ({"bf16": True}, True)],
)
def test_bf16_needs_a_cpu_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], allowed: bool
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    config = trial_config(train={"precision": "bf16"})
    message = r"train\.precision=bf16: this CPU has no instructions for bf16 .*; give fp32"
    with nullcontext() if allowed else pytest.raises(ConfigError, match=message):
        check_environment(config)


@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_products_are_rounded_to_tf32_with_tf32_alone(
    monkeypatch: pytest.MonkeyPatch, precision: Literal["tf32", "fp32", "bf16"]
) -> None:
    allowed: list[bool] = []
    monkeypatch.setattr("nca.training.run.allow_tf32", allowed.append)
    monkeypatch.setattr("nca.training.run.check_device", lambda *_: None)
    build_trainer(trial_config(train={"precision": precision}), CPU)
    assert allowed == [precision == "tf32"]


def test_devices_are_picked_by_name() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device=cuda:99: \d+ CUDA devices found here; use device=cpu"):
        pick_device("cuda:99")
