"""Downloads of photographs from a server on loopback."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nca.cli.errors import ConfigError
from nca.config.schema import PlantTexture
from nca.textures.load import load_pixels
from nca.textures.photo import fetch_photo
from tests.nca.textures.pictures import SIDE, assert_one_line, checkered, save


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
