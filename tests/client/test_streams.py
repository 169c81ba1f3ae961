"""Streams over a way that breaks: what arrives is what one that is not disturbed says."""

import json
import time

import pytest

from service.client import Client, GenerationFailed, PositionMismatch, StreamBroken
from tests.client.conftest import INPUTS, SEED
from tests.client.cutter import Cut, Cutter
from tests.client.script import stream

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
    """What a session says where nothing breaks."""
    with client.stream(INPUTS, session_id=client.sessions.create(seed=SEED).id, **HOW) as stream:
        assert [token.text for token in stream] == list(stream.text)
    assert len(stream.text) == N
    return stream.text


def check(client: Client, session_id: str, said, truth: str) -> None:
    """It was said once, and the session has had one turn."""
    assert said.text == said.end.text == truth
    epoch, first = 0, len(INPUTS) + 1
    ids = [f"{epoch}.1.{position}" for position in range(first, first + len(truth))]
    assert [token.event_id for token in said.tokens] == ids
    state = client.sessions.get(session_id)
    assert (state.turn, state.position) == (1, len(INPUTS) + len(truth))
    assert client.sessions.text(session_id) == INPUTS + truth
    assert said.end.session.position == state.position


@pytest.mark.parametrize("place", PLACES)
def test_a_session_goes_on_wherever_its_stream_is_cut(kind, client, cutter, truth, place):
    session = client.sessions.create(seed=SEED).id
    cutter.cut(PLACES[place])
    said = kind.stream(cutter.url, session_id=session, **HOW)
    check(client, session, said, truth)
    first, second = cutter.heads
    if place in BEFORE_ANY:
        assert second.line == first.line == "POST /generate_stream"
        assert second.headers["idempotency-key"] == first.headers["idempotency-key"]
    else:
        assert second.line == f"GET /sessions/{session}/events"
        n_before = PLACES[place].number - 1 if place != "in the end" else N - 1
        n_before += place == "after an event"
        assert second.headers["last-event-id"] == f"0.1.{len(INPUTS) + n_before}"


def test_a_session_goes_on_however_often_its_stream_is_cut(kind, client, cutter, truth):
    """The resumed streams are cut, too: before their heads, in their ids, after many tokens."""
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
    cutter.cut(*cuts)
    said = kind.stream(cutter.url, session_id=session, **HOW)
    check(client, session, said, truth)
    assert len(cutter.heads) == len(cuts) + 1


def test_a_long_turn_is_resumed_while_it_runs(kind, client, cutter):
    n = 20_000
    calm = client.sessions.create(seed=SEED).id
    truth = client.generate(INPUTS, session_id=calm, max_new_tokens=n, temperature=0.8).text
    session = client.sessions.create(seed=SEED).id
    cutter.cut(*[Cut(b"data: ", 50 * i, 9 * i) for i in range(1, 9)])
    said = kind.stream(cutter.url, session_id=session, max_new_tokens=n, temperature=0.8)
    check(client, session, said, truth)
    assert len(cutter.heads) == 9


# The pair of surrogates that JSON in ASCII has for a character beyond U+FFFF.
@pytest.mark.parametrize("offset", range(1, 12))
def test_a_cut_in_the_middle_of_a_character(kind, client, cutter, offset):
    how = {"max_new_tokens": 200, "temperature": 1.0}
    calm = client.sessions.create(seed=SEED, model="awkward").id
    truth = client.generate("é", session_id=calm, **how).text
    assert "😀" in truth[:-1]
    session = client.sessions.create(seed=SEED, model="awkward").id
    cutter.cut(Cut(rb"\ud83d\ude00", 2, offset))
    said = kind.stream(cutter.url, "é", session_id=session, **how)
    assert said.text == said.end.text == truth
    assert client.sessions.text(session) == "é" + truth
    assert cutter.lines[1] == f"GET /sessions/{session}/events"


def test_a_stop_string_is_shown_to_nobody_across_a_cut(kind, client, cutter, truth):
    stop = truth[200:204]
    want = truth[: truth.index(stop)]
    for number in (1, len(want) // 2, len(want)):
        session = client.sessions.create(seed=SEED).id
        cutter.cut(Cut(b"\n\n", number, 2))
        said = kind.stream(cutter.url, session_id=session, stop=[stop], **HOW)
        assert said.text == said.end.text == want
        assert said.end.details.finish_reason == "stop_sequence"
        assert said.tokens[-1].is_special
        assert client.sessions.get(session).turn == 1
        assert len(cutter.heads) == 2


@pytest.mark.parametrize("place", ["before the head", "in the head"])
def test_a_turn_that_is_not_streamed_is_one_turn_however_often_it_is_asked_for(
    kind, client, cutter, truth, place
):
    session = client.sessions.create(seed=SEED).id
    cutter.cut(PLACES[place], PLACES[place], Cut(b'"generated_text"', offset=40))
    said = kind.call(cutter.url, lambda to: to.generate(INPUTS, session_id=session, **HOW))
    assert said.text == truth
    assert cutter.lines == ["POST /generate"] * 4
    assert len({head.headers["idempotency-key"] for head in cutter.heads}) == 1
    assert client.sessions.get(session).turn == 1
    assert client.sessions.text(session) == INPUTS + truth


def test_two_turns_have_two_keys(kind, client, cutter, truth):
    session = client.sessions.create(seed=SEED).id
    how = HOW | {"max_new_tokens": N // 2}
    halves = [
        kind.stream(cutter.url, inputs, session_id=session, **how).text for inputs in (INPUTS, "")
    ]
    assert "".join(halves) == truth
    assert len({head.headers["idempotency-key"] for head in cutter.heads}) == 2
    assert client.sessions.get(session).turn == 2


def test_an_append_is_fed_once(kind, client, cutter):
    session = client.sessions.create().id
    cutter.cut(PLACES["before the head"], PLACES["in the head"])
    state = kind.call(cutter.url, lambda to: to.sessions.append(session, "once"))
    assert (state.position, client.sessions.text(session)) == (4, "once")
    assert len(cutter.heads) == 3


@pytest.mark.parametrize("place", ["in the data", "after an event", "in the end"])
def test_a_stream_without_a_session_that_breaks_says_what_it_had_said(kind, cutter, place):
    cutter.cut(PLACES[place])
    with pytest.raises(StreamBroken) as caught:
        kind.stream(cutter.url, seed=SEED, **HOW)
    number = PLACES[place].number
    assert len(caught.value.text) == {"in the data": number - 1, "after an event": number}.get(
        place, N - 1
    )
    assert cutter.lines == ["POST /generate_stream"]


@pytest.mark.parametrize("place", sorted(BEFORE_ANY - {"in the first event's id"}))
def test_a_stream_without_a_session_that_has_said_nothing_is_asked_for_again(
    kind, client, cutter, place
):
    cutter.cut(PLACES[place])
    said = kind.stream(cutter.url, seed=SEED, **HOW)
    assert said.text == client.generate(INPUTS, seed=SEED, **HOW).text
    assert "idempotency-key" not in cutter.heads[0].headers
    assert len(cutter.heads) == 2


def test_a_connection_that_breaks_after_the_end_does_not_matter(kind, client, cutter, truth):
    cutter.cut(Cut(b"\n\n", N, 2))
    assert kind.stream(cutter.url, seed=SEED, **HOW).text
    session = client.sessions.create(seed=SEED).id
    cutter.cut(Cut(b"\n\n", N, 2))
    check(client, session, kind.stream(cutter.url, session_id=session, **HOW), truth)
    assert len(cutter.heads) == 1


def test_a_turn_that_shall_end_with_its_connection_does_and_says_so(kind, client, cutter):
    session = client.sessions.create(seed=SEED).id
    cutter.cut(Cut(b"\n\n", 40, 2))
    with pytest.raises(GenerationFailed) as caught:
        kind.stream(
            cutter.url, session_id=session, on_disconnect="cancel", max_new_tokens=1_000_000
        )
    text = client.sessions.text(session)
    assert len(caught.value.text) >= 40
    assert text == INPUTS + caught.value.text


def test_a_turn_that_nobody_reads_to_its_end_can_be_followed_later(client, truth):
    session = client.sessions.create(seed=SEED).id
    with client.stream(INPUTS, session_id=session, **HOW) as stream:
        token = [next(stream) for _ in range(10)][-1]
        with pytest.raises(LookupError, match="not come to its end"):
            assert stream.end
    with client.sessions.events(session, after=token.event_id) as rest:
        assert stream.text + "".join(token.text for token in rest) == truth
    assert rest.end.text == truth
    with client.sessions.events(session) as again:
        list(again)
    assert again.text == truth
    nothing = client.sessions.events(session, after=f"0.1.{len(INPUTS) + N}")
    assert list(nothing) == []
    with pytest.raises(LookupError, match="nothing was to come"):
        assert nothing.end


def test_events_go_on_after_a_cut_too(client, cutter: Cutter, truth):
    session = client.sessions.create(seed=SEED).id
    client.generate(INPUTS, session_id=session, **HOW)
    cutter.cut(Cut(b"HTTP/1.1"), Cut(b"\n\n", 7, 1), Cut(b"data: ", 50, 7))
    with Client(cutter.url) as broken:
        stream = broken.sessions.events(session)
        assert "".join(token.text for token in stream) == truth
    assert [head.headers.get("last-event-id") for head in cutter.heads] == [
        None,
        None,
        f"0.1.{len(INPUTS) + 6}",
        f"0.1.{len(INPUTS) + 55}",
    ]


def test_a_stream_whose_session_was_rewound_behind_it_does_not_go_on(client, cutter):
    session = client.sessions.create(seed=SEED, text=INPUTS).id
    cutter.cut(Cut(b"\n\n", 40, 2))
    with Client(cutter.url) as broken, broken.stream("", session_id=session, **HOW) as stream:
        before = [next(stream) for _ in range(40)]
        # All that got through has been read; the client sees the cut only after this.
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


def test_an_end_that_brings_no_token_is_an_end(kind, script):
    """A deadline may come after the last token was told, or before there was any."""
    script.answers = [stream(event(5, "a"), event(6, "b"), event(6, "", "ab"))]
    said = kind.stream(script.url, session_id="s")
    assert ([token.text for token in said.tokens], said.end.text) == (["a", "b"], "ab")
    script.answers = [stream(event(4, "", "nothing"))]
    said = kind.stream(script.url, session_id="s")
    assert ([token.text for token in said.tokens], said.end.text) == ([""], "nothing")
    assert len(script.asked) == 2
