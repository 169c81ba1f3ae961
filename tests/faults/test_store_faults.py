"""Sessions and streams while their store crashes, hangs or is full."""

import contextlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from service.sessions.config import SessionConfig
from service.sessions.redis_client import ScriptClient
from tests.faults.client import tokens_of
from tests.faults.conftest import FIRST, until, wait_until_still
from tests.process import ROOT, environment, free_port

pytestmark = pytest.mark.slow  # stores are started, stopped and damaged

SHORT_S = SessionConfig().call_timeout_s / 2
CLIENT = ScriptClient("redis://127.0.0.1:1", SessionConfig())  # for the names of scripts


def test_a_store_that_crashed_between_turns_has_every_session(house, truth):
    session = house.session()
    assert house.ask(session, 300).status_code == 200
    house.store.kill()
    until(lambda: not house.is_ready)
    assert house.http.get("/health/live").status_code == 200
    alone = {"inputs": "The ", "parameters": {"max_new_tokens": 9}}
    assert house.http.post("/generate", json=alone).status_code == 200
    refused = house.ask(session, 9, "")
    assert (refused.status_code, refused.json()["error_type"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"]
    house.store.start()
    until(lambda: house.is_ready)
    stream = house.turn(session, 300, "")
    stream.rest()
    assert tokens_of(stream) == truth[300:600]


def test_a_stream_continues_without_a_gap_after_a_short_outage(house, truth):
    for _ in range(5):  # where other work delays the store's start, the outage is not short
        stream = house.turn(house.session(), 20_000)
        stream.take(500)
        began_s = time.monotonic()
        house.store.kill()
        house.store.start()
        outage_s = time.monotonic() - began_s
        stream.rest()
        if outage_s < SHORT_S:
            break
    assert outage_s < SHORT_S
    assert tokens_of(stream) == truth[:20_000]


def test_a_stream_whose_store_stays_down_ends_with_an_error_and_can_be_resumed(house, truth):
    session = house.session()
    stream = house.turn(session, 20_000)
    stream.take(500)
    house.store.kill()
    began_s = time.monotonic()
    stream.rest()
    assert time.monotonic() - began_s < 6
    assert stream.error["error_type"] == "store_unavailable"
    assert stream.error["resume"] == stream.last_id
    house.store.start()
    until(lambda: house.is_ready)
    more = house.follow(session, stream.last_id)
    more.rest()
    assert tokens_of(stream, more) == truth[:20_000]
    assert house.position(session) == FIRST + 20_000


def hang(house, how) -> None:
    if how == "stopped":
        house.store.stop()
    else:
        house.proxy.is_black_hole = True


def unhang(house, how) -> None:
    if how == "stopped":
        house.store.continue_()
    else:
        house.proxy.heal()
        house.proxy.reset()


@pytest.mark.parametrize("how", ["stopped", "unreachable"])
def test_every_request_ends_soon_while_the_store_hangs_and_nothing_is_done_twice(house, truth, how):
    """The turn is requested while the store hangs, and again when it answers."""
    idle, running = house.session(), house.session()
    stream = house.turn(running, 20_000)
    stream.take(500)
    hang(house, how)
    began_s = time.monotonic()
    with ThreadPoolExecutor() as pool:
        generated = pool.submit(house.turn(idle, 300, key="once").rest)
        read = pool.submit(house.http.get, f"/sessions/{idle}")
        rest = pool.submit(stream.rest)
        slowest_s = 0.0
        while not (generated.done() and read.done() and rest.done()):
            sent_s = time.monotonic()
            assert house.http.get("/health/live").status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - sent_s)
            time.sleep(0.02)
    assert time.monotonic() - began_s < 6
    assert slowest_s < 0.5
    assert house.streams[1].status == 503
    assert read.result().status_code == 503
    assert stream.error["error_type"] == "store_unavailable"
    until(lambda: not house.is_ready)
    unhang(house, how)
    until(lambda: house.is_ready)
    again = house.turn(idle, 300, key="once")
    again.rest()
    assert tokens_of(again) == truth[:300]
    assert house.position(idle) == FIRST + 300
    more = house.follow(running, stream.last_id)
    more.rest()
    assert tokens_of(stream, more) == truth[:20_000]
    assert house.position(running) == FIRST + 20_000


@pytest.mark.parametrize("how", ["stopped", "unreachable"])
def test_a_store_that_hangs_for_a_second_delays_and_changes_nothing(house, truth, how):
    idle, running = house.session(), house.session()
    stream = house.turn(running, 20_000)
    stream.take(500)
    hang(house, how)
    with ThreadPoolExecutor() as pool:
        generated = pool.submit(house.turn(idle, 300).rest)
        time.sleep(0.7)  # shorter than the time limit of a call
        unhang(house, how)
        assert tokens_of(generated.result()) == truth[:300]
    stream.rest()
    assert tokens_of(stream) == truth[:20_000]
    assert house.position(idle) == FIRST + 300
    assert house.position(running) == FIRST + 20_000


def is_script(name: str, *holding: bytes):
    digest = CLIENT._digests[name].encode()

    def is_it(command: list[bytes]) -> bool:
        return len(command) > 1 and command[1] == digest and all(one in command for one in holding)

    return is_it


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        (is_script("begin"), 1),
        (is_script("commit"), 1),
        (is_script("commit"), 3),
        (is_script("commit", b"length"), 1),
    ],
    ids=["beginning", "first tokens", "later tokens", "end"],
)
def test_a_lost_reply_doubles_nothing(house, truth, reply, number):
    session = house.session()
    house.proxy.lose_reply(reply, number)
    stream = house.turn(session, 5_000)
    stream.rest()
    assert house.proxy.lost == 1
    assert tokens_of(stream) == truth[:5_000]
    assert house.http.get(f"/sessions/{session}").json()["turn"] == 1
    assert house.position(session) == FIRST + 5_000


@pytest.mark.parametrize("name", ["create", "fork", "rewind"])
def test_a_change_whose_reply_is_lost_is_made_once(house, name):
    session = house.session(text="The quick brown fox")
    house.proxy.lose_reply(is_script(name))
    if name == "create":
        reply = house.http.post("/sessions", json={"session_id": "named"})
    elif name == "fork":
        reply = house.http.post(f"/sessions/{session}/fork", json={"n": 3})
    else:
        reply = house.http.post(f"/sessions/{session}/rewind", json={"to": 9})
    assert house.proxy.lost == 1
    assert reply.is_success
    n_sessions = {"create": 2, "fork": 4, "rewind": 1}[name]
    assert len(house.store.client.keys("carousel:session:*")) == n_sessions
    if name == "rewind":
        assert house.http.get(f"/sessions/{session}/text").json()["text"] == "The quick"


@pytest.mark.parametrize("how", ["resets", "latency", "single bytes"])
def test_a_bad_connection_to_the_store_changes_no_text(house, truth, how):
    session = house.session()
    if how == "latency":
        house.proxy.latency_s = 0.2
    if how == "single bytes":
        house.proxy.is_slicing = True
    stream = house.turn(session, 3_000)
    for _ in range(6):
        stream.take(300)
        if how == "resets":
            house.proxy.reset()
    stream.rest()
    assert tokens_of(stream) == truth[:3_000]
    assert house.position(session) == FIRST + 3_000


def test_a_full_store_is_reported_and_loses_no_text(house, truth):
    idle, other, resumed, followed = (house.session() for _ in range(4))
    assert house.ask(idle, 300).status_code == 200
    streams = [house.turn(session, 20_000) for session in (resumed, followed)]
    for stream in streams:
        stream.take(500)
    house.store.client.config_set("maxmemory", "1mb")
    for stream in streams:
        stream.rest()
        assert stream.error["error_type"] == "store_full"
        assert stream.error["resume"] == stream.last_id
    refused = house.ask(idle, 9, "")
    assert (refused.status_code, refused.json()["error_type"]) == (507, "store_full")
    assert house.http.post("/sessions", json={}).status_code == 507
    assert house.position(idle) == FIRST + 300
    assert len(house.http.get(f"/sessions/{idle}/text").json()["text"]) == FIRST + 300
    assert house.http.delete(f"/sessions/{other}").status_code == 204
    time.sleep(1.5)  # more than a heartbeat: it still serves requests without a session
    assert house.is_ready

    house.store.client.config_set("maxmemory", 0)
    last = house.turn(idle, 300, "")
    last.rest()
    assert tokens_of(last) == truth[300:600]
    more = house.follow(resumed, streams[0].last_id)
    more.rest()
    assert tokens_of(streams[0], more) == truth[:20_000]
    position = house.position(followed)
    new_turn = house.turn(followed, 300, "")
    new_turn.rest()
    assert tokens_of(new_turn) == truth[position - FIRST : position - FIRST + 300]


def start_over(home, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        env=environment(home, free_port(), CAROUSEL_REDIS_URL=url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_store_that_evicts_keys_stops_the_start(house, home):
    house.store.client.config_set("maxmemory-policy", "allkeys-lru")
    done = start_over(home, f"redis://127.0.0.1:{house.store.port}")
    assert done.returncode == 2
    assert "maxmemory-policy is allkeys-lru" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_store_that_begins_to_evict_keys_is_not_used(house):
    session = house.session()
    house.store.client.config_set("maxmemory-policy", "allkeys-lru")
    house.proxy.reset()
    refused = house.ask(session, 9)
    assert (refused.status_code, refused.json()["error_type"]) == (503, "store_unavailable")
    until(lambda: not house.is_ready)


def test_a_replica_is_neither_written_nor_read(house, truth):
    session = house.session()
    assert house.ask(session, 300).status_code == 200
    house.store.client.replicaof("127.0.0.1", str(free_port()))
    paths = ["", "/text", "/events", "/state"]
    with ThreadPoolExecutor() as pool:
        urls = [f"/sessions/{session}{path}" for path in paths]
        replies = [*pool.map(house.http.get, urls), house.ask(session, 9, "")]
    for reply in replies:
        assert (reply.status_code, reply.json()["error_type"]) == (503, "store_unavailable")
    until(lambda: not house.is_ready)
    house.store.client.replicaof("NO", "ONE")
    until(lambda: house.is_ready)
    stream = house.turn(session, 300, "")
    stream.rest()
    assert tokens_of(stream) == truth[300:600]


def test_a_store_that_loads_has_lost_nothing(house, truth):
    session = house.session()
    assert house.ask(session, 300).status_code == 200
    with house.store.client.pipeline(transaction=False) as filler:
        for _ in range(10_000):  # it answers every 1,024 while it loads
            filler.incr("filler")
        filler.execute()
    house.store.kill()
    house.store.launch(key_load_delay="300")

    def is_loading() -> bool:
        with contextlib.suppress(redis.BusyLoadingError, redis.ConnectionError):
            return bool(house.store.client.info("persistence")["loading"])
        return False

    until(is_loading)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(house.http.get, f"/sessions/{session}")
        replies = [house.ask(session, 9, ""), read.result()]
    assert is_loading()
    for reply in replies:
        assert (reply.status_code, reply.json()["error_type"]) == (503, "store_unavailable")
        assert "loading" in reply.json()["error"]
    until(lambda: not house.is_ready)
    house.store.client.config_set("key-load-delay", 0)
    until(lambda: house.is_ready)
    stream = house.turn(session, 300, "")
    stream.rest()
    assert tokens_of(stream) == truth[300:600]


def test_a_store_that_lost_its_last_writes_continues_and_reports_it(house, truth):
    """As after a power loss: the server has later tokens cached, and does not use them."""
    session = house.session()
    assert house.ask(session, 300).status_code == 200
    end = house.store.client.info("persistence")["aof_current_size"]
    lost = house.turn(session, 300, "")
    lost.rest()
    end = house.store.client.info("persistence")["aof_current_size"] - end
    house.store.kill()
    house.store.lose_the_end(end)
    house.store.start()
    until(lambda: house.is_ready)
    assert house.position(session) == FIRST + 300
    assert house.follow(session, lost.last_id).status == 412
    stream = house.turn(session, 300, "")
    stream.rest()
    assert tokens_of(stream) == truth[300:600]
    assert stream.last_id > lost.last_id  # in the next epoch, so that no id is used twice


def test_a_running_turn_whose_store_lost_its_last_writes_stops(house, truth):
    session = house.session()
    stream = house.turn(session, 20_000)
    stream.take(500)
    house.store.kill()
    house.store.lose_the_end(600)
    house.store.start()
    stream.rest()
    assert stream.error["error_type"] == "position_mismatch"
    assert tokens_of(stream) == truth[: len(tokens_of(stream))]
    position = house.position(session)
    assert position < FIRST + len(tokens_of(stream))
    more = house.turn(session, 300, "")
    more.rest()
    assert tokens_of(more) == truth[position - FIRST : position - FIRST + 300]


def test_sessions_of_an_emptied_store_are_reported_as_lost(house):
    idle, running = house.session(), house.session()
    house.session(session_id="named")
    assert house.ask(idle, 300).status_code == 200
    stream = house.turn(running, 20_000)
    stream.take(500)
    house.store.client.flushall()
    stream.rest()
    assert stream.error["error_type"] == "session_lost"
    for session in (idle, running):
        assert house.ask(session, 9, "").status_code == 410
        for path in ("", "/text", "/events", "/state"):
            assert house.http.get(f"/sessions/{session}{path}").status_code == 410
        assert house.http.delete(f"/sessions/{session}").status_code == 410
    for stranger in ("named", "never-was"):
        assert house.ask(stranger, 9).status_code == 404
        assert house.http.get(f"/sessions/{stranger}").status_code == 404
    assert not house.store.client.keys("carousel:session:*")
    assert house.ask(house.session(), 9).status_code == 200


def outdate_cache(house, session) -> None:
    """Change the record as another process does, so that the cached state is outdated."""
    house.store.client.hset(f"carousel:session:/{session}", "stamp", "other")


DAMAGES = {
    "cut": lambda state: state[: len(state) // 2],
    "flipped": lambda state: state[:-9] + bytes([state[-9] ^ 1]) + state[-8:],
    "garbage": lambda _: b"\0" * 99,
    "emptied": lambda _: b"",
}


@pytest.mark.parametrize(
    ("damage", "kinds"), [*((damage, ["state"]) for damage in DAMAGES), ("cut", ["state", "mark"])]
)
def test_a_damaged_state_is_computed_again_from_the_log(house, truth, damage, kinds):
    session = house.session()
    assert house.ask(session, 40_000 if "mark" in kinds else 300).status_code == 200
    before = house.position(session) - FIRST
    client, n_damaged = house.store.client, 0
    for kind in kinds:
        for name in client.keys(f"carousel:{kind}:*"):
            client.set(name, DAMAGES[damage](client.get(name)))
            n_damaged += 1
    assert n_damaged == len(kinds)
    outdate_cache(house, session)
    stream = house.turn(session, 300, "")
    stream.rest()
    assert tokens_of(stream) == truth[before : before + 300]


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("loss", ["gone", "cut"])
def test_a_lost_log_is_reported_and_not_replaced(house, is_cached, loss):
    session = house.session()
    assert house.ask(session, 300).status_code == 200
    [log] = house.store.client.keys("carousel:log:*")
    if loss == "gone":
        house.store.client.delete(log)
    else:
        house.store.client.set(log, house.store.client.getrange(log, 0, 99))
    if not is_cached:
        outdate_cache(house, session)
    for _ in range(2):
        reply = house.ask(session, 9, "")
        assert (reply.status_code, reply.json()["error_type"]) == (410, "session_lost")
    assert house.position(session) == FIRST + 300
    assert house.http.get(f"/sessions/{session}/text").status_code == 410
    assert house.http.delete(f"/sessions/{session}").status_code == 204
    assert house.ask(house.session(), 9).status_code == 200


def test_a_running_turn_whose_log_is_deleted_ends(house, truth):
    session = house.session()
    stream = house.turn(session, 20_000)
    stream.take(500)
    [log] = house.store.client.keys("carousel:log:*")
    house.store.client.delete(log)
    stream.rest()
    assert stream.error["error_type"] == "session_lost"
    assert tokens_of(stream) == truth[: len(tokens_of(stream))]
    assert house.ask(session, 9, "").status_code == 410
    assert house.store.client.ttl(log) > 0


def test_a_state_ahead_of_the_log_is_not_used(house, truth):
    """The engine would get an empty prompt."""
    short, long = house.session(), house.session()
    assert house.ask(short, 300).status_code == 200
    [state] = house.store.client.keys("carousel:state:*")
    assert house.ask(long, 600).status_code == 200
    [other] = set(house.store.client.keys("carousel:state:*")) - {state}
    house.store.client.set(state, house.store.client.get(other))
    outdate_cache(house, short)
    stream = house.turn(short, 300, "")
    stream.rest()
    assert tokens_of(stream) == truth[300:600]


def test_a_server_does_not_take_over_its_own_turn(house, truth):
    """A restarted store has no heartbeat until the next one."""
    session = house.session()
    asleep = house.turn(session, 45_000, receive_bytes=4_096)
    asleep.take(10)
    position = wait_until_still(house, session)
    follower = house.follow(session, f"0.1.{position - 2}")
    follower.take(1)  # a token is sent when it is known whether it is the last
    [process] = house.store.client.keys("carousel:process:*")
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        house.store.client.delete(process)
    asleep.rest()
    assert tokens_of(asleep) == truth[:45_000]
    follower.rest()
    assert tokens_of(follower) == truth[position - 2 - FIRST :]
