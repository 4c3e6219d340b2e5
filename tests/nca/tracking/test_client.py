"""MLflow servers are reached past a proxy of the environment, and by a certificate of one's own."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nca.cli.errors import ConfigError
from nca.tracking.client import check_address

DEAD = "http://127.0.0.1:1"
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
TLS = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS")


class _Answers(BaseHTTPRequestHandler):
    """Answers as an MLflow server without experiments does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *TLS, "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # and forget what the test sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.parametrize("known", ["no_proxy", "NO_PROXY", None])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_loopback_is_reached_past_a_proxy(
    known: str | None, host: str, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    if known is not None:
        monkeypatch.setenv(known, "example.org")
    check_address(f"http://{host}:{server.server_port}")


def test_a_proxy_that_does_not_reach_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    with pytest.raises(ConfigError, match=r"the proxy of http_proxy or https_proxy does not reach it; name"):
        check_address("http://mlflow.invalid:5000")


def test_a_server_with_a_certificate_of_ones_own_is_reached_and_refused_with_the_reason(
    server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    uri = f"https://127.0.0.1:{server.server_port}"
    with pytest.raises(ConfigError, match=r"is not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH"):
        check_address(uri)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        check_address(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    with pytest.warns(match="Unverified HTTPS request"):
        check_address(uri)
