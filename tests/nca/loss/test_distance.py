"""The texture distance orders damage as a person would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor

from nca.config.schema import ImageTexture, PlantTexture, Texture
from nca.loss.distance import TextureDistance, tiles
from nca.textures.load import load_texture
from tests.builders import generator

SIZE = 64
PLANTS = ("roundleaf", "orchid_petal", "alocasia", "snake_plant")
PHOTOGRAPHS = ("china.jpg", "flower.jpg", "grace_hopper.jpg")  # of scikit-learn and Matplotlib


def blur(image: Tensor, std: float) -> Tensor:
    taps = torch.exp(-((torch.arange(5.0) - 2) ** 2) / (2 * std**2))
    taps /= taps.sum()
    kernel = (taps[:, None] * taps).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image[None], (2,) * 4, mode="circular"), kernel, groups=3)[0]


def shuffle_blocks(image: Tensor, side: int, random: torch.Generator) -> Tensor:
    n = image.shape[1] // side
    blocks = image.unfold(1, side, side).unfold(2, side, side).reshape(3, n * n, side, side)
    shuffled = blocks[:, torch.randperm(n * n, generator=random)].view(3, n, n, side, side)
    return shuffled.permute(0, 1, 3, 2, 4).reshape(image.shape)


def shuffle_pixels(image: Tensor, random: torch.Generator) -> Tensor:
    order = torch.randperm(image[0].numel(), generator=random)
    return image.flatten(1)[:, order].view_as(image)


def recolor(image: Tensor, like: Tensor) -> Tensor:
    """Give every channel the values of another image, in the order of its own."""
    order = image.flatten(1).argsort(dim=1)
    values = like.flatten(1).sort(dim=1).values
    return torch.empty_like(values).scatter_(1, order, values).view_as(image)


def ladder(target: Tensor, other: Tensor) -> dict[str, Tensor]:
    """Return ever worse images of a target by name."""
    random = generator(0)
    noise = 0.6 * target.std() * torch.randn(target.shape, generator=random)
    return {
        "shifted": target.roll((SIZE // 3, SIZE // 5), (1, 2)),
        "slightly blurred": blur(target, 0.45),
        "blocks shuffled": shuffle_blocks(target, 8, random),
        "noise": (target + noise).clamp(0, 1),
        "another texture in its colors": recolor(other, target),
        "pixels shuffled": shuffle_pixels(target, random),
    }


def read(name: str, tmp_path: Path) -> Tensor:
    texture: Texture = PlantTexture(name, "drawn", "")
    if name in PHOTOGRAPHS:
        from PIL import Image

        file = tmp_path / f"{name}.png"
        if name == "grace_hopper.jpg":
            picture = Image.open(Path(mpl.get_data_path()) / "sample_data" / name).convert("RGB")
        else:
            picture = Image.fromarray(load_sample_image(name))
        picture.crop((128, 128, 384, 384)).save(file)
        texture = ImageTexture(name, "file", str(file))
    return load_texture(texture, SIZE)


def measure(target: Tensor, images: Mapping[str, Tensor]) -> dict[str, float]:
    distance = TextureDistance(target)
    return {name: float(distance(image[None])[0]) for name, image in images.items()}


@pytest.mark.parametrize(("name", "other"), [*zip(PLANTS, (*PLANTS[1:], PLANTS[0]), strict=True)])
def test_damage_to_a_drawing_is_ordered(name: str, other: str, tmp_path: Path) -> None:
    target = read(name, tmp_path)
    found = measure(target, ladder(target, read(other, tmp_path)))
    assert list(found) == sorted(found, key=lambda step: found[step]), found
    assert found["shifted"] < 0.1
    assert found["pixels shuffled"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_damage_to_a_photograph_is_ordered(name: str, tmp_path: Path) -> None:
    target = read(name, tmp_path)
    shifted, blurred, blocks, noise, other, pixels = measure(
        target, ladder(target, read("alocasia", tmp_path))
    ).values()
    assert max(shifted, blurred) < min(blocks, noise) < max(blocks, noise) < other < pixels


def test_the_target_itself_is_at_most_0_and_its_crops_are_0_on_average(tmp_path: Path) -> None:
    drawing, photograph = read("roundleaf", tmp_path), read("china.jpg", tmp_path)
    assert tiles(drawing)
    assert not tiles(photograph)
    assert measure(drawing, {"": drawing})[""] == 0.0
    side = 3 * SIZE // 4
    crops = [photograph[:, y : y + side, x : x + side] for y in (0, SIZE - side) for x in (0, SIZE - side)]
    distances = [measure(photograph, {"": crop})[""] for crop in crops]
    assert sum(distances) / 4 == pytest.approx(0.0, abs=1e-5)
    assert measure(photograph, {"": photograph})[""] < 0.0


def test_it_does_not_depend_on_the_batch_or_the_random_state(tmp_path: Path) -> None:
    target, other = read("roundleaf", tmp_path), read("alocasia", tmp_path)
    first = TextureDistance(target)(torch.stack([other, target]))
    torch.rand(7)
    assert torch.equal(first[:1], TextureDistance(target)(other[None]))


def test_a_target_of_a_single_color_has_a_scale_of_its_own() -> None:
    gray = torch.full((3, SIZE, SIZE), 0.5)
    same, black = TextureDistance(gray)(torch.stack([gray, torch.zeros_like(gray)])).tolist()
    assert same == 0.0
    assert 1.0 < black < 2.0
