"""TLS with a certificate of one's own, and what its clients may do."""

import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from carousel_client import Client, Unreachable
from service.errors import BadRequest
from service.tls import server_context
from tests.api.conftest import new_home
from tests.attack.edge import PATIENCE_S, is_closed, wait_until
from tests.certificates import new_certificate
from tests.cli.commands import carousel
from tests.process import ended, serving


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    return new_certificate(tmp_path_factory.mktemp("tls"))


def test_requests_and_streams_over_tls_and_nothing_without(tmp_path, pair):
    certificate, key = pair
    given = {"CAROUSEL_TLS_CERT": str(certificate), "CAROUSEL_TLS_KEY": str(key)}
    with serving(new_home(tmp_path), certificate=certificate, **given) as server:
        trust = ssl.create_default_context(cafile=certificate)
        body = {"inputs": "The ", "parameters": {"max_new_tokens": 9}}
        with httpx2.Client(base_url=server.url, verify=trust, timeout=60) as http:
            assert len(http.post("/generate", json=body).json()["generated_text"]) == 9
            with http.stream("POST", "/generate_stream", json=body) as stream:
                assert sum(line.startswith("data:") for line in stream.iter_lines()) == 9
        wait_until(lambda: f"Carousel is ready at {server.url}" in server.log.read_text())
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" not in plain.recv(65_536)


def test_a_handshake_that_never_ends_is_cut_off(tmp_path, pair):
    certificate, key = pair
    given = {"CAROUSEL_TLS_CERT": str(certificate), "CAROUSEL_TLS_KEY": str(key)}
    with (
        serving(new_home(tmp_path), certificate=certificate, **given) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as silent,
    ):
        assert is_closed(silent)


def certificate_of(port: int) -> str:
    """The certificate that a new connection gets."""
    return ssl.get_server_certificate(("127.0.0.1", port))


def test_a_renewed_certificate_is_read_by_a_running_server(tmp_path):
    """Half of a renewal changes nothing."""
    certificate, key = new_certificate(tmp_path)
    given = {"CAROUSEL_TLS_CERT": str(certificate), "CAROUSEL_TLS_KEY": str(key)}
    with serving(new_home(tmp_path / "home"), certificate=certificate, **given) as server:
        first, old_key = certificate_of(server.port), key.read_bytes()
        new_certificate(tmp_path)
        new_key = key.read_bytes()
        key.write_bytes(old_key)
        wait_for(lambda: "the one before is still used" in server.log.read_text())
        assert certificate_of(server.port) == first
        key.write_bytes(new_key)
        wait_for(lambda: certificate_of(server.port) != first)
        assert certificate_of(server.port).split() == certificate.read_text().split()


def wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_certificate_that_nobody_trusts_is_said_with_what_to_do(tmp_path, pair):
    certificate, key = pair
    given = {"CAROUSEL_TLS_CERT": str(certificate), "CAROUSEL_TLS_KEY": str(key)}
    with serving(new_home(tmp_path), certificate=certificate, **given) as server:
        began_s = time.monotonic()
        with (
            Client(server.url, timeout_s=600) as client,
            pytest.raises(Unreachable, match="SSL_CERT_FILE"),
        ):
            client.generate("The ")
        assert time.monotonic() - began_s < 300  # it was not tried again until the timeout
        usage = carousel("usage", "--url", server.url, folder=tmp_path)
        assert (usage.returncode, usage.stdout) == (2, "")
        assert "is not trusted (self-signed certificate); if it is your own" in usage.stderr
        trusted = {"SSL_CERT_FILE": str(certificate)}
        usage = ended(tmp_path, "usage", "--url", server.url, **trusted)
        assert usage.returncode == 0, usage


def test_a_certificate_that_cannot_be_used_stops_the_start(tmp_path, pair):
    certificate, key = pair
    done = ended(tmp_path, CAROUSEL_TLS_CERT=str(tmp_path / "none.pem"))
    assert done.returncode == 2
    assert "CAROUSEL_TLS_CERT" in done.stderr
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr
    locked = tmp_path / "locked.pem"
    words = f"openssl pkcs8 -topk8 -passout pass:secret -in {key} -out {locked}"
    subprocess.run(words.split(), check=True, capture_output=True)
    with pytest.raises(BadRequest, match="the key is encrypted"):
        server_context(certificate, locked)
    with pytest.raises(BadRequest, match="CAROUSEL_TLS_KEY"):
        server_context(certificate, None)
    with pytest.raises(BadRequest, match="set both"):
        server_context(None, key)
    assert server_context(None, None) is None
    context = server_context(certificate, key)
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
