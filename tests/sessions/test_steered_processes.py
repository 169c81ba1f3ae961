"""A steered turn over HTTP: whole and streamed, killed and taken over, forked and moved."""

import json
import os
import signal
from collections.abc import Iterator

import httpx2
import pytest

from tests.sessions.test_continuity import Place

STEER = [{"cell": 445, "op": "set", "value": -0.7}]  # the cell that knows of parentheses
LONG = 4_000
"""Tokens of a turn that is not over when its first ones have been read."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("one"), "valkey")
    yield made
    made.close()


def post(place: Place, path: str, **body) -> dict:
    with place.http as http:
        return http.post(path, json=body).raise_for_status().json()


def look(place: Place, session: str) -> dict:
    with place.http as http:
        return http.get(f"/sessions/{session}").raise_for_status().json()


def export(place: Place, session: str) -> bytes:
    with place.http as http:
        return http.get(f"/sessions/{session}/state").raise_for_status().content


def make(place: Place) -> str:
    return post(place, "/sessions", text="The following ", seed=1234)["id"]


def fork(place: Place, session: str, at: int | None = None) -> str:
    body = {"seeds": "same"} | ({} if at is None else {"at": at})
    return post(place, f"/sessions/{session}/fork", **body)["sessions"][0]["id"]


def turn_body(session: str, n: int, steer: list | None, text: str = "") -> dict:
    parameters = {"max_new_tokens": n, "temperature": 0.9, "details": True}
    if steer:
        parameters["steer"] = steer
    return {
        "inputs": text,
        "session_id": session,
        "on_disconnect": "continue",
        "parameters": parameters,
    }


def say(place: Place, session: str, n: int, steer: list | None = None, text: str = "") -> list:
    details = post(place, "/generate", **turn_body(session, n, steer, text))["details"]
    assert ("steer" in details) is bool(steer)
    return [(one["id"], one["logprob"]) for one in details["tokens"]]


def events_of(reply: httpx2.Response) -> Iterator[tuple[str, dict]]:
    last = ""
    for line in reply.iter_lines():
        if line.startswith("id:"):
            last = line[3:].strip()
        elif line.startswith("data:"):
            yield last, json.loads(line[5:])


def pair(event: dict) -> tuple[int, float]:
    return event["token"]["id"], event["token"]["logprob"]


def test_a_turn_that_is_streamed_is_the_whole_one(place):
    session = make(place)
    say(place, session, 20)
    other = fork(place, session)
    whole = say(place, session, 50, STEER, "It has (")
    body = turn_body(other, 50, STEER, "It has (")
    with place.http as http, http.stream("POST", "/generate_stream", json=body) as reply:
        events = [event for _, event in events_of(reply)]
    assert [pair(event) for event in events] == whole
    assert events[-1]["details"]["steer"]["cells"][0]["cell"] == 445
    assert look(place, session)["steered"] is True
    assert export(place, session) == export(place, other)


def test_a_server_killed_in_a_steered_turn_goes_on_bit_for_bit(place):
    session = make(place)
    say(place, session, 40, STEER)
    other = fork(place, session)
    body = turn_body(session, LONG, STEER)
    seen, last = [], ""
    with place.http as http, http.stream("POST", "/generate_stream", json=body) as reply:
        for event_id, event in events_of(reply):
            seen.append(pair(event))
            last = event_id
            if len(seen) == 20:
                break
        os.kill(place.server.process.pid, signal.SIGKILL)
    place.server.process.wait()
    place.server = place._serve()
    stored = look(place, session)["position"]
    n = 14 + 40 + LONG
    assert 14 + 40 + 20 <= stored <= n  # at n, on a machine that let this process wait, it was over
    url = f"/sessions/{session}/events"
    with place.http as http, http.stream("GET", url, params={"after": last}) as reply:
        end = {}
        for _, end in events_of(reply):
            seen.append(pair(end))
    assert end["details"]["steer"]["cells"][0]["cell"] == 445
    assert look(place, session)["position"] == n
    with place.http as http:
        whole_body = turn_body(other, LONG, STEER)
        with http.stream("POST", "/generate_stream", json=whole_body) as reply:
            whole = [pair(event) for _, event in events_of(reply)]
    assert seen == whole
    assert say(place, session, 30) == say(place, other, 30)
    assert export(place, session) == export(place, other)


def test_forks_rewinds_and_imports_go_on_as_the_session(place):
    session = make(place)
    say(place, session, 30)
    say(place, session, 30, STEER)
    with place.http as http:
        content = {"content-type": "application/octet-stream"}
        moved = http.post("/sessions/import", content=export(place, session), headers=content)
        imported = moved.raise_for_status().json()
    assert imported["steered"]
    child = fork(place, session)
    next_ = say(place, session, 20)
    assert say(place, child, 20) == say(place, imported["id"], 20) == next_
    inside, before = fork(place, session, 60), fork(place, session, 44)
    assert look(place, inside)["steered"]
    assert not look(place, before)["steered"]
    rewound = post(place, f"/sessions/{session}/rewind", to=60)
    assert rewound["steered"]
    assert export(place, session) == export(place, inside)
    assert say(place, session, 20) == say(place, inside, 20)
    assert not post(place, f"/sessions/{session}/rewind", to=44)["steered"]
    assert export(place, session) == export(place, before)


def test_a_turn_may_not_steer_what_the_session_has_read(place):
    session = make(place)
    body = turn_body(session, 5, [STEER[0] | {"from": 3}], "and")
    with place.http as http:
        reply = http.post("/generate", json=body)
        assert reply.status_code == 422
        assert "the first token that can be steered is 13" in reply.text
        say(place, session, 5, [STEER[0] | {"from": 13}], "and")
        body = {"prompt": "a", "session_id": session, "max_tokens": 5, "steer": STEER}
        told = http.post("/v1/completions", json=body).raise_for_status().json()
    assert told["steer"]["cells"][0]["cell"] == 445


def test_a_retried_steered_turn_is_replayed(place):
    session = make(place)
    body, key = turn_body(session, 40, STEER), {"idempotency-key": "once"}
    with place.http as http:
        first = http.post("/generate", json=body, headers=key).raise_for_status().json()
        again = http.post("/generate", json=body, headers=key).raise_for_status().json()
    assert again["details"]["tokens"] == first["details"]["tokens"]
    assert again["details"]["steer"] == first["details"]["steer"]


def test_a_score_after_a_steered_text_does_not_depend_on_the_snapshot(place):
    session = make(place)
    say(place, session, 60, STEER)
    at = look(place, session)["position"]
    from_snapshot = post(place, "/score", inputs=" (so)", session_id=session)
    say(place, session, 5, STEER)
    child = fork(place, session, at)  # its state is computed from the log
    assert post(place, "/score", inputs=" (so)", session_id=child) == from_snapshot
