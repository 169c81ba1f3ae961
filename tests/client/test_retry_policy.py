"""Requests that are sent again, and those that are not, against a scripted server."""

import json
import socket
import time

import pytest

from carousel_client import (
    BadRequest,
    CarouselClientError,
    Client,
    Conflict,
    GenerationFailed,
    InsufficientStorage,
    Invalid,
    NotFound,
    Overloaded,
    StatusError,
    StreamBroken,
    Unavailable,
    UnexpectedResponse,
    Unreachable,
)
from carousel_client.errors import error_from_event, error_from_response
from carousel_client.request import Request
from carousel_client.retry_policy import RetryPolicy
from service.api.errors import STATUSES
from tests.client.scripted_server import Answer, error_response, stream
from tests.process import free_port

NO_RESPONSE = Answer(0)
COMPLETION = Answer(200, b'{"generated_text": "abc"}')
STATE = Answer(
    201,
    json.dumps(
        {
            "id": "s",
            "model": "m@1",
            "digest": "d",
            "position": 1,
            "turn": 0,
            "seed": 1,
            "state_bytes": None,
            "created_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T00:00:00Z",
            "unknown": "a member of a newer server",
        }
    ).encode(),
)


def event(text: str, position: int = 0, end: str | None = None) -> str:
    data = {
        "token": {"id": 1, "text": text, "logprob": -1.0, "special": False},
        "generated_text": end,
        "details": end and {"finish_reason": "length", "generated_tokens": 2, "seed": 1},
    }
    name = f"id: 0.1.{position}\n" if position else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}"


def error(error_type: str) -> str:
    return f'data: {{"error": "what is wrong", "error_type": "{error_type}", "resume": "0.1.9"}}'


def turn(to):
    return to.generate("a", session_id="s")


TRANSIENT = [
    error_response(429, "overloaded", "0"),
    error_response(429, "rate_limited", "0"),
    error_response(503, "model_not_ready", "0"),
    error_response(503, "draining", "0"),
    error_response(503, "store_unavailable", "0"),
    error_response(503, "store_unavailable"),
    error_response(409, "session_busy", "0"),
    NO_RESPONSE,
]


def test_transient_errors_are_retried_with_the_same_key(kind, script):
    script.answers = [*TRANSIENT, COMPLETION]
    assert kind.call(script.url, turn).text == "abc"
    assert script.lines == ["POST /generate"] * (len(TRANSIENT) + 1)
    assert len(set(script.keys)) == 1
    assert len(script.keys[0]) == 32
    assert len({body for _, _, body in script.requests}) == 1


FINAL = [
    (400, "bad_request", BadRequest),
    (404, "session_not_found", NotFound),
    (409, "state_model_mismatch", Conflict),
    (422, "key_reused", Invalid),
    (507, "store_full", InsufficientStorage),
    (500, "internal", StatusError),
]


@pytest.mark.parametrize(("kind_of_error", "status"), STATUSES.items())
def test_an_error_event_has_the_status_of_its_code(kind_of_error, status):
    """A stream's response began with 200, so the client has the table of the server."""
    body = {"error": "what is wrong", "error_type": kind_of_error.code}
    assert error_from_event(body, None).status == status


@pytest.mark.parametrize(("status", "error_type", "family"), FINAL)
def test_final_errors_are_raised_at_once(kind, script, status, error_type, family):
    script.answers = [error_response(status, error_type, "0")]
    with pytest.raises(family) as caught:
        kind.call(script.url, turn)
    raised = caught.value
    assert type(raised) is family
    assert (raised.status, raised.error_type, raised.message) == (
        status,
        error_type,
        "what is wrong",
    )
    assert (raised.request_id, raised.retry_after_s) == ("r-1", 0.0)
    assert str(raised) == f"what is wrong ({status} {error_type})"
    assert len(script.requests) == 1


def test_a_retry_after_beyond_the_deadline_raises_the_error_at_once(kind, script):
    script.answers = [error_response(429, "overloaded", "30")]
    began_s = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        kind.call(script.url, turn, timeout_s=5)
    assert caught.value.retry_after_s == 30
    assert time.monotonic() - began_s < 3


def test_retry_after_is_respected(kind, script):
    script.answers = [error_response(429, "overloaded", "1"), COMPLETION]
    began_s = time.monotonic()
    kind.call(script.url, turn)
    assert time.monotonic() - began_s >= 1


def test_no_server_at_the_address(kind):
    began_s = time.monotonic()
    with pytest.raises(Unreachable, match=r"no reply within 0\.5 s"):
        kind.call(f"http://127.0.0.1:{free_port()}", turn, timeout_s=0.5)
    assert time.monotonic() - began_s < 5
    assert kind.call(f"http://127.0.0.1:{free_port()}", lambda to: to.is_ready()) is False


def test_a_server_that_sends_nothing_is_unreachable(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for ask in (turn, lambda to: to.sessions.get("s")):
            with pytest.raises(Unreachable):
                kind.call(url, ask, timeout_s=0.3)
        with pytest.raises(Unreachable):
            kind.stream(url, session_id="s", timeout_s=0.3)


# A repetition might have a second effect, or undo another client's turn.
@pytest.mark.parametrize(
    "ask",
    [
        lambda to: to.sessions.rewind("s", 1),
        lambda to: to.sessions.create(session_id="mine"),
        lambda to: to.models.import_("file", "name"),
    ],
)
def test_requests_that_may_not_be_repeated_are_not(kind, script, ask):
    script.answers = [NO_RESPONSE]
    with pytest.raises(Unreachable, match="is not known"):
        kind.call(script.url, ask)
    script.answers = [error_response(503, "store_unavailable", "0")]
    with pytest.raises(Unavailable):
        kind.call(script.url, ask)
    assert len(script.requests) == 2
    script.answers = [error_response(503, "draining", "0"), error_response(404, "model_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, ask)
    assert len(script.requests) == 4


def test_a_creation_without_an_id_is_repeated(kind, script):
    script.answers = [NO_RESPONSE, STATE]
    assert kind.call(script.url, lambda to: to.sessions.create()).id == "s"


def test_a_repeated_deletion_that_finds_nothing_succeeds(kind, script):
    def delete(to):
        return to.sessions.delete("s")

    script.answers = [NO_RESPONSE, error_response(410, "session_lost")]
    kind.call(script.url, delete)
    script.answers = [error_response(404, "session_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, delete)
    script.answers = [
        error_response(503, "draining", "0"),
        error_response(404, "session_not_found"),
    ]
    with pytest.raises(NotFound):
        kind.call(script.url, delete)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"generated_text": "a", "details": 3}']
)
def test_a_response_of_another_server_is_unexpected(kind, script, body):
    script.answers = [Answer(200, body)]
    with pytest.raises(UnexpectedResponse):
        kind.call(script.url, turn)


def test_a_long_text_is_read_in_pages(kind, script):
    pages = [{"text": "a" * 1_000_000, "position": 1_000_007}, {"text": "b", "position": 1_000_008}]
    script.answers = [Answer(200, json.dumps(page).encode()) for page in pages]
    text = kind.call(script.url, lambda to: to.sessions.text("s", 7))
    assert text == "a" * 1_000_000 + "b"
    assert script.lines == [f"GET /sessions/s/text?from={first}" for first in (7, 1_000_007)]


def test_an_error_of_a_proxy(kind, script):
    script.answers = [Answer(502, b"<html>Bad gateway</html>")]
    with pytest.raises(StatusError) as caught:
        kind.call(script.url, turn)
    assert (caught.value.status, caught.value.error_type) == (502, "unknown")
    assert "Bad gateway" in str(caught.value)
    assert error_from_response(503, {"retry-after": "Fri, 31 Dec 1999"}, b"").retry_after_s is None


# -- streams


@pytest.mark.parametrize("error_type", ["draining", "store_unavailable", "session_busy"])
def test_a_session_resumes_after_a_transient_error(kind, script, error_type):
    script.answers = [
        stream(event("a", 8), event("b", 9), error(error_type)),
        error_response(503, "model_not_ready", "0"),
        NO_RESPONSE,
        stream(event("c", 10, end="abc")),
    ]
    received = kind.stream(script.url, session_id="s")
    assert (received.text, received.result.text) == ("abc", "abc")
    assert script.lines == ["POST /generate_stream"] + ["GET /sessions/s/events"] * 3
    assert [headers.get("last-event-id") for _, headers, _ in script.requests] == [
        None,
        *["0.1.9"] * 3,
    ]


def test_a_transient_error_as_first_event_repeats_the_request(kind, script):
    script.answers = [stream(error("draining")), stream(event("a", 9, end="a"))]
    assert kind.stream(script.url, session_id="s").text == "a"
    assert len(set(script.keys)) == 1


def test_a_final_error_ends_a_stream_after_its_text(kind, script):
    for session_id in ("s", None):
        script.answers = [stream(event("a", 8), event("b", 9), error("generation"))]
        with pytest.raises(GenerationFailed) as caught:
            kind.stream(script.url, session_id=session_id)
        assert (caught.value.text, caught.value.status) == ("ab", 424)


def test_a_stream_without_a_session_is_not_resumed(kind, script):
    script.answers = [stream(event("a"), event("b"), error("draining"))]
    with pytest.raises(Unavailable) as caught:
        kind.stream(script.url)
    assert caught.value.text == "ab"
    script.answers = [stream(event("a"))]
    with pytest.raises(StreamBroken) as broken:
        kind.stream(script.url)
    assert broken.value.text == "a"


def test_every_token_of_a_chunk_is_yielded_before_the_error_after_it(script):
    script.answers = [stream(event("a"), event("b"), error("generation"))]
    with Client(script.url) as client, client.stream("x") as received:
        assert next(received).text == "a"
        assert next(received).text == "b"
        with pytest.raises(GenerationFailed):
            next(received)


def test_a_repeated_event_is_yielded_once(kind, script):
    script.answers = [
        stream(event("a", 8), event("b", 9)),
        stream(event("a", 8), event("b", 9), event("c", 10, end="abc")),
    ]
    received = kind.stream(script.url, session_id="s")
    assert [token.text for token in received.tokens] == ["a", "b", "c"]


def test_a_turn_that_failed_after_its_last_token_raises_its_error(kind, script):
    """The events are complete without the error; the turn's first request is answered with it."""
    script.answers = [
        stream(event("a", 8), event("b", 9)),
        Answer(204),
        stream(event("a", 8), event("b", 9), error("generation")),
    ]
    with pytest.raises(GenerationFailed) as caught:
        kind.stream(script.url, session_id="s")
    assert caught.value.text == "ab"
    assert script.lines[-1] == "POST /generate_stream"
    assert script.keys[-1] == script.keys[0]


def test_the_events_of_another_turn_are_an_error(kind, script):
    script.answers = [stream(event("a", 8)), stream(event("c", 10).replace("0.1.", "0.2."))]
    with pytest.raises(
        CarouselClientError, match=r"turn 0\.1; the session's last is 0\.2"
    ) as caught:
        kind.stream(script.url, session_id="s")
    assert caught.value.text == "a"


def test_a_utf8_stream_that_breaks_within_a_character(kind, script):
    """Carousel sends ASCII; a proxy may encode the events again."""
    whole = stream(event("é", 8), event("中", 9)).body
    for place in range(whole.index("中".encode()), whole.index("中".encode()) + 3):
        script.answers = [
            Answer(200, whole[:place], {"Content-Type": "text/event-stream"}),
            stream(event("中", 9), event("😀", 10, end="é中😀")),
        ]
        assert kind.stream(script.url, session_id="s").text == "é中😀"


@pytest.mark.parametrize("data", ["3", "{}", "nonsense", "[1]", '{"token": {}}'])
def test_an_event_of_another_server_is_unexpected(kind, script, data):
    script.answers = [stream(event("a", 8), f"data: {data}")]
    with pytest.raises(UnexpectedResponse) as caught:
        kind.stream(script.url, session_id="s")
    assert caught.value.text == "a"
    script.answers = [Answer(200, b"<html>", {"Content-Type": "text/html"})]
    with pytest.raises(UnexpectedResponse, match="not a stream"):
        kind.stream(script.url, session_id="s")


def test_a_stream_without_progress_is_unreachable(kind, script):
    script.answers = [stream(event("a", 8)), *[stream()] * 99]
    with pytest.raises(Unreachable, match="no reply within 1 s") as caught:
        kind.stream(script.url, session_id="s", timeout_s=1)
    assert caught.value.text == "a"
    assert 3 <= len(script.requests) < 12


# -- the policy by itself


def test_a_pause_of_the_reader_does_not_count(script):
    script.answers = [stream(event("a", 8)), stream(event("b", 9, end="ab"))]
    with Client(script.url, timeout_s=2) as client, client.stream("", session_id="s") as received:
        next(received)
        time.sleep(2.1)
        assert next(received).text == "b"


def test_delays_grow_and_have_jitter():
    policy, request = RetryPolicy(1_000.0), Request("GET", "/")
    waits = [policy.delay_after_disconnect(request, OSError()) for _ in range(9)]
    assert len(set(waits)) == 9
    for i, wait in enumerate(waits):
        least = min(2.0, 0.05 * 2**i)
        assert least <= wait <= 1.5 * least


def test_no_delay_exceeds_the_deadline():
    now, request = 0.0, Request("GET", "/")
    policy = RetryPolicy(10.0, clock=lambda: now)
    for _ in range(5):
        now += policy.delay_after_disconnect(request, OSError())
    now = 9.5
    with pytest.raises(Unreachable):
        policy.delay_after_disconnect(request, OSError())
    policy.reset()
    assert policy.delay_after_disconnect(request, OSError()) < 0.1


LONG_CALLS = {
    "cells": lambda to, **more: to.inspection.cells("text", ["column"], **more),
    "corpus": lambda to, **more: to.corpora.upload("text", "name", **more),
    "upload": lambda to, **more: to.files.upload("{}", "name", **more),
    "content": lambda to, **more: to.files.content("file-1", **more),
}


@pytest.mark.parametrize("name", LONG_CALLS)
def test_the_time_of_a_call_is_obeyed(script, kind, name):
    """A wait that the time of the call has no room for is not begun, and nothing is sent again."""
    script.answers += [error_response(503, "draining", "3"), error_response(404, "not_found")]
    with pytest.raises(Unavailable):
        kind.call(script.url, lambda to: LONG_CALLS[name](to, timeout_s=2.0))
    assert len(script.requests) == 1


@pytest.mark.parametrize("name", LONG_CALLS)
def test_a_call_that_may_take_minutes_is_sent_again_after_the_time_of_the_client(
    script, kind, name
):
    script.answers += [error_response(503, "draining", "0.01"), error_response(404, "not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, LONG_CALLS[name], timeout_s=0.001)
    assert len(script.requests) == 2
