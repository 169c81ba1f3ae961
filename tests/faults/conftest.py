import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.faults.client import Stream, Tokens, tokens_of
from tests.faults.proxy import Proxy
from tests.faults.store import OwnStore
from tests.process import Server, serving
from tests.sessions.valkey import SERVERS

INPUTS, SEED, TRUTH = "The ", 7, 45_000
FIRST = len(INPUTS)
SAMPLING = {"temperature": 0.8}


def until(is_so: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "the condition does not hold"
        time.sleep(0.01)


@dataclass
class Place:
    """A server, and the requests of a test to it."""

    server: Server
    http: httpx2.Client
    streams: list[Stream] = field(default_factory=list)

    def session(self, **body: Any) -> str:
        reply = self.http.post("/sessions", json={"seed": SEED} | body)
        assert reply.status_code == 201, reply.text
        return reply.json()["id"]

    def body(self, session_id: str, n: int, inputs: str = INPUTS, **more: Any) -> dict[str, Any]:
        parameters = {"max_new_tokens": n, **SAMPLING}
        return {"inputs": inputs, "session_id": session_id, "parameters": parameters} | more

    def turn(
        self,
        session_id: str,
        n: int,
        inputs: str = INPUTS,
        *,
        key: str | None = None,
        receive_bytes: int | None = None,
        **more: Any,
    ) -> Stream:
        body, headers = self.body(session_id, n, inputs, **more), {"Idempotency-Key": key or "x"}
        stream = Stream(
            self.server, "/generate_stream", body, headers if key else None, receive_bytes
        )
        self.streams.append(stream)
        return stream

    def follow(self, session_id: str, last_id: str | None) -> Stream:
        headers = {"Last-Event-ID": last_id} if last_id else None
        stream = Stream(self.server, f"/sessions/{session_id}/events", None, headers)
        self.streams.append(stream)
        return stream

    def ask(self, session_id: str, n: int, inputs: str = INPUTS, **more: Any) -> httpx2.Response:
        return self.http.post("/generate", json=self.body(session_id, n, inputs, **more))

    def position(self, session_id: str) -> int:
        return int(self.http.get(f"/sessions/{session_id}").json()["position"])

    @property
    def is_ready(self) -> bool:
        return self.http.get("/health/ready").status_code == 200

    @property
    def running(self) -> int:
        models = self.http.get("/info").json()["models"]
        return sum(model["running"] + model["waiting"] for model in models)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self.streams.clear()


def wait_until_still(place: Place, session_id: str) -> int:
    """Return the position at which a turn waits for its reader."""
    before, end = -1, time.monotonic() + 20
    while (position := place.position(session_id)) != before:
        assert time.monotonic() < end, "it does not wait for its reader"
        before = position
        time.sleep(0.2)
    return position


@dataclass
class House(Place):
    """A server, its store, and the proxy between them."""

    store: OwnStore = None  # type: ignore[assignment]
    proxy: Proxy = None  # type: ignore[assignment]

    def heal(self) -> None:
        """Restore everything, and delete all sessions."""
        self.close()
        self.proxy.heal()
        if self.store.is_alive:
            self.store.continue_()
        else:
            self.store.start()
        self.store.client.replicaof("NO", "ONE")
        self.store.client.config_set("maxmemory", 0)
        self.store.client.config_set("maxmemory-policy", "noeviction")
        self.store.client.flushall()
        until(lambda: self.is_ready and self.running == 0, 30)


@pytest.fixture(scope="session", params=SERVERS)
def own_store(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStore]:
    store = OwnStore(tmp_path_factory.mktemp("store"), request.param)
    store.start()
    yield store
    store.close()


@pytest.fixture(scope="session")
def whole_house(own_store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    proxy = Proxy(own_store.port)
    home = new_home(tmp_path_factory.mktemp("house"))
    url = f"redis://127.0.0.1:{proxy.port}"
    with (
        serving(home, CAROUSEL_REDIS_URL=url) as server,
        httpx2.Client(base_url=server.url, timeout=30) as http,
    ):
        yield House(server, http, store=own_store, proxy=proxy)
    proxy.close()


@contextlib.contextmanager
def a_server(home: Path, **settings: str) -> Iterator[Place]:
    with (
        serving(home, **settings) as server,
        httpx2.Client(base_url=server.url, timeout=30) as http,
    ):
        place = Place(server, http)
        try:
            yield place
        finally:
            place.close()


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """The tokens of a session with the seed SEED after INPUTS, without interruption."""
    with a_server(new_home(tmp_path_factory.mktemp("truth"))) as place:
        stream = place.turn(place.session(), TRUTH)
        stream.rest()
    found = tokens_of(stream)
    assert [position for position, _, _ in found] == list(range(FIRST + 1, FIRST + 1 + TRUTH))
    return found


@pytest.fixture
def house(whole_house: House) -> Iterator[House]:
    yield whole_house
    whole_house.heal()
    assert "Traceback" not in whole_house.server.log.read_text()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return new_home(tmp_path)
