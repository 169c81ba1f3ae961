"""HAProxy's file: what Ray writes, completed, and what HAProxy then does with it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from service.ray.ingress import (
    INGRESS_HEADER,
    UnknownConfig,
    complete,
    find_haproxy,
    ingress_token,
)
from tests.process import ROOT, free_port

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="HAProxy is not installed")

SECRET = "a-secret-that-every-node-has-and-nobody-else"
WRITE = """
import asyncio, sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
folder, port, replica, stats, metrics = sys.argv[1], *map(int, sys.argv[2:])
config = HAProxyConfig(
    http_options=HTTPOptions(host="0.0.0.0", port=port), socket_path=f"{folder}/s",
    server_state_base=folder, server_state_file=f"{folder}/state", is_head=True,
    stats_port=stats, metrics_port=metrics, has_received_routes=True, has_received_servers=True,
)
own = [ServerConfig("replica", "127.0.0.1", replica)] if replica else []
last = ServerConfig("python", "127.0.0.1", 1)
backends = {"app": BackendConfig(name="app", path_prefix="/", app_name="app", servers=own,
    fallback_server=last)} if replica else {}
api = HAProxyApi(config, backends, f"{folder}/haproxy.cfg")
api._generate_config_file_internal()
"""


class Replica(BaseHTTPRequestHandler):
    """Replies with its request's headers, and with two request ids, as Ray's replicas do."""

    protocol_version = "HTTP/1.1"
    check_s = 0.0  # how long it takes for an answer to a look at its health

    def do_GET(self):
        if self.path == "/-/healthz":
            time.sleep(self.check_s)
        body = "\n".join(f"{name.lower()}: {value}" for name, value in self.headers.items())
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", "ours")
        self.send_header("X-Request-Id", "rays")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def written(folder: Path, replica: int) -> tuple[Path, int]:
    """Ray's file for one replica, or for none, and the port of its ingress."""
    port = free_port()
    ports = [str(one) for one in (port, replica, free_port(), free_port())]
    looks = {"RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "500ms"}
    command = [sys.executable, "-c", WRITE, str(folder), *ports]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | looks)
    return folder / "haproxy.cfg", port


@contextlib.contextmanager
def ingress(folder: Path, replica: int, **variables: str) -> Iterator[str]:
    """The ingress as Ray starts it; its URL."""
    path, port = written(folder, replica)
    with subprocess.Popen(
        [sys.executable, "-m", "service.ray.ingress", "-db", "-f", str(path)],
        env={
            "PATH": "/usr/bin:/bin",
            "CAROUSEL_SECRET": SECRET,
            "CAROUSEL_HOST": "127.0.0.1",
            **variables,
        },
        cwd=ROOT,
    ) as process:
        try:
            end = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture
def replica(request) -> Iterator[int]:
    busy = type("BusyReplica", (Replica,), {"check_s": getattr(request, "param", 0.0)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), busy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_request_has_the_token_and_nothing_that_ray_would_obey(tmp_path, replica):
    given = {
        "X-Request-Timeout-Seconds": "1",
        "X-Request-Disconnect-Disabled": "?1",
        "X-Forwarded-For": "10.9.9.9",
        "X-Request-Id": "mine",
        INGRESS_HEADER: "forged",
    }
    with ingress(tmp_path, replica) as url:
        reply = httpx2.get(f"{url}/x", headers=given)
    seen = dict(line.split(": ", 1) for line in reply.text.splitlines())
    assert seen[INGRESS_HEADER] == ingress_token(SECRET)
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert not {"x-request-id", "x-request-timeout-seconds"} & set(seen)
    assert "x-request-disconnect-disabled" not in seen
    assert reply.headers.get_list("x-request-id") == ["ours"]


def test_a_head_without_an_end_is_refused(tmp_path, replica):
    with ingress(tmp_path, replica) as url:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(place, 30) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 40_000)
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 400 ")
        with socket.create_connection(place, 30) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 408 ")


def test_a_proxy_before_it_says_who_its_clients_are_where_it_is_trusted(tmp_path, replica):
    for i, (trusted, seen) in enumerate((("", "127.0.0.1"), ("127.0.0.0/8,::1", "10.9.9.9"))):
        folder = tmp_path / str(i)
        folder.mkdir()
        with ingress(folder, replica, CAROUSEL_TRUSTED_PROXIES=trusted) as url:
            reply = httpx2.get(f"{url}/x", headers={"X-Forwarded-For": "10.9.9.9"})
        assert f"x-forwarded-for: {seen}" in reply.text


@pytest.mark.parametrize("replica", [1.0], indirect=True)
def test_a_replica_that_is_busy_for_a_second_stays(tmp_path, replica):
    with ingress(tmp_path, replica) as url:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert httpx2.get(f"{url}/x", timeout=10).status_code == 200
            time.sleep(0.1)


@pytest.mark.parametrize("has_application", [True, False])
def test_without_a_replica_the_reply_is_ours_in_the_shape_of_its_path(tmp_path, has_application):
    with ingress(tmp_path, free_port() if has_application else 0) as url:
        tgi, openai = httpx2.post(f"{url}/generate"), httpx2.post(f"{url}/v1/completions")
    assert (tgi.status_code, openai.status_code) == (503, 503)
    assert tgi.headers["Retry-After"] == openai.headers["Retry-After"] == "1"
    assert tgi.headers["Content-Type"] == "application/json"
    message = "no replica is ready; repeat the request"
    assert tgi.json() == {"error": message, "error_type": "model_not_ready"}
    assert openai.json()["error"] == {
        "message": message,
        "type": "server_error",
        "param": None,
        "code": "model_not_ready",
    }


def test_the_file_opens_no_port_and_no_socket_to_others(tmp_path):
    path, port = written(tmp_path, 30_000)
    text = complete(path.read_text(), "token", "10.0.0.1")
    binds = [line.split()[1] for line in text.splitlines() if line.strip().startswith("bind ")]
    assert f"10.0.0.1:{port}" in binds
    assert [one.startswith("127.0.0.1:") for one in binds] == [True, False, True]
    assert "mode 666" not in text
    assert " backup" not in text
    assert "500.http" not in text


def test_a_file_that_is_complete_stays(tmp_path):
    path, _ = written(tmp_path, 30_000)
    once = complete(path.read_text(), "token", "0.0.0.0")
    assert complete(once, "token", "0.0.0.0") == once


@pytest.mark.parametrize(
    "part", ["mode 666", "errorfile 503", "frontend http_frontend", "status 404", "defaults"]
)
def test_a_file_of_another_version_of_ray_is_refused(tmp_path, part):
    path, _ = written(tmp_path, 30_000)
    text = path.read_text()
    assert part in text
    with pytest.raises(UnknownConfig, match="install the version of Ray that this version"):
        complete(text.replace(part, "other"), "token", "0.0.0.0")
