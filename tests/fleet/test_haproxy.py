"""Two servers behind a real HAProxy with the file that we ship."""

import concurrent.futures
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.fleet.haproxy import BINARY, haproxy
from tests.fleet.resumed import ResumedStream, new_session
from tests.fleet.servers import Servers
from tests.process import Server
from tests.sessions.valkey import own_store

pytestmark = [
    pytest.mark.slow,  # servers are killed and started
    pytest.mark.skipif(BINARY is None, reason="HAProxy is not installed"),
]

N = 12_000
SETTINGS = {"CAROUSEL_LAME_DUCK_S": "2", "CAROUSEL_TRUSTED_PROXIES": "127.0.0.1"}


@dataclass
class Place:
    """Servers, and the proxy before the first two."""

    proxy: Server
    servers: Servers

    def until_balanced(self) -> None:
        """Wait until requests go to both."""
        end = time.monotonic() + 60
        seen: set[str] = set()
        while len(seen) < 2:
            assert time.monotonic() < end, f"only {seen} answer"
            reply = httpx2.get(f"{self.proxy.url}/health/ready", timeout=30)
            if reply.status_code == 200:
                seen.add(reply.headers["X-Carousel-Process"])


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "home").mkdir()
    home = new_home(tmp_path / "home")
    with own_store(tmp_path / "valkey") as store, Servers(home, store) as servers:
        pair = [servers.start(**SETTINGS).server for _ in range(2)]
        with haproxy(tmp_path, pair) as proxy:
            found = Place(proxy, servers)
            found.until_balanced()
            yield found


def streams_of(place: Place, n: int) -> list[ResumedStream]:
    return [ResumedStream(place.proxy, new_session(place.proxy), N) for _ in range(n)]


def test_a_killed_server_loses_and_doubles_no_character(place):
    (whole,) = streams_of(place, 1)
    whole.run()
    streams = streams_of(place, 8)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(stream.run) for stream in streams]
        time.sleep(0.5)
        place.servers.members[0].kill()
        for one in running:
            one.result(180)
    assert len(whole.tokens) == N
    assert [stream.tokens == whole.tokens for stream in streams] == [True] * 8


def test_a_server_that_stops_under_load_refuses_no_request(place):
    """Requests without a session, so that nothing could go on elsewhere."""
    statuses: list[int] = []
    is_over = False

    def ask() -> None:
        with httpx2.Client(base_url=place.proxy.url, timeout=60) as http:
            while not is_over:
                body = {"inputs": "a", "parameters": {"max_new_tokens": 8}}
                statuses.append(http.post("/generate", json=body).status_code)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.5)
        leaving = place.servers.members[0].process
        leaving.terminate()
        leaving.wait(60)
        time.sleep(0.5)
        is_over = True
        for one in asking:
            one.result(60)
    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_a_change_through_the_proxy_is_of_both(place):
    with httpx2.Client(base_url=place.proxy.url, timeout=60) as http:
        reply = http.put("/admin/aliases/prod", json={"model": "demo"})
        assert reply.status_code == 200
        assert len(reply.json()["fleet"]["processes"]) == 2
    body = {"model": "prod", "prompt": "a", "max_tokens": 1}
    for _ in range(12):
        url = f"{place.proxy.url}/v1/completions"
        assert httpx2.post(url, json=body, timeout=30).status_code == 200
