"""A new server on a free port, started as by `make run`."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

START_LIMIT_S = 180.0


@contextlib.contextmanager
def server(
    store: Path, *, module: str = "service", log: str = "", **settings: str
) -> Iterator[int]:
    """Start a server of a model store, yield its port, and stop it on exit.

    Its log goes to the file `log`, or to standard error.
    """
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}
    environment |= {
        "CAROUSEL_PORT": str(port),
        "CAROUSEL_METRICS_PORT": "0",
        "CAROUSEL_MODEL_STORE": str(store),
        "CAROUSEL_DATA_DIR": str(store / "data"),
        "CAROUSEL_LOG_LEVEL": "warning",
        **settings,
    }
    command = [sys.executable, "-m", module, "serve"]
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(Path(log).open("wb")) if log else None
        stack.enter_context(listening(command, port, "/health/ready", environment, errors))
        yield port


@contextlib.contextmanager
def listening(
    command: Sequence[str],
    port: int,
    ready_path: str,
    environment: Mapping[str, str] | None = None,
    errors: IO[bytes] | None = None,
) -> Iterator[None]:
    """Run a command until the context ends, which begins once a path answers with success."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
    ) as process:
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}{ready_path}")
            yield
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.1)
    raise TimeoutError(f"the server did not become ready: {process.args!r}")
