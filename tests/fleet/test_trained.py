"""A model that is trained: it is loaded by every process, whichever of them settles its job."""

import random
import time
from collections.abc import Callable

import httpx2
import pytest

from tests.fleet.house import a_house, is_alive, until

LIMIT_S = 240.0
SMALL = {"cell": "lstm", "layers": 1, "units": 16}


def submit(http: httpx2.Client, corpus: str, name: str, epochs: int, **more: str) -> str:
    """The path of a job."""
    training = {"epochs": epochs, "batch_size": 16, "sequence_length": 20}
    body = {"name": name, "corpus": corpus, "architecture": SMALL, "training": training, **more}
    job = http.post("/train-jobs", json=body)
    assert job.status_code == 202, job.text
    return job.headers["location"]


def wait_for(http: httpx2.Client, job: str, is_so: Callable[[dict], bool]) -> dict:
    end = time.monotonic() + LIMIT_S
    while not is_so(found := http.get(job).json()):
        assert found["status"] not in {"failed", "cancelled"}, found
        assert time.monotonic() < end, found
        time.sleep(0.5)
    return found


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.timeout(560)
@pytest.mark.parametrize(
    "n", [pytest.param(1, marks=pytest.mark.soak), 2, pytest.param(4, marks=pytest.mark.soak)]
)
def test_a_trained_model_is_loaded_and_aliased_in_every_process(tmp_path, n):
    """Then the parent is killed in the midst of another job: nothing is left of it."""
    random.seed(1)
    text = " ".join(random.choice(("and", "the", "owl", "sea", "wind")) for _ in range(4_000))
    with a_house(tmp_path, n, CAROUSEL_WORKERS="1") as house, house.client() as http:
        corpus = http.post("/corpora", params={"name": "words"}, content=text.encode()).json()["id"]
        job = submit(http, corpus, "owl", 1, alias="newest")
        found = wait_for(http, job, lambda job: job["status"] == "succeeded")
        assert found.get("error") is None
        asked = {"model": "newest", "prompt": "a", "max_tokens": 1}
        assert house.everywhere(
            lambda other: other.post("/v1/completions", json=asked).status_code == 200
        )
        listed = http.get("/admin/fleet").json()["processes"]
        assert [each["ready"].get("owl@1") is not None for each in listed] == [True] * n
        assert len({each["ready"]["owl@1"] for each in listed}) == 1  # one model, by its digest

        job = submit(http, corpus, "long", 1_000)
        wait_for(http, job, lambda job: job["status"] == "running" and job["progress"] is not None)
        children = house.children()
        assert any("service.worker" in " ".join(child.cmdline()) for child in children)
        house.server.process.kill()
        house.server.process.wait()
        until(lambda: not [child for child in children if is_alive(child)], 30)
