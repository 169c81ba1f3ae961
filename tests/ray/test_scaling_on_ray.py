"""The number of replicas under load, on a real Ray of one node."""

import concurrent.futures
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.ray.ray_fleet import RayFleet, TcpStore, ray_fleet, running_loads, tcp_store

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

TEXT = "the owl and the cat sat in the oak\n" * 400
TIMES = {"streams": 4, "upscale_delay_s": 1, "downscale_delay_s": 2, "look_back_s": 3}


@pytest.fixture
def store(tmp_path) -> Iterator[TcpStore]:
    with tcp_store(tmp_path) as found:
        yield found


@pytest.fixture
def fleet(tmp_path, store) -> Iterator[RayFleet]:
    with ray_fleet(tmp_path, store.url, min=1, max=2, per_node=2, **TIMES) as found:
        found.start_node(is_head=True)
        found.up(drain_s=5)
        found.until_replicas(1)
        yield found


def follow(url: str, until: float) -> int:
    """Follow a job that waits; the number of connections that it took."""
    n = 0
    while time.monotonic() < until:
        n += 1
        try:
            with httpx2.stream("GET", url, timeout=10) as reply:
                for _ in reply.iter_raw():
                    if time.monotonic() > until:
                        return n
        except httpx2.HTTPError:
            time.sleep(0.2)
    return n


def test_streams_bring_a_replica_and_followers_hold_none(fleet):
    with running_loads(fleet, 16) as loads:
        fleet.until_replicas(2)
    assert [load.faults for load in loads] == [[]] * 16
    with httpx2.Client(base_url=fleet.server.url, timeout=90) as http:
        corpus = http.post("/corpora?name=owl", content=TEXT.encode()).json()["id"]
        job = http.post("/train-jobs", json={"name": "owl", "corpus": corpus}).json()["id"]
    url = f"{fleet.server.url}/train-jobs/{job}/events"
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        until = time.monotonic() + 60
        followers = [pool.submit(follow, url, until) for _ in range(40)]
        fleet.until_replicas(1)
        assert time.monotonic() < until  # they still follow
        assert all(one.result() for one in followers)
