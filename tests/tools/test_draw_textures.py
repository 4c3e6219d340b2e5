"""The drawn textures: reproducible, seamless, stationary, colorful."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nca.textures.load import ASSETS
from tools.draw_textures import TEXTURES, draw_texture, main

SIZE = 256


@pytest.fixture(scope="module")
def drawn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "new" / "folder"
    main([str(folder)])
    return folder


@pytest.fixture(params=TEXTURES)
def pixels(request: pytest.FixtureRequest) -> Iterator[NDArray[np.float64]]:
    with Image.open(ASSETS / f"{request.param}.png") as image:
        yield np.asarray(image, dtype=np.float64)


def test_assets_are_the_four_textures() -> None:
    assert sorted(path.stem for path in ASSETS.glob("*.png")) == sorted(TEXTURES)


@pytest.mark.parametrize("name", TEXTURES)
def test_drawing_again_gives_the_committed_bytes(name: str, drawn_folder: Path) -> None:
    drawn, committed = drawn_folder / f"{name}.png", ASSETS / f"{name}.png"
    with Image.open(drawn) as ours, Image.open(committed) as theirs:
        assert theirs.mode == "RGB"
        assert theirs.size == (SIZE, SIZE)
        assert not theirs.info
        assert np.array_equal(np.asarray(ours), np.asarray(theirs)), "the pixels changed"
    assert drawn.read_bytes() == committed.read_bytes(), (
        "the same pixels, packed differently: another Pillow?"
    )


def test_smaller_size_is_the_same_picture_averaged() -> None:
    large, small = draw_texture("snake_plant"), draw_texture("snake_plant", 64)
    assert small.shape == (64, 64, 3)
    averaged = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).max() <= 1.0


def test_drawing_leaves_the_global_random_stream_alone() -> None:
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    draw_texture("snake_plant", 16)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])


@pytest.mark.parametrize("axis", [0, 1])
def test_no_seam_where_the_picture_wraps(pixels: NDArray[np.float64], axis: int) -> None:
    jumps = np.abs(pixels - np.roll(pixels, 1, axis)).mean(axis=(1 - axis, 2))
    # Line 0 holds the jump over the edge.
    assert jumps[0] < jumps[1:].max()
    assert jumps[0] < 1.5 * np.median(jumps[1:])


def test_seam_measure_sees_a_seam(pixels: NDArray[np.float64]) -> None:
    cut = pixels[:, : SIZE * 3 // 5]
    jumps = np.abs(cut - np.roll(cut, 1, 1)).mean(axis=(0, 2))
    assert jumps[0] > 1.5 * np.median(jumps[1:])


def test_four_quadrants_look_alike(pixels: NDArray[np.float64]) -> None:
    quadrants = pixels.reshape(2, SIZE // 2, 2, SIZE // 2, 3)
    means, spreads = quadrants.mean(axis=(1, 3)).reshape(4, 3), quadrants.std(axis=(1, 3)).reshape(4, 3)
    overall = pixels.std(axis=(0, 1))
    assert (np.ptp(means, axis=0) < 0.35 * overall).all()
    assert (np.ptp(spreads, axis=0) < 0.35 * overall).all()


def test_colors_are_rich(pixels: NDArray[np.float64]) -> None:
    assert pixels.std(axis=(0, 1)).min() > 20.0
    coarse = np.unique((pixels // 32).reshape(-1, 3), axis=0)
    assert len(coarse) > 30
    # Not one hue in lighter and darker: colors leave the line through their main direction.
    singular = np.linalg.svd((pixels - pixels.mean(axis=(0, 1))).reshape(-1, 3), compute_uv=False)
    assert singular[1] > 0.05 * singular[0]


def test_features_survive_shrinking_to_64_px(pixels: NDArray[np.float64]) -> None:
    image = Image.fromarray(pixels.astype(np.uint8)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.asarray(image, dtype=np.float64).std(axis=(0, 1)).min() > 0.6 * pixels.std(axis=(0, 1)).min()


def test_textures_differ_from_each_other() -> None:
    means = []
    for name in TEXTURES:
        with Image.open(ASSETS / f"{name}.png") as image:
            pixels = np.asarray(image, dtype=np.float64)
        means.append(np.concatenate([pixels.mean(axis=(0, 1)), pixels.std(axis=(0, 1))]))
    for index, ours in enumerate(means):
        assert all(np.abs(ours - other).max() > 15.0 for other in means[index + 1 :])


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of roundleaf.*got 'rose'"):
        draw_texture("rose")


@pytest.mark.parametrize("size", [0, -4, 100])
def test_size_that_does_not_divide_the_canvas_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be a divisor of 512, got {size}"):
        draw_texture("roundleaf", size)


@pytest.mark.parametrize("arguments", [["a", "b"], ["--help"]])
def test_wrong_arguments_end_in_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    assert ending.value.code == 2
    assert capsys.readouterr().err == "error: python -m tools.draw_textures [FOLDER]\n"


def test_folder_that_cannot_be_written_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ending:
        main([str(tmp_path / "file")])
    assert ending.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: [Errno 17] File exists: '{tmp_path / 'file'}'")
