"""What is sent again, and what is not: against a server that answers what is written down."""

import json
import socket
import time

import pytest

from service.client import (
    BadRequest,
    CarouselError,
    Client,
    Conflict,
    GenerationFailed,
    Invalid,
    NoRoom,
    NotFound,
    Overloaded,
    Refused,
    StreamBroken,
    Unavailable,
    UnknownReply,
    Unreachable,
)
from service.client.attempts import Attempts
from service.client.calls import Request
from service.client.errors import refusal_of_reply
from tests.client.script import Answer, refusal, stream
from tests.process import free_port

LOST = Answer(0)
SAID = Answer(200, b'{"generated_text": "abc"}')
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
            "what": "a newer server says",
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


PASSING = [
    refusal(429, "overloaded", "0"),
    refusal(429, "rate_limited", "0"),
    refusal(503, "model_not_ready", "0"),
    refusal(503, "draining", "0"),
    refusal(503, "store_unavailable", "0"),
    refusal(503, "store_unavailable"),
    refusal(409, "session_busy", "0"),
    LOST,
]


def test_what_passes_is_asked_again_with_the_same_key(kind, script):
    script.answers = [*PASSING, SAID]
    assert kind.call(script.url, turn).text == "abc"
    assert script.lines == ["POST /generate"] * (len(PASSING) + 1)
    assert len(set(script.keys)) == 1
    assert len(script.keys[0]) == 32
    assert len({body for _, _, body in script.asked}) == 1


FINAL = [
    (400, "bad_request", BadRequest),
    (404, "session_not_found", NotFound),
    (409, "state_model_mismatch", Conflict),
    (422, "key_reused", Invalid),
    (507, "store_full", NoRoom),
    (500, "internal", Refused),
]


@pytest.mark.parametrize(("status", "error_type", "family"), FINAL)
def test_what_does_not_pass_is_said_at_once(kind, script, status, error_type, family):
    script.answers = [refusal(status, error_type, "0")]
    with pytest.raises(family) as caught:
        kind.call(script.url, turn)
    told = caught.value
    assert type(told) is family
    assert (told.status, told.error_type, told.message) == (status, error_type, "what is wrong")
    assert (told.request_id, told.retry_after_s) == ("r-1", 0.0)
    assert str(told) == f"what is wrong ({status} {error_type})"
    assert len(script.asked) == 1


def test_a_server_that_asks_for_more_time_than_there_is_has_the_last_word(kind, script):
    script.answers = [refusal(429, "overloaded", "30")]
    began_s = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        kind.call(script.url, turn, timeout_s=5)
    assert caught.value.retry_after_s == 30
    assert time.monotonic() - began_s < 3


def test_retry_after_is_waited_for(kind, script):
    script.answers = [refusal(429, "overloaded", "1"), SAID]
    began_s = time.monotonic()
    kind.call(script.url, turn)
    assert time.monotonic() - began_s >= 1


def test_nobody_there(kind):
    began_s = time.monotonic()
    with pytest.raises(Unreachable, match=r"no reply within 0\.5 s"):
        kind.call(f"http://127.0.0.1:{free_port()}", turn, timeout_s=0.5)
    assert time.monotonic() - began_s < 5
    assert kind.call(f"http://127.0.0.1:{free_port()}", lambda to: to.is_ready()) is False


def test_a_server_that_says_nothing_is_given_up(kind):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for ask in (turn, lambda to: to.sessions.get("s")):
            with pytest.raises(Unreachable):
                kind.call(url, ask, timeout_s=0.3)
        with pytest.raises(Unreachable):
            kind.stream(url, session_id="s", timeout_s=0.3)


# What might be done a second time, or undo what another client has done since.
@pytest.mark.parametrize(
    "ask",
    [
        lambda to: to.sessions.rewind("s", 1),
        lambda to: to.sessions.create(session_id="mine"),
        lambda to: to.models.import_("file", "name"),
    ],
)
def test_what_must_not_be_done_twice_is_not_asked_twice(kind, script, ask):
    script.answers = [LOST]
    with pytest.raises(Unreachable, match="is not known"):
        kind.call(script.url, ask)
    script.answers = [refusal(503, "store_unavailable", "0")]
    with pytest.raises(Unavailable):
        kind.call(script.url, ask)
    assert len(script.asked) == 2
    script.answers = [refusal(503, "draining", "0"), refusal(404, "model_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, ask)
    assert len(script.asked) == 4


def test_a_session_whose_id_nobody_has_asked_for_is(kind, script):
    script.answers = [LOST, STATE]
    assert kind.call(script.url, lambda to: to.sessions.create()).id == "s"


def test_a_deletion_whose_reply_was_lost_finds_nothing_and_that_is_well(kind, script):
    def delete(to):
        return to.sessions.delete("s")

    script.answers = [LOST, refusal(410, "session_lost")]
    kind.call(script.url, delete)
    script.answers = [refusal(404, "session_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, delete)
    script.answers = [refusal(503, "draining", "0"), refusal(404, "session_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, delete)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"generated_text": "a", "details": 3}']
)
def test_what_is_no_reply_of_carousel_is_said_to_be_none(kind, script, body):
    script.answers = [Answer(200, body)]
    with pytest.raises(UnknownReply):
        kind.call(script.url, turn)


def test_a_text_of_more_than_a_page_is_read_page_by_page(kind, script):
    pages = [{"text": "a" * 1_000_000, "position": 1_000_007}, {"text": "b", "position": 1_000_008}]
    script.answers = [Answer(200, json.dumps(page).encode()) for page in pages]
    text = kind.call(script.url, lambda to: to.sessions.text("s", 7))
    assert text == "a" * 1_000_000 + "b"
    assert script.lines == [f"GET /sessions/s/text?from={first}" for first in (7, 1_000_007)]


def test_an_error_of_something_in_between(kind, script):
    script.answers = [Answer(502, b"<html>Bad gateway</html>")]
    with pytest.raises(Refused) as caught:
        kind.call(script.url, turn)
    assert (caught.value.status, caught.value.error_type) == (502, "unknown")
    assert "Bad gateway" in str(caught.value)
    assert refusal_of_reply(503, {"retry-after": "Fri, 31 Dec 1999"}, b"").retry_after_s is None


# -- streams


@pytest.mark.parametrize("error_type", ["draining", "store_unavailable", "session_busy"])
def test_a_session_goes_on_after_an_error_that_passes(kind, script, error_type):
    script.answers = [
        stream(event("a", 8), event("b", 9), error(error_type)),
        refusal(503, "model_not_ready", "0"),
        LOST,
        stream(event("c", 10, end="abc")),
    ]
    said = kind.stream(script.url, session_id="s")
    assert (said.text, said.end.text) == ("abc", "abc")
    assert script.lines == ["POST /generate_stream"] + ["GET /sessions/s/events"] * 3
    assert [headers.get("last-event-id") for _, headers, _ in script.asked] == [
        None,
        *["0.1.9"] * 3,
    ]


def test_a_session_whose_first_event_is_an_error_that_passes_asks_again(kind, script):
    script.answers = [stream(error("draining")), stream(event("a", 9, end="a"))]
    assert kind.stream(script.url, session_id="s").text == "a"
    assert len(set(script.keys)) == 1


def test_an_error_that_does_not_pass_ends_a_stream_after_its_text(kind, script):
    for session_id in ("s", None):
        script.answers = [stream(event("a", 8), event("b", 9), error("generation"))]
        with pytest.raises(GenerationFailed) as caught:
            kind.stream(script.url, session_id=session_id)
        assert (caught.value.text, caught.value.status) == ("ab", 424)


def test_without_a_session_nothing_goes_on(kind, script):
    script.answers = [stream(event("a"), event("b"), error("draining"))]
    with pytest.raises(Unavailable) as caught:
        kind.stream(script.url)
    assert caught.value.text == "ab"
    script.answers = [stream(event("a"))]
    with pytest.raises(StreamBroken) as broken:
        kind.stream(script.url)
    assert broken.value.text == "a"


def test_every_token_of_a_piece_is_given_before_the_error_after_it(script):
    script.answers = [stream(event("a"), event("b"), error("generation"))]
    with Client(script.url) as client, client.stream("x") as said:
        assert next(said).text == "a"
        assert next(said).text == "b"
        with pytest.raises(GenerationFailed):
            next(said)


def test_an_event_that_comes_twice_is_given_once(kind, script):
    script.answers = [
        stream(event("a", 8), event("b", 9)),
        stream(event("a", 8), event("b", 9), event("c", 10, end="abc")),
    ]
    said = kind.stream(script.url, session_id="s")
    assert [token.text for token in said.tokens] == ["a", "b", "c"]


def test_a_turn_that_failed_at_its_last_token_says_so(kind, script):
    """The events have nothing more; the turn's own request tells how it ended."""
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


def test_the_events_of_another_turn_are_nobody_s_continuation(kind, script):
    script.answers = [stream(event("a", 8)), stream(event("c", 10).replace("0.1.", "0.2."))]
    with pytest.raises(CarouselError, match=r"turn 0\.1; the session's last is 0\.2") as caught:
        kind.stream(script.url, session_id="s")
    assert caught.value.text == "a"


def test_a_stream_in_plain_utf8_that_is_cut_within_a_character(kind, script):
    """Carousel writes ASCII; a proxy may write again what it forwards."""
    whole = stream(event("é", 8), event("中", 9)).body
    for place in range(whole.index("中".encode()), whole.index("中".encode()) + 3):
        script.answers = [
            Answer(200, whole[:place], {"Content-Type": "text/event-stream"}),
            stream(event("中", 9), event("😀", 10, end="é中😀")),
        ]
        assert kind.stream(script.url, session_id="s").text == "é中😀"


@pytest.mark.parametrize("data", ["3", "{}", "nonsense", "[1]", '{"token": {}}'])
def test_an_event_of_something_else(kind, script, data):
    script.answers = [stream(event("a", 8), f"data: {data}")]
    with pytest.raises(UnknownReply) as caught:
        kind.stream(script.url, session_id="s")
    assert caught.value.text == "a"
    script.answers = [Answer(200, b"<html>", {"Content-Type": "text/html"})]
    with pytest.raises(UnknownReply, match="not a stream"):
        kind.stream(script.url, session_id="s")


def test_a_session_that_never_says_anything_is_given_up(kind, script):
    script.answers = [stream(event("a", 8)), *[stream()] * 99]
    with pytest.raises(Unreachable, match="no reply within 1 s") as caught:
        kind.stream(script.url, session_id="s", timeout_s=1)
    assert caught.value.text == "a"
    assert 3 <= len(script.asked) < 12


# -- the rule itself


def test_a_reader_who_takes_his_time_has_as_long_to_go_on_as_any(script):
    script.answers = [stream(event("a", 8)), stream(event("b", 9, end="ab"))]
    with Client(script.url, timeout_s=2) as client, client.stream("", session_id="s") as said:
        next(said)
        time.sleep(2.1)
        assert next(said).text == "b"


def test_waits_grow_and_differ():
    attempts, request = Attempts(1_000.0), Request("GET", "/")
    waits = [attempts.after_loss(request, OSError()) for _ in range(9)]
    assert len(set(waits)) == 9
    for i, wait in enumerate(waits):
        least = min(2.0, 0.05 * 2**i)
        assert least <= wait <= 1.5 * least


def test_no_wait_goes_beyond_the_end():
    now = 0.0
    attempts = Attempts(10.0, clock=lambda: now)
    for _ in range(5):
        now += attempts.after_loss(Request("GET", "/"), OSError())
    now = 9.5
    with pytest.raises(Unreachable):
        attempts.after_loss(Request("GET", "/"), OSError())
    attempts.restart()
    assert attempts.after_loss(Request("GET", "/"), OSError()) < 0.1
