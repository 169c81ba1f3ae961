"""Every query of the board has data from a real run: a server, a load, and a Prometheus.

`python -m pytest -s -m soak tests/deployment/test_live_board.py` prints what each has found.
"""

import contextlib
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.api.conftest import new_home
from tests.deployment.test_board import ALERTS, QUERIES, plain
from tests.process import ROOT, Server, free_port, serving

LOAD_S, JOB_LIMIT_S, START_LIMIT_S = 40.0, 240.0, 30.0
LONG = "The with statement is used to wrap the execution of a block with methods. " * 3

pytestmark = [
    pytest.mark.soak,
    pytest.mark.tf,
    pytest.mark.timeout(560),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def latest(self, expr: str, since_s: float) -> dict[str, float]:
        """Return the last number of each line of an expression since a time."""
        asked = {"query": expr, "start": since_s, "end": time.time(), "step": 2}
        reply = httpx2.get(f"{self.url}/api/v1/query_range", params=asked, timeout=30).json()
        assert reply["status"] == "success", reply
        found = {}
        for line in reply["data"]["result"]:
            numbers = [float(value) for _, value in line["values"]]
            numbers = [one for one in numbers if not math.isnan(one)]
            if numbers:
                found[str(line["metric"])] = numbers[-1]
        return found


@contextlib.contextmanager
def scraping(folder: Path, port: int) -> Iterator[Prometheus]:
    """A Prometheus with our rules that scrapes one server every second."""
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "docker" / "observability" / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "carousel", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    own = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        running = Prometheus(f"http://127.0.0.1:{own}")
        try:
            wait_until(lambda: httpx2.get(f"{running.url}/-/ready").status_code == 200)
            yield running
        finally:
            process.terminate()


def wait_until(holds: Callable[[], bool], limit_s: float = START_LIMIT_S) -> None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with contextlib.suppress(httpx2.HTTPError):
            if holds():
                return
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


class Load:
    """What users do: streams, sessions, conflicts, refusals, models that come and go, a job."""

    def __init__(self, server: Server) -> None:
        self._http = httpx2.Client(base_url=server.url, timeout=120)
        self._until = time.monotonic() + LOAD_S

    def run(self) -> None:
        """Run all kinds at once, then wait for the job."""
        job = self._submit_job()
        kinds = [self._stream, self._stream, self._turn, self._refused, self._other_models]
        threads = [threading.Thread(target=self._repeat, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: self._is_over(job), JOB_LIMIT_S)
        self._http.close()

    def _repeat(self, work: Callable[[], None]) -> None:
        while time.monotonic() < self._until:
            work()

    def _stream(self) -> None:
        body = {"inputs": LONG, "parameters": {"max_new_tokens": 200}}
        with self._http.stream("POST", "/generate_stream", json=body) as reply:
            for _ in reply.iter_bytes():
                pass

    def _turn(self) -> None:
        made = self._http.post("/sessions", json={"text": "The "})
        if made.status_code != 201:  # such as a store that a busy machine does not let answer
            return
        session = made.json()["id"]
        body = {"inputs": "a", "session_id": session, "parameters": {"max_new_tokens": 300}}
        self._http.post("/generate", json=body)
        self._http.post("/generate", json=body | {"expected_position": 1})  # 412

    def _refused(self) -> None:
        self._http.post("/generate", json={"inputs": "The ", "model": "nobody"})
        self._http.post("/generate", json={"inputs": "The ", "parameters": {"top_p": 7.0}})
        time.sleep(0.2)

    def _other_models(self) -> None:
        for name in ("second", "third"):
            self._http.post("/generate", json={"inputs": "The ", "model": name})
        time.sleep(2)

    def _submit_job(self) -> str:
        text = (LONG * 200).encode()
        corpus = self._http.post(
            "/corpora?name=text", content=text, headers={"Content-Type": "text/plain"}
        ).json()["id"]
        body = {
            "name": "trained",
            "corpus": corpus,
            "architecture": {"units": 32, "embedding_dim": 8},
            "training": {"max_seconds": 20, "batch_size": 16},
        }
        return self._http.post("/train-jobs", json=body).json()["id"]

    def _is_over(self, job: str) -> bool:
        status = self._http.get(f"/train-jobs/{job}").json()["status"]
        assert status != "failed"
        return status == "succeeded"


def model_bytes(home: Path) -> int:
    """Return what the demo model is counted with."""
    with serving(home) as server:
        rows = httpx2.get(f"{server.url}/admin/models").json()["models"]
        return next(row["bytes"] for row in rows if row["name"] == "demo")


def test_every_query_of_the_board_has_data(tmp_path):
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    new_home(home)
    budget = int(2.6 * model_bytes(home))  # the demo model, and one of the two others
    for name in ("second", "third"):
        copy = home / "model_store" / name / "1"
        shutil.copytree(ROOT / "model_store" / "demo" / "1", copy)
        manifest = (copy / "manifest.json").read_text()
        (copy / "manifest.json").write_text(manifest.replace('"name": "demo"', f'"name": "{name}"'))
    settings = {
        "CAROUSEL_METRICS_PORT": str(port),
        "CAROUSEL_WORKERS": "1",
        "CAROUSEL_AUTOLOAD": "true",
        "CAROUSEL_MEMORY_BUDGET": str(budget),
    }
    begun_s = time.time()
    with serving(home, **settings) as server, scraping(tmp_path, port) as prometheus:
        Load(server).run()
        time.sleep(5)
        found = {}
        for name, expr in QUERIES.items():
            sent = plain(expr).replace("[1m]", "[20s]")
            found[name] = prometheus.latest(sent, begun_s)
            sys.stdout.write(f"{name}: {found[name]}\n")
        alerts = {name: prometheus.latest(expr, time.time()) for name, expr in ALERTS.items()}
    assert not [name for name, lines in found.items() if not lines]
    assert not alerts["CarouselNotReady"]
    assert not alerts["CarouselStoreFull"]
