"""Target images: every file mode and every error with real files, and downloads from a server on loopback."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nca.config.schema import GrayScottTexture, ImageTexture, PlantTexture
from nca.config.validation import ConfigError
from nca.textures import load as textures
from nca.textures.load import fetch_photo, load_pixels, load_texture, read_image, texture_hash
from tools.draw_textures import TEXTURES

SIDE = 32
RAMP = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def checkered() -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:, : SIDE // 2] = (200, 20, 10)
    pixels[:, SIDE // 2 :] = (10, 30, 210)
    return Image.fromarray(pixels)


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


def assert_one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


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
    with pytest.raises(ConfigError, match="cannot be read: Not a directory") as error:
        read_image(tmp_path / "a.png" / "b.png", SIDE)
    assert_one_line(error)


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


@pytest.mark.parametrize("name", TEXTURES)
def test_drawn_texture_is_the_asset(name: str) -> None:
    pixels = load_pixels(PlantTexture(name=name, source="drawn", url=""), 256)
    with Image.open(textures.ASSETS / f"{name}.png") as image:
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


@pytest.mark.parametrize(
    ("texture", "message"),
    [
        (gray_scott(preset="corals"), "texture.preset=corals: .*did you mean 'coral'"),
        (gray_scott(feed=1.5), r"texture=gray_scott: feed must be in \[0, 1\], got 1.5"),
        (
            gray_scott(feed=0.01, kill=0.1),
            "texture.feed=0.01 texture.kill=0.1: the reaction leaves no pattern",
        ),
    ],
    ids=["preset", "range", "empty"],
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


class PhotoServer(http.server.ThreadingHTTPServer):
    """Serves one JPEG in many ways and counts requests."""

    n_requests = 0
    photo = b""


class PhotoHandler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: /photo, /short (cut off), /page (no image), anything else 404."""

    server: PhotoServer

    def do_GET(self) -> None:
        self.server.n_requests += 1
        body = {"/photo": self.server.photo, "/short": self.server.photo, "/page": b"<html>log in</html>"}
        content = body.get(self.path.split("?")[0])
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: 50 if self.path == "/short" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[PhotoServer]:
    content = io.BytesIO()
    checkered().save(content, "JPEG")
    with PhotoServer(("127.0.0.1", 0), PhotoHandler) as running:
        running.photo = content.getvalue()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCA_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"


def url_of(server: PhotoServer, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def test_photo_is_downloaded_once_and_pinned(
    server: PhotoServer, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texture = PlantTexture(name="roundleaf", source="photo", url=url_of(server, "/photo"))
    first = load_pixels(texture, SIDE)
    second = load_pixels(texture, SIDE)
    assert server.n_requests == 1
    assert np.array_equal(first, second)
    path = fetch_photo(texture.name, texture.url)
    assert path.read_bytes() == server.photo
    assert path.with_suffix(".sha256").read_text().strip() == hashlib.sha256(server.photo).hexdigest()
    assert sorted(item.name for item in cache.iterdir()) == sorted([path.name, f"{path.stem}.sha256"])
    assert capfd.readouterr() == ("", "")


def test_another_url_is_another_photo(server: PhotoServer, cache: Path) -> None:
    paths = {fetch_photo("roundleaf", url_of(server, path)) for path in ("/photo", "/photo?size=large")}
    assert len(paths) == 2
    assert server.n_requests == 2


def test_changed_photo_in_the_cache_is_refused_and_comes_back(server: PhotoServer, cache: Path) -> None:
    path = fetch_photo("roundleaf", url_of(server, "/photo"))
    save(path, Image.new("RGB", (SIDE, SIDE)), format="PNG")
    with pytest.raises(ConfigError, match="has changed since its download: delete it") as error:
        fetch_photo("roundleaf", url_of(server, "/photo"))
    assert str(path) in assert_one_line(error)
    path.unlink()
    assert fetch_photo("roundleaf", url_of(server, "/photo")).read_bytes() == server.photo


@pytest.mark.parametrize(
    ("path", "message"),
    [("/gone", "HTTP 404"), ("/short", "could not be downloaded"), ("/page", "did not give a photograph")],
)
def test_failed_download_leaves_nothing(server: PhotoServer, cache: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        fetch_photo("roundleaf", url_of(server, path))
    assert "texture.source=drawn" in assert_one_line(error)
    assert list(cache.iterdir()) == []


def test_server_gone_is_one_line(server: PhotoServer, cache: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), PhotoHandler) as closed:
        port = closed.server_port
    with pytest.raises(ConfigError, match=r"could not be downloaded \(ConnectionError\)") as error:
        fetch_photo("roundleaf", f"http://127.0.0.1:{port}/photo")
    assert "texture.source=drawn" in assert_one_line(error)


def test_photo_in_the_cache_needs_no_server(server: PhotoServer, cache: Path) -> None:
    url = url_of(server, "/photo")
    path = fetch_photo("roundleaf", url)
    server.shutdown()
    server.server_close()
    assert fetch_photo("roundleaf", url) == path


@pytest.mark.parametrize("url", ["", "photo.jpg", "ftp://127.0.0.1/photo.jpg", "http://[", "http://"])
def test_bad_url_is_refused(url: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"texture\.source=drawn uses the drawn stand-in") as error:
        fetch_photo("roundleaf", url)
    assert_one_line(error)


def test_cache_that_cannot_be_made_is_refused(server: PhotoServer, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(ConfigError, match=r"could not be downloaded \(File exists\)") as error:
        fetch_photo("roundleaf", url_of(server, "/photo"))
    assert_one_line(error)
    assert server.n_requests == 0


@pytest.mark.parametrize("arguments", [[], ["paint"], ["draw", "a", "b"], ["draw", "--size", "3"]])
def test_wrong_arguments_end_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        textures.main(arguments)
    assert ending.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folder_that_cannot_be_written_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ending:
        textures.main(["draw", str(tmp_path / "file")])
    assert ending.value.code == 2
    assert (
        capsys.readouterr().err
        == f"python -m nca.textures.load: cannot write to {tmp_path / 'file'}: File exists\n"
    )


def test_help_loads_neither_torch_nor_pillow() -> None:
    code = (
        "import sys, nca.textures.load as t\n"
        "try: t.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'PIL', 'pooch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("[]\n")
