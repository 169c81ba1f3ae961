"""Sessions whose clients race, retry, disconnect or stall."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from tests.faults.client import tokens_of
from tests.faults.conftest import FIRST, INPUTS, until, wait_until_still

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("n_clients", [2, 10, 50])
def test_of_clients_that_continue_one_session_at_once_one_succeeds(house, n_clients):
    session = house.session(text=INPUTS)
    body = house.body(session, 300, "Go. ", expected_position=FIRST)

    def ask(_) -> httpx2.Response:
        return httpx2.post(f"{house.server.url}/generate", json=body, timeout=30)

    with ThreadPoolExecutor(n_clients) as pool:
        replies = list(pool.map(ask, range(n_clients)))
    statuses = [reply.status_code for reply in replies]
    assert statuses.count(200) == 1, [reply.text for reply in replies]
    assert set(statuses) <= {200, 409, 412}
    codes = {reply.json().get("error_type") for reply in replies if reply.status_code == 409}
    assert codes <= {"session_busy"}
    [winner] = [reply.json() for reply in replies if reply.status_code == 200]
    text = house.http.get(f"/sessions/{session}/text").json()
    assert text["text"] == INPUTS + "Go. " + winner["generated_text"]
    assert house.http.get(f"/sessions/{session}").json()["turn"] == 1


def test_repeated_requests_with_one_idempotency_key_are_one_turn(house, truth):
    session = house.session()
    body, headers = house.body(session, 3_000), {"Idempotency-Key": "once"}

    def ask(route: str) -> httpx2.Response:
        return httpx2.post(house.server.url + route, json=body, headers=headers, timeout=30)

    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(ask, ["/generate"] * 20))
        streams = list(pool.map(ask, ["/generate_stream"] * 3))
    replies.append(ask("/generate"))
    assert {reply.status_code for reply in (*replies, *streams)} == {200}
    assert len({reply.text for reply in replies}) == 1
    assert len({reply.text for reply in streams}) == 1
    assert house.position(session) == FIRST + 3_000
    again = house.turn(session, 3_000, key="once")
    again.rest()
    assert tokens_of(again) == truth[:3_000]
    other = house.turn(session, 3_001, key="once")
    assert other.status == 422
    assert house.http.get(f"/sessions/{session}").json()["turn"] == 1


def test_a_disconnect_ends_a_turn_after_the_tokens_that_were_sent(house, truth):
    session = house.session()
    stream = house.turn(session, 1_000_000)
    stream.take(300)
    assert house.running == 1
    stream.close()
    left_s = time.monotonic()
    until(lambda: house.running == 0)
    assert time.monotonic() - left_s < 3
    until(lambda: house.ask(session, 1, "").status_code == 200)
    position = house.position(session) - FIRST
    assert position > 300
    on = house.turn(session, 300, "")
    on.rest()
    assert tokens_of(on) == truth[position : position + 300]


def test_a_turn_ended_by_a_disconnect_has_no_more_events(house):
    """A browser reconnects until it gets 204."""
    session = house.session()
    stream = house.turn(session, 1_000_000)
    stream.take(300)
    stream.close()
    until(lambda: house.running == 0)
    until(lambda: house.follow(session, f"0.1.{house.position(session)}").status == 204)


def test_a_retry_continues_after_the_first_request_disconnects(house, truth):
    session = house.session()
    first = house.turn(session, 20_000, key="k")
    first.take(300)
    second = house.turn(session, 20_000, key="k")
    second.take(10)
    first.close()
    second.rest()
    assert second.error is None
    assert tokens_of(second) == truth[:20_000]


def test_a_turn_ends_when_its_last_reader_disconnects(house):
    session = house.session()
    streams = [house.turn(session, 1_000_000, key="k") for _ in range(2)]
    for stream in streams:
        stream.take(10)
    for stream in streams:
        stream.close()
    until(lambda: house.running == 0)
    assert house.position(session) < 500_000


def test_a_retry_of_a_whole_reply_ends_with_its_client(house):
    session = house.session()
    body, headers = house.body(session, 100_000), {"Idempotency-Key": "k"}
    assert house.http.post("/generate", json=body, headers=headers).status_code == 200
    for _ in range(2):
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{house.server.url}/generate", json=body, headers=headers, timeout=0.3)
    until(lambda: house.running == 0, 2.0)


def test_a_prompt_that_is_shown_is_not_kept_twice(house):
    session, inputs = house.session(), "A long prompt. " * 1_000
    body = house.body(session, 9, inputs)
    body["parameters"]["return_full_text"] = True
    headers = {"Idempotency-Key": "k"}
    replies = [house.http.post("/generate", json=body, headers=headers) for _ in range(2)]
    assert replies[0].json()["generated_text"].startswith(inputs)
    assert replies[0].json() == replies[1].json()
    client = house.store.client
    assert max(client.strlen(name) for name in client.keys("carousel:request:*")) < 200


def test_a_turn_with_continue_survives_a_disconnect(house, truth):
    session = house.session()
    stream = house.turn(session, 20_000, on_disconnect="continue")
    stream.take(300)
    stream.close()
    until(lambda: house.position(session) == FIRST + 20_000)
    until(lambda: house.running == 0)
    more = house.follow(session, stream.last_id)
    more.rest()
    assert tokens_of(stream, more) == truth[:20_000]


def test_a_follower_that_disconnects_changes_nothing(house, truth):
    session = house.session()
    stream = house.turn(session, 20_000)
    stream.take(300)
    for _ in range(5):
        follower = house.follow(session, stream.last_id)
        follower.take(100)
        assert tokens_of(follower) == truth[300:400]
        follower.close()
    stream.rest()
    assert tokens_of(stream) == truth[:20_000]


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue"])
def test_a_stalled_reader_does_not_affect_others(house, truth, on_disconnect):
    session = house.session()
    still = house.turn(session, 1_000_000, receive_bytes=4_096, on_disconnect=on_disconnect)
    assert still.status == 200
    before = wait_until_still(house, session)
    process = psutil.Process(house.server.process.pid)
    memory = process.memory_info().rss
    other = house.turn(house.session(), 40_000)
    other.rest()
    assert other.error is None
    assert tokens_of(other) == truth[:40_000]
    assert house.position(session) == before  # it waits for its reader
    assert process.memory_info().rss - memory < 32 * 1024 * 1024
    still.take(2_000)
    assert tokens_of(still) == truth[:2_000]
    assert house.http.delete(f"/sessions/{session}").status_code == 204
