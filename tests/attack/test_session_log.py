"""A session's log that the store has changed: a typed error and an end, never another text."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from service.errors import SessionDamaged
from service.sessions.session import TurnStatus
from tests.api.conftest import new_home
from tests.process import Server, serving
from tests.sessions.valkey import OwnValkey, own_store
from tests.sessions.world import TOKENS, World, make_program, turn_request


@pytest.fixture(scope="module")
def store_server(tmp_path_factory) -> Iterator[OwnValkey]:
    with own_store(tmp_path_factory.mktemp("valkey")) as own:
        yield own


@pytest.fixture
def world(store_server) -> Iterator[World]:
    made = World(store_server, [make_program()])
    made.create((1, 2, 3), seed=3)
    yield made
    made.close()


def run(world: World, n: int, s: int = 0) -> None:
    world.begin(0, s, turn_request(n, seed=5))
    while world.processes[0].engine.work():
        world.flush(0)
    assert world.refusals == []


def text(world: World, s: int = 0, first: int = 0, n: int = 10_000) -> str:
    process = world.processes[0]
    return world.do(process.records.text(world.keys[s], process.model, first, n))[0]


def error_of(call: Callable[[], Any]) -> str:
    with pytest.raises(SessionDamaged) as caught:
        call()
    return str(caught.value)


def flips(client: redis.Redis) -> Iterator[tuple[str, int]]:
    """Each byte of each log in turn replaced by each other valid token; restored afterwards."""
    for name in client.keys("carousel:log:*"):
        whole = client.get(name)
        for position, token in enumerate(whole):
            for other in set(range(len(TOKENS))) - {token}:
                client.setrange(name, position, bytes([other]))
                yield name.decode(), position
            client.setrange(name, position, bytes([token]))


def damage(client: redis.Redis, position: int, token: int | None = None) -> None:
    """Change a token of the only log there is."""
    (name,) = client.keys("carousel:log:*")
    old = client.getrange(name, position, position)[0]
    client.setrange(name, position, bytes([(old + 1) % len(TOKENS) if token is None else token]))


def test_a_flip_of_any_token_into_any_other_is_found(world):
    run(world, 40)
    world.append(0, 0, (4, 5))
    run(world, 25)
    good, n = text(world), 0
    for _ in flips(world.valkey.client):
        n += 1
        error_of(lambda: text(world))
    assert n == len(good) * (len(TOKENS) - 1)
    assert text(world) == good


def test_a_flip_is_found_in_a_part_of_a_log_and_not_blamed_on_another(world):
    run(world, 700)
    good = text(world)
    damage(world.valkey.client, 300)
    assert text(world, n=100) == good[:100]
    assert text(world, first=650) == good[650:]
    assert "between the positions 259 and 515" in error_of(lambda: text(world, first=400, n=10))


def test_flips_are_found_in_logs_that_were_forked_rewound_and_copied(world):
    for to in range(5, 23):  # more segments than a chain has
        run(world, 11)
        world.rewind(0, 0, to)
        world.fork(0, 0, to - 2, "same")
        run(world, 5, len(world.keys) - 1)
    logs = [text(world, s) for s in range(len(world.keys))]
    found = 0
    for _ in flips(world.valkey.client):
        for s, good in enumerate(logs):
            try:
                assert text(world, s) == good, "another text"
            except SessionDamaged:
                found += 1
    assert found > len("".join(logs)), "shared parts are in several logs"


def test_a_turn_does_not_continue_a_damaged_log_and_a_rewind_mends_it(world):
    run(world, 300)
    world.crash(0)  # the next process has no cached state
    position = len(text(world))
    damage(world.valkey.client, position - 1)
    process, key = world.processes[0], world.keys[0]
    for _ in range(3):
        message = error_of(lambda: world.do(process.begin(key, turn_request(10, seed=5))))
        assert world.do(process.records.read(key)).position == position
        assert world.do(process.records.read(key)).active == ""
    to = int(message.split("rewind it to ")[1].split()[0])
    assert position - 256 <= to < position
    world.rewind(0, 0, to)
    run(world, 10)


@pytest.mark.parametrize("is_append", [False, True])
def test_with_the_snapshot_damaged_too_the_next_turns_are_refused_at_once(world, is_append):
    run(world, 2_000)
    world.crash(0)
    client, position = world.valkey.client, len(text(world))
    damage(client, 100)  # far before what a turn reads when its snapshot is good
    (name,) = client.keys("carousel:state:*")
    client.setrange(name, 60, b"\xff\xff\xff\xff")
    process, key = world.processes[0], world.keys[0]
    for _ in range(3):
        if is_append:
            world.append(0, 0, (1, 2))
            assert isinstance(world.refusals.pop(), SessionDamaged)
        else:
            error_of(lambda: world.do(process.begin(key, turn_request(10, seed=5))))
        session = world.do(process.records.read(key))
        assert (session.position, session.active) == (position, "")


@pytest.mark.parametrize("is_snapshot_damaged", [False, True])
def test_a_take_over_of_a_damaged_log_ends_the_turn(world, is_snapshot_damaged):
    run(world, 600)
    world.begin(0, 0, turn_request(1_000, seed=5))
    for _ in range(15):
        world.processes[0].engine.work()
        world.flush(0)
    world.crash(0)
    client, process, key = world.valkey.client, world.processes[0], world.keys[0]
    damage(client, 50 if is_snapshot_damaged else len(text(world)) - 20)
    for name in client.keys("carousel:state:*") if is_snapshot_damaged else ():
        client.setrange(name, 60, b"\xff\xff\xff\xff")
    client.delete(*client.keys("carousel:process:*"))
    error_of(lambda: world.do(process.turns.take_over(key, process.model)))
    session = world.do(process.records.read(key))
    assert session.active == ""
    assert session.turn.status in {TurnStatus.LOST, TurnStatus.CANCELLED}
    assert world.do(process.turns.take_over(key, process.model)) is None


def test_a_log_of_an_earlier_version_is_read_and_its_new_tokens_have_checksums(world):
    run(world, 100)
    client = world.valkey.client
    client.delete(*client.keys("carousel:sums:*"))
    good = text(world)
    run(world, 50)
    assert text(world).startswith(good)
    damage(client, 120)
    error_of(lambda: text(world))
    assert text(world, n=len(good)) == good
    damage(client, 7, 0xFF)
    assert "between the positions 7 and 8" in error_of(lambda: text(world, n=10))


def test_a_log_that_lost_its_checksums_during_a_turn_is_not_taken_for_damaged(world):
    world.begin(0, 0, turn_request(600, seed=5))
    client, n = world.valkey.client, 0
    while world.processes[0].engine.work():
        world.flush(0)
        n += 1
        if n == 8:
            client.delete(*client.keys("carousel:sums:*"))
    assert len(text(world)) == 603
    damage(client, 602)
    error_of(lambda: text(world))


def test_checksums_are_few_and_end_with_their_session(world):
    run(world, 3_000)
    client = world.valkey.client
    (name,) = client.keys("carousel:sums:*")
    assert client.strlen(name) <= 12 * (3_000 // 256 + 3)
    assert client.strlen(name) >= 12 * (3_000 // 512)  # else a read of a few tokens checks them all
    assert client.ttl(name) > 0
    world.do(world.processes[0].records.delete(world.keys[0]))
    assert client.keys("carousel:sums:*") == []


@contextlib.contextmanager
def a_served_session(folder: Path, store: OwnValkey) -> Iterator[tuple[httpx2.Client, Server, str]]:
    store.client.flushall()
    with serving(new_home(folder), CAROUSEL_REDIS_URL=store.url) as server:
        with httpx2.Client(base_url=server.url, timeout=10) as http:
            session = http.post("/sessions", json={"seed": 1}).json()["id"]
            body = {"inputs": "The ", "session_id": session, "parameters": {"max_new_tokens": 50}}
            assert http.post("/generate", json=body).status_code == 200
            yield http, server, session
        assert "Traceback" not in server.log.read_text()


def test_over_http_damage_is_a_410_on_every_route_and_never_a_500(tmp_path, store_server):
    client = store_server.client
    with a_served_session(tmp_path, store_server) as (http, _, session):
        text_path = f"/sessions/{session}/text"
        good = http.get(text_path).json()["text"]
        for byte in (0xFF, 3):
            damage(client, 20, byte)
            replies = [
                http.get(text_path),
                http.get(f"/sessions/{session}/events"),
                http.get(f"/sessions/{session}/state"),
                http.post("/score", json={"inputs": "a", "session_id": session}),
            ]
            for reply in replies[:3]:
                found = reply.status_code, reply.json()["error_type"]
                assert found == (410, "session_lost"), reply.text
                assert "rewind it to 4 or before" in reply.json()["error"]
            assert replies[3].status_code in {200, 410}
        assert http.get(f"/sessions/{session}").json()["position"] == 54
        reply = http.post(f"/sessions/{session}/rewind", json={"to": 4})
        assert reply.status_code == 200, reply.text
        assert http.get(text_path).json()["text"] == good[:4]


def test_over_http_with_the_snapshot_damaged_too_nothing_hangs(tmp_path, store_server):
    client = store_server.client
    with a_served_session(tmp_path, store_server) as (_, _, session):
        damage(client, 20, 0xFF)
        for name in client.keys("carousel:state:*"):
            client.setrange(name, 60, b"\xff\xff\xff\xff")
        body = {"inputs": " a", "session_id": session, "parameters": {"max_new_tokens": 5}}
        with serving(new_home(_new(tmp_path)), CAROUSEL_REDIS_URL=store_server.url) as other:
            for _ in range(3):  # another process: it has no state of the session in memory
                url = f"{other.url}/generate"
                assert httpx2.post(url, json=body, timeout=5).status_code == 410
                events = httpx2.get(f"{other.url}/sessions/{session}/events", timeout=5)
                assert events.status_code in {410, 412}


def _new(folder: Path) -> Path:
    (folder / "other").mkdir()
    return folder / "other"
