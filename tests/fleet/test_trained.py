"""A model that is trained: it is loaded by every process, whichever of them settles its job."""

import random
import time

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.process import serving

LIMIT_S = 240.0


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_trained_model_is_loaded_and_aliased_in_both_processes(tmp_path):
    random.seed(1)
    text = " ".join(random.choice(("and", "the", "owl", "sea", "wind")) for _ in range(4_000))
    settings = {"CAROUSEL_PROCESSES": "2", "CAROUSEL_WORKERS": "1"}
    with (
        serving(new_home(tmp_path), **settings) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        corpus = http.post("/corpora", params={"name": "words"}, content=text.encode()).json()["id"]
        body = {
            "name": "owl",
            "corpus": corpus,
            "architecture": {"cell": "lstm", "layers": 1, "units": 16},
            "training": {"epochs": 1, "batch_size": 16, "sequence_length": 20},
            "alias": "newest",
        }
        job = http.post("/train-jobs", json=body)
        assert job.status_code == 202, job.text
        end = time.monotonic() + LIMIT_S
        while (found := http.get(job.headers["location"]).json())["status"] != "succeeded":
            assert found["status"] not in {"failed", "cancelled"}, found
            assert time.monotonic() < end, found
            time.sleep(0.5)
        assert "error" not in found or found["error"] is None
        seen = set()
        while len(seen) < 2:
            assert time.monotonic() < end, seen
            url, asked = f"{server.url}/v1/completions", {"model": "newest", "prompt": "a"}
            reply = httpx2.post(url, json=asked | {"max_tokens": 1}, timeout=60)
            assert reply.status_code == 200, reply.text
            seen.add(reply.headers["X-Carousel-Process"])
