"""Throughput of streams while a train job runs on the same machine, compared with none."""

import json
import random
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench import load
from bench.machine import machine
from bench.progress import Progress
from bench.seed_model import write_seed_model
from bench.server import server
from service.models.bundle import Precision

STREAMS, ROUNDS, TRAINING_LIMIT_S = 16, 3, 120.0
EXPECTED_S = 90.0


def _post(url: str, body: bytes, kind: str = "application/json") -> Any:
    return json.load(
        urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": kind}))
    )


def _train(url: str) -> str:
    rng = random.Random(0)
    text = "".join(rng.choice("abcdefgh \n") for _ in range(400_000)).encode()
    corpus = _post(f"{url}/corpora?name=noise", text, "text/plain")["id"]
    job = _post(f"{url}/train-jobs", json.dumps({"name": "noise", "corpus": corpus}).encode())["id"]
    until = time.monotonic() + TRAINING_LIMIT_S
    while json.load(urllib.request.urlopen(f"{url}/train-jobs/{job}"))["progress"] is None:
        if time.monotonic() > until:
            raise TimeoutError("the job has not started training")
        time.sleep(0.5)
    return str(job)


def _measured(port: int, ref: str, name: str, progress: Progress) -> float:
    measured = load.run(port, ref, STREAMS)
    progress.done(f"{name}: {measured.characters_per_s:,.0f} characters/s")
    return measured.characters_per_s


def main() -> None:
    """Print characters per second of the streams without and with a job, and the ratio."""
    about, progress = machine(), Progress("beside", 2 * ROUNDS, EXPECTED_S)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "models"
        ref = str(write_seed_model(store, Precision.INT8))
        with server(store, CAROUSEL_WORKERS="1") as port:
            url = f"http://127.0.0.1:{port}"
            alone = [_measured(port, ref, "alone", progress) for _ in range(ROUNDS)]
            job = _train(url)
            before = json.load(urllib.request.urlopen(f"{url}/train-jobs/{job}"))["progress"]
            beside = [_measured(port, ref, "beside a job", progress) for _ in range(ROUNDS)]
            after = json.load(urllib.request.urlopen(f"{url}/train-jobs/{job}"))["progress"]
            _post(f"{url}/train-jobs/{job}/cancel", b"")
    figures = {
        "machine": about,
        "streams": STREAMS,
        "alone": alone,
        "beside": beside,
        "ratio": statistics.median(beside) / statistics.median(alone),
        "steps_trained_beside": after["step"] - before["step"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
