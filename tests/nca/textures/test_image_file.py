"""Every file mode and every error, with real files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nca.cli.errors import ConfigError
from nca.textures.image_file import read_image, view_image
from tests.nca.textures.pictures import SIDE, assert_one_line, checkered, save

RAMP = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))


def write_png_16bit(path: Path, samples: np.ndarray[Any, np.dtype[np.uint16]]) -> Path:
    """Write a 16-bit RGB PNG, which Pillow reads but does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_lossless_rgb_comes_through_unchanged(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", checkered(), **options)
    assert np.array_equal(read_image(path, SIDE), np.asarray(checkered()))


def test_jpeg_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", checkered(), quality=95, subsampling=0)
    assert np.abs(read_image(path, SIDE).astype(int) - np.asarray(checkered())).max() < 12


def test_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", checkered().convert("CMYK"), quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(read_image(path, SIDE)[:, 2].astype(int) - (200, 20, 10)).max() < 20


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(RAMP)), SIDE)
    assert np.array_equal(pixels, np.repeat(RAMP[..., None], 3, axis=2))


def test_black_and_white_is_read(tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(RAMP).convert("1")), SIDE)
    assert set(np.unique(pixels)) == {0, 255}


def test_palette_is_read(tmp_path: Path) -> None:
    pixels = read_image(save(tmp_path / "a.png", checkered().quantize(8)), SIDE)
    assert np.abs(pixels.astype(int) - np.asarray(checkered())).max() < 12


@pytest.mark.parametrize("transparency", [0, bytes([0])], ids=["index", "bytes"])
def test_transparent_palette_entry_is_white(tmp_path: Path, transparency: int | bytes) -> None:
    palette = Image.fromarray((np.arange(SIDE * SIDE) % 2).reshape(SIDE, SIDE).astype(np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 128, 0])
    pixels = read_image(save(tmp_path / "a.png", palette, transparency=transparency), SIDE)
    assert {tuple(color) for color in pixels.reshape(-1, 3).tolist()} == {(255, 255, 255), (0, 128, 0)}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    image = checkered().convert(mode)
    image.putalpha(128)
    pixels = read_image(save(tmp_path / "a.png", image), SIDE)
    color = np.asarray(image)[0, 0, :-1].astype(float)
    assert np.abs(pixels[0, 0] - (color * 128 + 255 * 127) / 255).max() <= 1.0


def test_fully_transparent_is_white_whatever_its_color(tmp_path: Path) -> None:
    image = checkered().convert("RGBA")
    image.putalpha(0)
    assert (read_image(save(tmp_path / "a.png", image), SIDE) == 255).all()


def test_transparent_color_of_an_rgb_png_is_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", checkered(), transparency=(200, 20, 10))
    assert (read_image(path, SIDE)[:, : SIDE // 2] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_gray_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(RAMP.astype(np.uint16) * 257))
    assert np.array_equal(read_image(path, SIDE)[..., 0], RAMP)


def test_dark_16_bit_gray_stays_dark(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RAMP.astype(np.uint16) * 64))
    assert read_image(path, SIDE).max() == 64


def test_16_bit_rgb_png_is_read(tmp_path: Path) -> None:
    samples = np.asarray(checkered()).astype(np.uint16) * 257
    path = write_png_16bit(tmp_path / "a.png", samples)
    assert np.abs(read_image(path, SIDE).astype(int) - np.asarray(checkered())).max() <= 1


@pytest.mark.parametrize("white", [65535, 2**31 - 1])
def test_32_bit_whole_numbers_are_scaled(tmp_path: Path, white: int) -> None:
    values = (RAMP.astype(np.float64) / 255 * white).astype(np.int32)
    pixels = read_image(save(tmp_path / "a.tiff", Image.fromarray(values)), SIDE)
    assert np.abs(pixels[..., 1].astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e6])
def test_real_numbers_are_scaled(tmp_path: Path, white: float) -> None:
    values = (RAMP.astype(np.float64) / 255 * white).astype(np.float32)
    pixels = read_image(save(tmp_path / "a.tiff", Image.fromarray(values)), SIDE)
    assert np.abs(pixels[..., 2].astype(int) - RAMP).max() <= 1


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = np.full((SIDE, SIDE), np.nan, dtype=np.float32)
    path = save(tmp_path / "a.tiff", Image.fromarray(values))
    with pytest.raises(ConfigError, match="not finite") as error:
        read_image(path, SIDE)
    assert str(path) in assert_one_line(error)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the left half comes to the top
    path = save(tmp_path / "a.jpg", checkered(), exif=exif, quality=95, subsampling=0)
    pixels = read_image(path, SIDE).astype(int)
    assert np.abs(pixels[4, :] - (200, 20, 10)).max() < 12
    assert np.abs(pixels[-4, :] - (10, 30, 210)).max() < 12


def test_center_square_is_cropped(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, 30:70] = 255
    assert (read_image(save(tmp_path / "a.png", Image.fromarray(pixels)), 20) == 255).all()


def test_first_of_several_frames_is_read(tmp_path: Path) -> None:
    other = Image.new("RGB", (SIDE, SIDE), "white")
    path = save(tmp_path / "a.tiff", checkered(), save_all=True, append_images=[other])
    assert np.array_equal(read_image(path, SIDE), np.asarray(checkered()))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.png does not exist") as error:
        read_image(tmp_path / "no.png", SIDE)
    assert_one_line(error)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder") as error:
        read_image(tmp_path, SIDE)
    assert_one_line(error)


def test_file_below_a_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", checkered())
    with pytest.raises(ConfigError, match=r"b\.png does not exist") as error:
        read_image(tmp_path / "a.png" / "b.png", SIDE)
    assert_one_line(error)


def test_name_that_the_file_system_refuses_is_one_line() -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long") as error:
        read_image("a" * 300 + ".png", SIDE)
    assert "\n" not in str(error.value)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ConfigError, match="is empty") as error:
        read_image(tmp_path / "a.png", SIDE)
    assert_one_line(error)


def test_text_is_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello, this is no image\n" * 40)
    with pytest.raises(ConfigError, match="not an image that Pillow can read") as error:
        read_image(tmp_path / "a.png", SIDE)
    assert_one_line(error)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_cut_off_file_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"damaged or cut off|not an image") as error:
        read_image(path, SIDE)
    assert str(path) in assert_one_line(error)


def test_damaged_pixels_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RAMP), compress_level=0)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged or cut off") as error:
        read_image(path, SIDE)
    assert_one_line(error)


@pytest.mark.parametrize("size", [(1, 1), (15, 200), (200, 15)])
def test_tiny_image_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", size))
    with pytest.raises(ConfigError, match=f"is {size[0]} x {size[1]} px: .* at least 16 px") as error:
        read_image(path, SIDE)
    assert_one_line(error)


@pytest.mark.parametrize("times", [1.5, 3.0], ids=["Pillow's warning", "Pillow's error"])
def test_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    path = save(tmp_path / "a.png", checkered())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(SIDE * SIDE / times))
    with pytest.raises(ConfigError, match="is too large: at most") as error:
        read_image(path, SIDE)
    assert_one_line(error)


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", checkered())
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser reads everything

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied") as error:
        read_image(path, SIDE)
    assert_one_line(error)


Image.init()


@pytest.mark.parametrize("kind", sorted(Image.SAVE))
def test_whatever_pillow_writes_is_read_or_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "YCbCr", "LAB", "HSV"):
        file = tmp_path / mode
        try:
            Image.new(mode, (32, 32)).save(file, kind)
        except Exception:
            continue  # it has no such mode
        refusal = f"{file} "
        try:
            shape = read_image(file, 16).shape
        except ConfigError as error:
            refusal, shape = str(error), (16, 16, 3)
        assert shape == (16, 16, 3)
        assert refusal.startswith(f"{file} ")
        assert "\n" not in refusal


def many_colored(width: int, height: int) -> Image.Image:
    """Return a picture in which every pixel has a color of its own."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([column, row, column ^ row], axis=-1).astype(np.uint8))


def test_a_crop_is_taken_pixel_by_pixel(tmp_path: Path) -> None:
    image = many_colored(60, 40)
    path = save(tmp_path / "a.png", image)
    pixels = view_image(path, 16, [30, 7, 16, 16]).resample()
    assert np.array_equal(pixels, np.asarray(image)[7:23, 30:46])
    view = view_image(path, 16, [20, 4, 40, 36])  # its middle
    assert (view.box, view.source.size) == ((22, 4, 58, 40), (60, 40))


def test_a_crop_counts_pixels_as_viewers_show_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right by a quarter
    image = many_colored(60, 40)
    path = save(tmp_path / "a.png", image, exif=exif)
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert turned.shape[:2] == (60, 40)
    assert np.array_equal(view_image(path, 16, [3, 40, 16, 16]).resample(), turned[40:56, 3:19])
    with pytest.raises(ConfigError, match=r"\[30,7,16,16\]: reaches out of .*a\.png, which is 40 x 60 px"):
        view_image(path, 16, [30, 7, 16, 16])


def test_the_scale_determines_how_much_is_shown(tmp_path: Path) -> None:
    image = many_colored(200, 100)
    path = save(tmp_path / "a.png", image)
    assert view_image(path, 32, scale=0.5).box == (68, 18, 132, 82)
    assert view_image(path, 32, scale=1).box == (84, 34, 116, 66)
    assert view_image(path, 32, [0, 0, 80, 100], 0.5).box == (8, 18, 72, 82)
    assert np.array_equal(view_image(path, 32, scale=1).resample(), np.asarray(image)[34:66, 84:116])
    assert view_image(path, 64, scale=1).side == 2 * view_image(path, 32, scale=1).side


def test_without_crop_and_scale_the_largest_centered_square_is_shown(tmp_path: Path) -> None:
    image = many_colored(61, 40)
    path = save(tmp_path / "a.png", image)
    square = image.crop((10, 0, 50, 40)).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(read_image(path, 16), np.asarray(square))
    assert np.array_equal(view_image(path, 16, [0, 0, 61, 40]).resample(), np.asarray(square))
    assert np.array_equal(view_image(path, 16, scale=16 / 40).resample(), np.asarray(square))


@pytest.mark.parametrize(
    ("crop", "scale", "message"),
    [
        (
            [45, 0, 16, 16],
            None,
            r"^texture\.crop=\[45,0,16,16\]: reaches out of .*, which is 60 x 40 px; must",
        ),
        ([0, 25, 16, 16], None, r"^texture\.crop=\[0,25,16,16\]: reaches out of"),
        (
            None,
            0.3,
            r"^texture\.scale=0\.3: a target of 16 px would show 53 px of .* 40 px; must be 0\.4 to 1,",
        ),
        (
            [0, 0, 20, 40],
            0.5,
            r"^texture\.scale=0\.5: .* show 32 px .* of 20 px; must be 0\.8 to 1, or null$",
        ),
        (None, 2.0, r"^texture\.scale=2: a target of 16 px would show 8 px of"),
    ],
)
def test_a_square_that_the_image_does_not_have_is_one_line(
    crop: list[int] | None, scale: float | None, message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.png", many_colored(60, 40))
    with pytest.raises(ConfigError, match=message) as error:
        view_image(path, 16, crop, scale)
    assert_one_line(error)
