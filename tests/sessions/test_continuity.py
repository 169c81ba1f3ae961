"""One text in two turns, with any event between them, is the same to the last bit."""

import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from tests.api.conftest import new_home
from tests.process import Server, serving
from tests.sessions.valkey import SERVERS, OwnValkey

SECRET = "a secret that two servers share, long enough"
PARAMETERS = {
    "temperature": 0.9,
    "top_p": 0.95,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.1,
    "logit_bias": {"3": 0.7, "40": -1.0},
    "details": True,
    "top_n_tokens": 2,
}
OTHERS = 63


class Place:
    """A store and a server, both of which can be killed."""

    def __init__(self, folder, store: str) -> None:
        self.home = new_home(folder)
        (folder / "valkey").mkdir()
        self.valkey = OwnValkey(folder / "valkey", store)
        self.valkey.start()
        self._servers = ExitStack()
        self.server = self._serve()

    def _serve(self) -> Server:
        settings = {"CAROUSEL_REDIS_URL": self.valkey.url, "CAROUSEL_SECRET": SECRET}
        return self._servers.enter_context(serving(self.home, **settings))

    def kill_all_and_restart(self) -> None:
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()
        self.valkey.restart()
        self.server = self._serve()

    def close(self) -> None:
        self._servers.close()
        self.valkey.close()

    @property
    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.server.url, timeout=60)


@pytest.fixture(scope="module", params=SERVERS)
def place(request, tmp_path_factory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("one"), request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("two"), "valkey")
    yield made
    made.close()


def make(place: Place) -> str:
    with place.http as http:
        reply = http.post("/sessions", json={"text": "The following ", "seed": 1234})
        return reply.json()["id"]


def say(place: Place, session: str, n: int) -> list[dict]:
    """Generate `n` tokens: ids, texts, logprobs and the most likely ones."""
    body = {
        "inputs": "",
        "session_id": session,
        "parameters": PARAMETERS | {"max_new_tokens": n},
    }
    with place.http as http:
        reply = http.post("/generate", json=body)
        assert reply.status_code == 200, reply.text
    details = reply.json()["details"]
    return list(zip(details["tokens"], details["top_tokens"], strict=True))


def state(place: Place, session: str) -> bytes:
    with place.http as http:
        return http.get(f"/sessions/{session}/state").content


@contextmanager
def company(place: Place) -> Iterator[None]:
    """Run 63 other streams."""
    end = threading.Event()
    started = threading.Barrier(OTHERS + 1)

    def listen(seed: int) -> None:
        parameters = {"max_new_tokens": 1_000_000, "seed": seed, "temperature": 1.0}
        body = {"inputs": "x", "parameters": parameters}
        with place.http as http, http.stream("POST", "/generate_stream", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            started.wait(30)
            for _ in lines:
                if end.is_set():
                    return

    threads = [threading.Thread(target=listen, args=(seed,)) for seed in range(OTHERS)]
    for thread in threads:
        thread.start()
    started.wait(30)
    yield
    end.set()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def whole(place) -> tuple[list[dict], bytes]:
    """200 tokens in one turn, and the state after them."""
    session = make(place)
    return say(place, session, 200), state(place, session)


def test_two_turns_without_interruption(place, whole):
    session = make(place)
    assert say(place, session, 77) + say(place, session, 123) == whole[0]
    assert state(place, session) == whole[1]


def test_every_process_killed_between_the_turns(place, whole):
    session = make(place)
    first = say(place, session, 77)
    place.kill_all_and_restart()
    assert first + say(place, session, 123) == whole[0]
    assert state(place, session) == whole[1]


def test_with_63_concurrent_streams(place, whole):
    session = make(place)
    first = say(place, session, 77)
    with company(place):
        second = say(place, session, 123)
    assert first + second == whole[0]
    assert state(place, session) == whole[1]


def test_across_a_fork(place, whole):
    session = make(place)
    first = say(place, session, 77)
    with place.http as http:
        body = {"n": 2, "seeds": "same"}
        forks = http.post(f"/sessions/{session}/fork", json=body).json()["sessions"]
    for fork in forks:
        assert first + say(place, fork["id"], 123) == whole[0]
        assert state(place, fork["id"]) == whole[1]


def test_across_a_rewind(place, whole):
    session = make(place)
    first = say(place, session, 177)[:77]
    with place.http as http:
        http.post(f"/sessions/{session}/rewind", json={"to": len("The following ") + 77})
    assert first + say(place, session, 123) == whole[0]
    assert state(place, session) == whole[1]


def test_across_an_export_to_a_second_server(place, elsewhere, whole):
    session = make(place)
    first = say(place, session, 77)
    with elsewhere.http as http:
        headers = {"Content-Type": "application/octet-stream"}
        moved = http.post("/sessions/import", content=state(place, session), headers=headers)
    assert first + say(elsewhere, moved.json()["id"], 123) == whole[0]
    assert state(elsewhere, moved.json()["id"]) == whole[1]


def test_alternately_on_two_processes_of_one_store(place, whole, tmp_path):
    settings = {"CAROUSEL_REDIS_URL": place.valkey.url, "CAROUSEL_SECRET": SECRET}
    session = make(place)
    generated = []
    with serving(new_home(tmp_path), **settings) as other:
        here, there = place.http, httpx2.Client(base_url=other.url, timeout=60)
        with here, there:
            for turn, n in enumerate([50, 27, 60, 63]):
                parameters = PARAMETERS | {"max_new_tokens": n}
                body = {"inputs": "", "session_id": session, "parameters": parameters}
                details = (here, there)[turn % 2].post("/generate", json=body).json()["details"]
                generated += zip(details["tokens"], details["top_tokens"], strict=True)
    assert json.dumps(generated) == json.dumps(whole[0])
    assert state(place, session) == whole[1]


# -- a turn with a constraint

PATTERN = r"[a-z ]{9999}\."


def ask(place: Place, session: str) -> dict:
    """The turn's request, the same every time."""
    parameters = {"max_new_tokens": 20_000, "temperature": 0.9}
    parameters["grammar"] = {"type": "regex", "value": PATTERN}
    return {
        "url": f"{place.server.url}/generate_stream",
        "json": {
            "inputs": "",
            "session_id": session,
            "parameters": parameters,
            "on_disconnect": "continue",
        },
        "headers": {"Idempotency-Key": "once"},
        "timeout": 60,
    }


def told(lines: Iterable[str]) -> list[dict]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def test_another_process_resumes_a_constrained_turn(place):
    whole = told(httpx2.post(**ask(place, make(place))).text.split("\n"))
    assert re.fullmatch(PATTERN, whole[-1]["generated_text"])
    assert whole[-1]["details"]["finish_reason"] == "eos_token"
    session = make(place)
    with httpx2.stream("POST", **ask(place, session)) as reply:
        lines = list(itertools.islice(reply.iter_lines(), 600))
    place.kill_all_and_restart()
    before = told(lines)
    last = f"0.1.{len('The following ') + len(before)}"
    with place.http as http:
        position = http.get(f"/sessions/{session}").json()["position"]
        assert position < len("The following ") + 10_000, "it was over before it was killed"
        rest = http.get(f"/sessions/{session}/events", headers={"Last-Event-ID": last}).text
        again = http.post(**ask(place, session)).text
    generated = [before + told(rest.split("\n")), told(again.split("\n"))]
    for events in generated:
        assert [event["token"] for event in events] == [event["token"] for event in whole]
        assert events[-1]["generated_text"] == whole[-1]["generated_text"]
        assert events[-1]["details"] == whole[-1]["details"]
