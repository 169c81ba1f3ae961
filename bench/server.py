"""A new server on a free port, started as by `make run`."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_LIMIT_S = 60.0


@contextlib.contextmanager
def server(store: Path, *, module: str = "service", **settings: str) -> Iterator[int]:
    """Start a server of a model store, yield its port, and stop it on exit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
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
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(port)
            yield port
        finally:
            process.terminate()


def _wait_until_ready(port: int) -> None:
    until = time.monotonic() + START_LIMIT_S
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
            return
        if time.monotonic() > until:
            raise TimeoutError("the server did not become ready")
        time.sleep(0.1)
