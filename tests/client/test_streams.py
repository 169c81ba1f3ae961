"""Streams over broken connections: the same text as over one that does not break."""

import json
import time

import pytest

from carousel_client import Client, GenerationFailed, PositionMismatch, StreamBroken
from tests.client.conftest import INPUTS, SEED
from tests.client.proxy import BreakingProxy, Cut
from tests.client.scripted_server import stream

N = 300
HOW = {"max_new_tokens": N, "temperature": 0.8}

PLACES = {
    "before the head": Cut(b"HTTP/1.1"),
    "before the head, orderly": Cut(b"HTTP/1.1", is_reset=False),
    "in the head": Cut(b"HTTP/1.1", offset=40),
    "after the head": Cut(b"\r\n\r\n", offset=4),
    "in the first event's id": Cut(b"\nid: ", offset=7),
    "between id and data": Cut(b"data: ", 40),
    "in the data": Cut(b"data: ", 40, 25),
    "in the data, orderly": Cut(b"data: ", 40, 25, is_reset=False),
    "before the empty line": Cut(b"\n\n", 40, 1),
    "after an event": Cut(b"\n\n", 40, 2),
    "after the last token, before the end": Cut(b"\nid: ", N, 1),
    "in the end": Cut(b'"generated_text":"', offset=30),
    "before the end's empty line": Cut(b"\n\n", N, 1),
}
BEFORE_ANY = {
    "before the head",
    "before the head, orderly",
    "in the head",
    "after the head",
    "in the first event's id",
}


@pytest.fixture(scope="module")
def truth(client: Client) -> str:
    """The text of a session without a break."""
    with client.stream(INPUTS, session_id=client.sessions.create(seed=SEED).id, **HOW) as stream:
        assert [token.text for token in stream] == list(stream.text)
    assert len(stream.text) == N
    return stream.text


def check(client: Client, session_id: str, received, truth: str) -> None:
    """Every token came once, and the session has had one turn."""
    assert received.text == received.result.text == truth
    epoch, first = 0, len(INPUTS) + 1
    ids = [f"{epoch}.1.{position}" for position in range(first, first + len(truth))]
    assert [token.event_id for token in received.tokens] == ids
    state = client.sessions.get(session_id)
    assert (state.turn, state.position) == (1, len(INPUTS) + len(truth))
    assert client.sessions.text(session_id) == INPUTS + truth
    assert received.result.session.position == state.position


@pytest.mark.parametrize("place", PLACES)
def test_a_session_resumes_wherever_its_stream_breaks(kind, client, proxy, truth, place):
    session = client.sessions.create(seed=SEED).id
    proxy.cut(PLACES[place])
    received = kind.stream(proxy.url, session_id=session, **HOW)
    check(client, session, received, truth)
    first, second = proxy.heads
    if place in BEFORE_ANY:
        assert second.line == first.line == "POST /generate_stream"
        assert second.headers["idempotency-key"] == first.headers["idempotency-key"]
    else:
        assert second.line == f"GET /sessions/{session}/events"
        n_before = PLACES[place].number - 1 if place != "in the end" else N - 1
        n_before += place == "after an event"
        assert second.headers["last-event-id"] == f"0.1.{len(INPUTS) + n_before}"


def test_a_session_resumes_however_often_its_stream_breaks(kind, client, proxy, truth):
    """The resumed streams break, too: before their heads, in their ids, after many tokens."""
    session = client.sessions.create(seed=SEED).id
    cuts = [
        *list(PLACES.values())[:5],
        Cut(b"\n\n", 1, 2),
        Cut(b"HTTP/1.1"),
        Cut(b"data: ", 1, 3),
        Cut(b"\n\n", 99, 1),
        Cut(b"\r\n\r\n", offset=4),
        Cut(b"\n\n", 99, 2),
        Cut(b'"generated_text":"'),
    ]
    proxy.cut(*cuts)
    received = kind.stream(proxy.url, session_id=session, **HOW)
    check(client, session, received, truth)
    assert len(proxy.heads) == len(cuts) + 1


def test_a_long_turn_is_resumed_while_it_runs(kind, client, proxy):
    n = 20_000
    calm = client.sessions.create(seed=SEED).id
    truth = client.generate(INPUTS, session_id=calm, max_new_tokens=n, temperature=0.8).text
    session = client.sessions.create(seed=SEED).id
    proxy.cut(*[Cut(b"data: ", 50 * i, 9 * i) for i in range(1, 9)])
    received = kind.stream(proxy.url, session_id=session, max_new_tokens=n, temperature=0.8)
    check(client, session, received, truth)
    assert len(proxy.heads) == 9


# JSON in ASCII has a pair of surrogates for a character beyond U+FFFF.
@pytest.mark.parametrize("offset", range(1, 12))
def test_a_break_within_a_character(kind, client, proxy, offset):
    how = {"max_new_tokens": 200, "temperature": 1.0}
    calm = client.sessions.create(seed=SEED, model="awkward").id
    truth = client.generate("é", session_id=calm, **how).text
    assert "😀" in truth[:-1]
    session = client.sessions.create(seed=SEED, model="awkward").id
    proxy.cut(Cut(rb"\ud83d\ude00", 2, offset))
    received = kind.stream(proxy.url, "é", session_id=session, **how)
    assert received.text == received.result.text == truth
    assert client.sessions.text(session) == "é" + truth
    assert proxy.lines[1] == f"GET /sessions/{session}/events"


def test_a_stop_string_stays_hidden_across_a_break(kind, client, proxy, truth):
    stop = truth[200:204]
    want = truth[: truth.index(stop)]
    for number in (1, len(want) // 2, len(want)):
        session = client.sessions.create(seed=SEED).id
        proxy.cut(Cut(b"\n\n", number, 2))
        received = kind.stream(proxy.url, session_id=session, stop=[stop], **HOW)
        assert received.text == received.result.text == want
        assert received.result.details.finish_reason == "stop_sequence"
        assert received.tokens[-1].is_special
        assert client.sessions.get(session).turn == 1
        assert len(proxy.heads) == 2


@pytest.mark.parametrize("place", ["before the head", "in the head"])
def test_a_whole_response_is_one_turn_however_often_it_is_requested(
    kind, client, proxy, truth, place
):
    session = client.sessions.create(seed=SEED).id
    proxy.cut(PLACES[place], PLACES[place], Cut(b'"generated_text"', offset=40))
    received = kind.call(proxy.url, lambda to: to.generate(INPUTS, session_id=session, **HOW))
    assert received.text == truth
    assert proxy.lines == ["POST /generate"] * 4
    assert len({head.headers["idempotency-key"] for head in proxy.heads}) == 1
    assert client.sessions.get(session).turn == 1
    assert client.sessions.text(session) == INPUTS + truth


def test_two_turns_have_two_keys(kind, client, proxy, truth):
    session = client.sessions.create(seed=SEED).id
    how = HOW | {"max_new_tokens": N // 2}
    halves = [
        kind.stream(proxy.url, inputs, session_id=session, **how).text for inputs in (INPUTS, "")
    ]
    assert "".join(halves) == truth
    assert len({head.headers["idempotency-key"] for head in proxy.heads}) == 2
    assert client.sessions.get(session).turn == 2


def test_an_append_is_applied_once(kind, client, proxy):
    session = client.sessions.create().id
    proxy.cut(PLACES["before the head"], PLACES["in the head"])
    state = kind.call(proxy.url, lambda to: to.sessions.append(session, "once"))
    assert (state.position, client.sessions.text(session)) == (4, "once")
    assert len(proxy.heads) == 3


@pytest.mark.parametrize("place", ["in the data", "after an event", "in the end"])
def test_a_broken_stream_without_a_session_has_its_text_so_far(kind, proxy, place):
    proxy.cut(PLACES[place])
    with pytest.raises(StreamBroken) as caught:
        kind.stream(proxy.url, seed=SEED, **HOW)
    number = PLACES[place].number
    assert len(caught.value.text) == {"in the data": number - 1, "after an event": number}.get(
        place, N - 1
    )
    assert proxy.lines == ["POST /generate_stream"]


@pytest.mark.parametrize("place", sorted(BEFORE_ANY - {"in the first event's id"}))
def test_a_stream_without_a_session_is_repeated_before_its_first_token(kind, client, proxy, place):
    proxy.cut(PLACES[place])
    received = kind.stream(proxy.url, seed=SEED, **HOW)
    assert received.text == client.generate(INPUTS, seed=SEED, **HOW).text
    assert "idempotency-key" not in proxy.heads[0].headers
    assert len(proxy.heads) == 2


def test_a_break_after_the_end_has_no_effect(kind, client, proxy, truth):
    proxy.cut(Cut(b"\n\n", N, 2))
    assert kind.stream(proxy.url, seed=SEED, **HOW).text
    session = client.sessions.create(seed=SEED).id
    proxy.cut(Cut(b"\n\n", N, 2))
    check(client, session, kind.stream(proxy.url, session_id=session, **HOW), truth)
    assert len(proxy.heads) == 1


def test_a_turn_that_is_cancelled_on_disconnect_raises_an_error(kind, client, proxy):
    session = client.sessions.create(seed=SEED).id
    proxy.cut(Cut(b"\n\n", 40, 2))
    with pytest.raises(GenerationFailed) as caught:
        kind.stream(proxy.url, session_id=session, on_disconnect="cancel", max_new_tokens=1_000_000)
    text = client.sessions.text(session)
    assert len(caught.value.text) >= 40
    assert text == INPUTS + caught.value.text


def test_the_rest_of_a_turn_can_be_read_later(client, truth):
    session = client.sessions.create(seed=SEED).id
    with client.stream(INPUTS, session_id=session, **HOW) as stream:
        token = [next(stream) for _ in range(10)][-1]
        with pytest.raises(LookupError, match="not reached its end"):
            assert stream.result
    with client.sessions.events(session, after=token.event_id) as rest:
        assert stream.text + "".join(token.text for token in rest) == truth
    assert rest.result.text == truth
    with client.sessions.events(session) as again:
        list(again)
    assert again.text == truth
    nothing = client.sessions.events(session, after=f"0.1.{len(INPUTS) + N}")
    assert list(nothing) == []
    with pytest.raises(LookupError, match="had no events"):
        assert nothing.result


def test_events_resume_after_a_break(client, proxy: BreakingProxy, truth):
    session = client.sessions.create(seed=SEED).id
    client.generate(INPUTS, session_id=session, **HOW)
    proxy.cut(Cut(b"HTTP/1.1"), Cut(b"\n\n", 7, 1), Cut(b"data: ", 50, 7))
    with Client(proxy.url) as broken:
        stream = broken.sessions.events(session)
        assert "".join(token.text for token in stream) == truth
    assert [head.headers.get("last-event-id") for head in proxy.heads] == [
        None,
        None,
        f"0.1.{len(INPUTS) + 6}",
        f"0.1.{len(INPUTS) + 55}",
    ]


def test_a_stream_of_a_rewound_session_is_not_resumed(client, proxy):
    session = client.sessions.create(seed=SEED, text=INPUTS).id
    proxy.cut(Cut(b"\n\n", 40, 2))
    with Client(proxy.url) as broken, broken.stream("", session_id=session, **HOW) as stream:
        before = [next(stream) for _ in range(40)]
        # Every forwarded token has been read; the client sees the break only after this.
        while client.sessions.get(session).position < len(INPUTS) + N:
            time.sleep(0.01)
        client.sessions.rewind(session, len(INPUTS))
        with pytest.raises(PositionMismatch) as caught:
            next(stream)
    assert caught.value.text == "".join(token.text for token in before)
    assert caught.value.status == 412


def event(position: int, text: str, end: str | None = None) -> str:
    token = {"id": 0, "text": text, "logprob": -1.0, "special": not text}
    details = {"finish_reason": "length", "generated_tokens": 2, "seed": 1} if end else None
    body = {"index": 1, "token": token, "generated_text": end, "details": details}
    return f"id: 0.1.{position}\ndata: {json.dumps(body)}"


def test_an_end_without_a_token_is_an_end(kind, script):
    """A deadline may pass after the last token was sent, or before the first one."""
    script.answers = [stream(event(5, "a"), event(6, "b"), event(6, "", "ab"))]
    received = kind.stream(script.url, session_id="s")
    assert ([token.text for token in received.tokens], received.result.text) == (["a", "b"], "ab")
    script.answers = [stream(event(4, "", "nothing"))]
    received = kind.stream(script.url, session_id="s")
    assert ([token.text for token in received.tokens], received.result.text) == ([""], "nothing")
    assert len(script.requests) == 2
