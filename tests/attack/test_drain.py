"""SIGTERM with work of every kind: the exit code, the time, and what each client is told."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.api.conftest import new_home
from tests.process import ROOT, Server, environment, serving

LONG = {"inputs": "The ", "parameters": {"max_new_tokens": 1_000_000, "temperature": 1.0}}
SLACK_S = 20.0
"""Room for a loaded machine: without a drain that ends, these tests wait for much longer."""


class Client(threading.Thread):
    """A request in a thread of its own, with what came of it."""

    def __init__(self, server: Server, path: str, **options: Any) -> None:
        super().__init__(daemon=True)
        self.url, self.options = server.url + path, options
        self.status, self.body = 0, ""
        self.headers: Any = {}
        self.has_begun = threading.Event()
        self.start()

    def run(self) -> None:
        method = self.options.pop("method", "POST")
        with (
            contextlib.suppress(httpx2.HTTPError),
            httpx2.stream(method, self.url, timeout=120, **self.options) as reply,
        ):
            self.status, self.headers = reply.status_code, reply.headers
            for piece in reply.iter_text():
                self.body += piece
                self.has_begun.set()
        self.has_begun.set()

    @property
    def told(self) -> str:
        """The error of the reply, or of the stream's last event."""
        last = self.body.strip().split("\n")[-1].removeprefix("data:").strip()
        with contextlib.suppress(ValueError, AttributeError):
            return str(json.loads(last).get("error_type"))
        return last


def streams(server: Server, n: int) -> list[Client]:
    clients = [Client(server, "/generate_stream", json=LONG) for _ in range(n)]
    for client in clients:
        assert client.has_begun.wait(60)
    return clients


@contextlib.contextmanager
def slow_upload(server: Server) -> Iterator[socket.socket]:
    """A corpus of which the first bytes have arrived."""
    head = "POST /corpora?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as upload:
        upload.sendall(head.encode() + b"Content-Length: 100000\r\n\r\n" + b"some text\n" * 10)
        yield upload


def ended(server: Server, limit_s: float) -> float:
    began = time.monotonic()
    server.process.wait(limit_s + SLACK_S)
    return time.monotonic() - began


@contextlib.contextmanager
def a_server(tmp_path: Path, drain_s: str = "3", **settings: str) -> Iterator[Server]:
    home = new_home(tmp_path)
    with serving(home, CAROUSEL_DRAIN_S=drain_s, **settings) as server:
        yield server


def left_behind(children: list[psutil.Process]) -> list[str]:
    psutil.wait_procs(children, 10)
    return [
        " ".join(one.cmdline()) for one in children if one.is_running() and one.status() != "zombie"
    ]


def test_every_client_is_told_and_the_exit_code_is_0(tmp_path):
    with a_server(tmp_path, CAROUSEL_WORKERS="1") as server, slow_upload(server) as upload:
        job = _long_job(server)
        events = Client(server, f"/train-jobs/{job}/events", method="GET")
        assert events.has_begun.wait(60)
        clients = streams(server, 64)
        whole = Client(server, "/generate", json=LONG)
        until_running(server, 67)
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        took_s = ended(server, 3)
        assert server.process.returncode == 0, server.log.read_text()[-2000:]
        assert took_s >= 2, "it has waited"
        for client in (*clients, whole, events):
            client.join(10)
        assert {client.told for client in clients} == {"draining"}
        assert (whole.status, whole.told) == (503, "draining")
        assert events.told == "draining"
        reply = upload.recv(65_536).decode()
        assert reply.startswith("HTTP/1.1 503")
        assert "draining" in reply
        assert left_behind(children) == []
        assert "Traceback" not in server.log.read_text()


def _long_job(server: Server) -> str:
    """A job that trains, for much longer than a drain."""
    text = (ROOT / "CONTRIBUTING.md").read_bytes() * 20
    headers = {"Content-Type": "text/plain"}
    corpus = httpx2.post(f"{server.url}/corpora?name=a", content=text, headers=headers, timeout=60)
    body = {
        "name": "long",
        "corpus": corpus.json()["id"],
        "architecture": {"units": 32, "embedding_dim": 8},
        "training": {"epochs": 10_000},
    }
    job = httpx2.post(f"{server.url}/train-jobs", json=body, timeout=60)
    assert job.status_code == 202, job.text
    path = f"{server.url}/train-jobs/{job.json()['id']}"
    until = time.monotonic() + 90
    while httpx2.get(path, timeout=30).json()["status"] != "running":
        assert time.monotonic() < until
        time.sleep(0.2)
    return str(job.json()["id"])


def until_running(server: Server, n: int) -> None:
    until = time.monotonic() + 60
    while httpx2.get(f"{server.url}/admin/drain", timeout=30).json()["running"] < n:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_import_that_runs_is_ended_and_leaves_nothing(tmp_path):
    with a_server(tmp_path, drain_s="1") as server:
        importing = Client(server, "/admin/models/upload", **_large_upload())
        until = time.monotonic() + 60
        while not (children := _sandboxes(server)):
            assert time.monotonic() < until, importing.body
            time.sleep(0.002)
        for child in children:
            child.suspend()  # it takes much longer than the drain
        server.process.send_signal(signal.SIGTERM)
        ended(server, 1)
        importing.join(10)
        assert (importing.status, importing.told) == (503, "draining")
        assert server.process.returncode == 0, server.log.read_text()[-2000:]
        assert left_behind(children) == []
        for folder in ("imports", "model_store"):
            names = [path.name for path in (tmp_path / folder).iterdir()]
            assert not [name for name in names if name.startswith(".")], names


def _large_upload() -> dict[str, Any]:
    return {
        "files": {"source": ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(1_000_000))},
        "data": {"name": "slow"},
    }


def _sandboxes(server: Server) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "service.sandbox" in child.cmdline():
                found.append(child)
    return found


def test_a_stop_waits_for_requests_that_end_in_time(tmp_path):
    with a_server(tmp_path, drain_s="60") as server, slow_upload(server) as upload:
        stream = streams(server, 1)[0]
        server.process.send_signal(signal.SIGTERM)
        until_draining(server)
        refused = httpx2.post(f"{server.url}/generate", json=LONG)
        assert (refused.status_code, refused.json()["error_type"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert "retry-after" in refused.headers
        upload.sendall(b"x" * (100_000 - 100))
        assert upload.recv(4096).startswith(b"HTTP/1.1 201")
        assert stream.is_alive()
        server.process.send_signal(signal.SIGTERM)  # for the stream that would take too long
        took_s = ended(server, 3)
        stream.join(10)
        assert stream.told == "draining"
        assert took_s < 30
        assert server.process.returncode == 0


def until_draining(server: Server, phase: str = "draining") -> None:
    until = time.monotonic() + 30
    while httpx2.get(f"{server.url}/admin/drain").json()["phase"] != phase:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once_and_the_client_is_told(tmp_path, second):
    with a_server(tmp_path, drain_s="300", CAROUSEL_LAME_DUCK_S="300") as server:
        stream = streams(server, 1)[0]
        server.process.send_signal(signal.SIGTERM)
        until_draining(server, "lame_duck")
        server.process.send_signal(second)
        ended(server, 0)
        stream.join(10)
        assert stream.told == "draining"
        assert server.process.returncode == 0


def test_a_lame_duck_is_not_ready_and_still_accepts(tmp_path):
    with a_server(tmp_path, CAROUSEL_LAME_DUCK_S="300") as server:
        assert httpx2.get(f"{server.url}/health/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        until_draining(server, "lame_duck")
        assert httpx2.get(f"{server.url}/health/ready").status_code == 503
        assert httpx2.get(f"{server.url}/health/live").status_code == 200
        short = {"inputs": "The ", "parameters": {"max_new_tokens": 5}}
        assert httpx2.post(f"{server.url}/generate", json=short).status_code == 200


def test_a_hangup_is_not_the_end(tmp_path):
    with a_server(tmp_path, CAROUSEL_WORKERS="1") as server:
        stream = streams(server, 1)[0]
        for process in (server.process.pid, *_pids_of_workers(server)):
            psutil.Process(process).send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert server.process.poll() is None
        assert stream.is_alive()
        assert "worker has ended" not in server.log.read_text()


def _pids_of_workers(server: Server) -> list[int]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        children = psutil.Process(server.process.pid).children()
        found = [child.pid for child in children if "worker" in child.cmdline()]
        if found:
            time.sleep(5)  # until it has set its handlers
            return found
        time.sleep(0.1)
    raise AssertionError("no worker has started")


def test_the_drain_command_waits_and_the_server_stays(tmp_path):
    with a_server(tmp_path) as server, slow_upload(server) as upload:
        until_running(server, 1)
        command = [sys.executable, "-m", "service", "drain", "--url", server.url, "--wait"]
        env = environment(tmp_path, server.port)
        early = subprocess.run(
            [*command, "--timeout-s", "0.5"], env=env, cwd=ROOT, capture_output=True, check=False
        )
        assert early.returncode == 1
        assert b"1 requests still run" in early.stdout
        upload.sendall(b"x" * (100_000 - 100))
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert httpx2.post(f"{server.url}/generate", json=LONG).status_code == 503
        assert httpx2.get(f"{server.url}/health/ready").status_code == 503
        assert server.process.poll() is None


def test_what_a_killed_server_left_is_gone_after_the_next_start(tmp_path):
    home = new_home(tmp_path)
    left = [
        home / "imports" / ".upload-1",
        *(home / "model_store" / f".{n}-1" for n in ("importing", "incoming")),
    ]
    for folder in left:
        folder.mkdir()
        (folder / "weights").write_bytes(b"x")
    in_use = home / "model_store" / ".importing-2"
    in_use.mkdir()
    lock = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(1)"
    holder = [sys.executable, "-c", f"{lock}; sys.stdout.flush(); input()", str(in_use)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with serving(home):
            assert not [folder for folder in left if folder.exists()]
            assert in_use.exists(), "another server imports"
        process.kill()
