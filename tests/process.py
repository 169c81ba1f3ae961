"""A server as its users start it: a process of its own on a free port."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.models.compile import own_instructions

START_LIMIT_S = 180.0  # a first start compiles, on two cores that other tests use too
ROOT = Path(__file__).parents[1]
INT8_KERNEL = "own" if own_instructions() else "onnxruntime"  # measured only where a test says so


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    certificate: Path | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path, port: int, **settings: str) -> dict[str, str]:
    """What a user's shell has: none of our settings, and compiled modules are kept."""
    odd = {"PYTHONDONTWRITEBYTECODE"}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_") and k not in odd}
    return clean | {
        "CAROUSEL_PORT": str(port),
        "CAROUSEL_DRAIN_S": "10",
        "CAROUSEL_METRICS_PORT": "0",
        "CAROUSEL_INT8_KERNEL": INT8_KERNEL,
        "CAROUSEL_MODEL_STORE": str(folder / "model_store"),
        "CAROUSEL_IMPORT_DIR": str(folder / "imports"),
        "CAROUSEL_DATA_DIR": str(folder / "data"),
        **settings,
    }


def ended(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command, by default `serve`, that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "service", *(arguments or ("serve",))],
        env=environment(folder, free_port(), **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextlib.contextmanager
def serving(
    folder: Path,
    command: tuple[str, ...] = (),
    certificate: Path | None = None,
    **settings: str,
) -> Iterator[Server]:
    """A server over `folder`'s model_store and imports, ended with the context.

    `command` starts it, where it is not the shell; its own TLS has a `certificate`.
    """
    port, log = int(settings.pop("CAROUSEL_PORT", free_port())), folder / "server.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*command, sys.executable, "-m", "service", "serve"],
            env=environment(folder, port, **settings),
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        server = Server(port, process, log, certificate)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.send_signal(signal.SIGINT)  # no waiting for streams that a test has left
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _wait_until_ready(server: Server) -> None:
    until = time.monotonic() + START_LIMIT_S
    trust = ssl.create_default_context(cafile=server.certificate) if server.certificate else None
    while time.monotonic() < until and server.process.poll() is None:
        with contextlib.suppress(OSError):
            ready = f"{server.url}/health/ready"
            urllib.request.urlopen(ready, timeout=5, context=trust).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not become ready:\n{server.log.read_text()[-2000:]}")
