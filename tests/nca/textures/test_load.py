"""Target images: each kind of texture, and its errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nca.cli.errors import ConfigError
from nca.config.schema import GrayScottTexture, ImageTexture, PlantTexture
from nca.textures.load import ASSETS, load_pixels, load_texture, texture_hash
from tests.nca.textures.pictures import SIDE, assert_one_line, checkered, save
from tools.draw_textures import TEXTURES


@pytest.mark.parametrize("name", TEXTURES)
def test_drawn_texture_is_the_asset(name: str) -> None:
    pixels = load_pixels(PlantTexture(name=name, source="drawn", url=""), 256)
    with Image.open(ASSETS / f"{name}.png") as image:
        assert np.array_equal(pixels, np.asarray(image))


def test_texture_is_a_float_tensor_in_unit_range() -> None:
    texture = PlantTexture(name="alocasia", source="drawn", url="")
    target, pixels = load_texture(texture, 64), load_pixels(texture, 64)
    assert target.dtype == torch.float32
    assert target.shape == (3, 64, 64)
    assert 0.0 <= float(target.min()) < float(target.max()) <= 1.0
    assert target.is_contiguous()
    assert np.array_equal((target * 255).round().permute(1, 2, 0).to(torch.uint8).numpy(), pixels)


def test_unknown_plant_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"texture.name=roundleef: .*did you mean 'roundleaf'") as error:
        load_pixels(PlantTexture(name="roundleef", source="drawn", url=""), 64)
    assert_one_line(error)


def test_image_texture_is_read_from_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", checkered())
    monkeypatch.setenv("HOME", str(tmp_path))
    pixels = load_pixels(ImageTexture(name="image", source="file", path="~/a.png"), SIDE)
    assert np.array_equal(pixels, np.asarray(checkered()))


def test_a_part_of_an_image_has_the_hash_of_a_file_that_holds_this_part(tmp_path: Path) -> None:
    whole = Image.effect_noise((90, 60), 60).convert("RGB")
    save(tmp_path / "whole.png", whole)
    save(tmp_path / "part.png", whole.crop((40, 10, 80, 50)))
    paths = [str(tmp_path / f"{name}.png") for name in ("part", "whole")]
    part = ImageTexture("image", "file", paths[0])
    same = ImageTexture("image", "file", paths[1], crop=[40, 10, 40, 40])
    others = [ImageTexture("image", "file", paths[1]), dataclasses.replace(same, scale=1.0)]
    hashes = [texture_hash(load_pixels(each, SIDE)) for each in (part, same, *others)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def gray_scott(
    preset: str = "coral", feed: float | None = None, kill: float | None = None
) -> GrayScottTexture:
    return GrayScottTexture(
        name="gray_scott", source="gray_scott", preset=preset, feed=feed, kill=kill, seed=0
    )


def test_gray_scott_texture_is_simulated_with_its_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nca.textures.gray_scott.N_STEPS", 300)
    preset, other = (load_pixels(gray_scott(feed=feed), 64) for feed in (None, 0.04))
    assert preset.shape == (64, 64, 3)
    assert not np.array_equal(preset, other)
    assert np.array_equal(preset, load_pixels(gray_scott(feed=0.0545, kill=0.062), 64))


def test_a_simulation_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nca.textures.gray_scott.N_STEPS", 301)
    first = load_pixels(gray_scott(), 64)
    expected = first.copy()
    monkeypatch.setattr("nca.textures.gray_scott.simulate_gray_scott", None)
    first[:] = 0
    assert np.array_equal(load_pixels(gray_scott(), 64), expected)


@pytest.mark.parametrize(
    ("texture", "message"),
    [
        (gray_scott(preset="corals"), "texture.preset=corals: .*did you mean 'coral'"),
        (
            gray_scott(feed=0.01, kill=0.1),
            "texture.feed=0.01 texture.kill=0.1: the reaction leaves no pattern",
        ),
    ],
    ids=["preset", "empty"],
)
def test_bad_gray_scott_texture_is_refused(texture: GrayScottTexture, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_pixels(texture, 64)
    assert_one_line(error)


def test_hash_sees_shape_and_every_pixel() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    changed = pixels.copy()
    changed[3, 3, 2] = 1
    hashes = {texture_hash(pixels), texture_hash(changed), texture_hash(pixels.reshape(2, 8, 3))}
    assert len(hashes) == 3
    assert texture_hash(pixels.copy(order="F")) == texture_hash(pixels)
    assert len(texture_hash(pixels)) == 64


def test_import_loads_neither_torch_nor_pillow() -> None:
    code = "import sys, nca.textures.load; print(sorted({'torch', 'PIL', 'pooch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
