"""`make bench`: the article's loop as 1.0, then the engine, then the whole way through HTTP."""

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import draw, insert, table
from bench.seed_model import write_seed_model
from service.models.bundle import Precision

STREAMS = (1, 16, 64)
RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
START_LIMIT_S = 60.0


def _figure(module: str, *arguments: str) -> Any:
    """What a module of this package prints, each in a process of its own."""
    command = [sys.executable, "-m", f"bench.{module}", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@contextlib.contextmanager
def _server(store: Path) -> Iterator[int]:
    """A server of its own on a free port, as `make run` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}
    environment |= {
        "CAROUSEL_PORT": str(port),
        "CAROUSEL_MODEL_STORE": str(store),
        "CAROUSEL_DATA_DIR": str(store / "data"),
        "CAROUSEL_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "service", "serve"]
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


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    vnni = " with VNNI" if any("vnni" in line for line in lines) else " without VNNI"
    return next(names, platform.machine()) + vnni


def main() -> None:
    """Measure; print the table and put it into the README; write JSON and plot."""
    baseline = [_figure("baseline")]
    in_process = {
        precision: {n: _figure("decode", precision, str(n)) for n in STREAMS}
        for precision in Precision
    }
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        refs = {precision: write_seed_model(store, precision) for precision in Precision}
        with _server(store) as port:
            http = {
                precision: {n: _figure("load", str(port), str(ref), str(n)) for n in STREAMS}
                for precision, ref in refs.items()
            }
    baseline.append(_figure("baseline"))
    result = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "baseline_characters_per_s": baseline,
        "in_process_characters_per_s": in_process,
        "http": http,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decode.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))
    insert(table(result), README)
    draw(result, RESULTS / "decode.png")


if __name__ == "__main__":
    main()
