"""Every operation against a running server."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from carousel_client import (
    Conflict,
    GenerationFailed,
    Invalid,
    NotFound,
    PositionMismatch,
    SessionLost,
)
from tests.client.conftest import INPUTS, SEED

HOW = {"max_new_tokens": 30, "temperature": 0.8, "seed": 1}


def test_generate(kind, server):
    received = kind.call(server.url, lambda to: to.generate(INPUTS, details=True, **HOW))
    assert len(received.text) == 30
    assert "".join(token.text for token in received.details.tokens) == received.text
    assert (received.details.finish_reason, received.details.generated_tokens) == ("length", 30)
    assert (received.details.seed, received.session) == (1, None)
    assert all(token.logprob <= 0 and not token.top for token in received.details.tokens)
    full = kind.call(server.url, lambda to: to.generate(INPUTS, return_full_text=True, **HOW))
    assert (full.text, full.details) == (INPUTS + received.text, None)
    defaults = kind.call(server.url, lambda to: to.generate(INPUTS))
    assert len(defaults.text) == 100


def test_stream(kind, server, client):
    received = kind.stream(server.url, top_n_tokens=3, **HOW)
    assert received.text == received.result.text == client.generate(INPUTS, **HOW).text
    assert received.result.details.generated_tokens == 30
    assert all(len(token.top) == 3 for token in received.tokens)
    assert received.tokens[0].event_id is None


def test_most_likely_tokens_of_a_whole_response(client):
    received = client.generate(INPUTS, details=True, top_n_tokens=2, **HOW)
    assert all(len(token.top) == 2 for token in received.details.tokens)


def test_every_parameter_is_accepted(client):
    received = client.generate(
        INPUTS,
        model="demo@1",
        max_new_tokens=20,
        do_sample=True,
        temperature=0.9,
        top_k=50,
        top_p=0.9,
        min_p=0.01,
        typical_p=0.99,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        logit_bias={"3": -100.0},
        seed=3,
        stop=["~~"],
        details=True,
        top_n_tokens=1,
        return_full_text=True,
        truncate=3,
        grammar={"type": "regex", "value": ".{20}"},
        timeout_s=20,
    )
    assert received.details.generated_tokens == 20


def test_a_session_from_creation_to_deletion(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    made = ask(lambda to: to.sessions.create(text=INPUTS, seed=SEED, ttl_s=3_600))
    assert (made.position, made.turn, made.seed, made.model) == (4, 0, SEED, "demo@1")
    assert abs(made.expires_at - made.created_at - timedelta(hours=1)) < timedelta(minutes=5)
    turn = ask(lambda to: to.generate("", session_id=made.id, expected_position=4, **HOW))
    assert (turn.session.id, turn.session.position, turn.session.turn) == (made.id, 34, 1)
    with pytest.raises(PositionMismatch):
        ask(lambda to: to.generate("", session_id=made.id, expected_position=4, **HOW))
    state = ask(lambda to: to.sessions.append(made.id, "Go. ", expected_position=34))
    assert (state.position, state) == (38, ask(lambda to: to.sessions.get(made.id)))
    text = INPUTS + turn.text + "Go. "
    assert ask(lambda to: to.sessions.text(made.id)) == text
    assert ask(lambda to: to.sessions.text(made.id, 30)) == text[30:]
    forks = ask(lambda to: to.sessions.fork(made.id, 2, at=10, seeds="same"))
    assert [fork.position for fork in forks] == [10, 10]
    assert {fork.seed for fork in forks} == {SEED}
    exported = ask(lambda to: to.sessions.export(made.id))
    moved = ask(lambda to: to.sessions.import_(exported))
    assert moved.id != made.id
    assert ask(lambda to: to.sessions.text(moved.id)) == text
    assert ask(lambda to: to.sessions.rewind(made.id, 4)).position == 4
    again = ask(lambda to: to.generate("", session_id=made.id, **HOW))
    assert again.text == turn.text
    assert ask(lambda to: to.sessions.delete(made.id)) is None
    with pytest.raises(SessionLost):
        ask(lambda to: to.sessions.get(made.id))


def test_a_given_session_id(client):
    assert client.sessions.create(session_id="my-own").id == "my-own"
    with pytest.raises(Conflict) as caught:
        client.sessions.create(session_id="my-own")
    assert caught.value.error_type == "session_exists"
    for unusual in ("a/b", "a?b=c", "é", "a#b", "../info"):
        with pytest.raises((Invalid, NotFound)):
            client.sessions.get(unusual)
    for elsewhere in ("", ".", ".."):
        with pytest.raises(ValueError, match="is no name"):
            client.sessions.delete(elsewhere)


def test_a_busy_session_is_retried(kind, server, client):
    session = client.sessions.create(text=INPUTS, seed=SEED).id
    first = client.stream("", session_id=session, max_new_tokens=20_000, temperature=0.8)
    next(first)
    reader = threading.Thread(target=list, args=(first,))  # unread, it would pause
    reader.start()
    received = kind.stream(server.url, "", session_id=session, **HOW)
    assert received.result.session.turn == 2
    assert received.result.session.position == 4 + 20_000 + 30
    reader.join()


def test_threads_share_a_client(client):
    texts = []

    def ask() -> None:
        texts.append(client.generate(INPUTS, **HOW).text)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8
    assert len(set(texts)) == 1


def test_tokens(kind, server):
    tokens = kind.call(server.url, lambda to: to.tokenize("The é"[:4]))
    assert [(token.text, token.start, token.stop) for token in tokens] == [
        ("T", 0, 1),
        ("h", 1, 2),
        ("e", 2, 3),
        (" ", 3, 4),
    ]
    ids = [token.id for token in tokens]
    assert kind.call(server.url, lambda to: to.detokenize(ids, "demo")) == "The "


def test_a_score(kind, server, client):
    text = "The with statement "
    whole = kind.call(server.url, lambda to: to.score(text, details=True))
    assert "".join(token.text for token in whole.tokens) == text
    assert whole.tokens[0].logprob is None
    assert whole.nats == pytest.approx(-sum(token.logprob for token in whole.tokens[1:]), abs=1e-5)
    assert whole.characters == len(text) - 1
    sums = kind.call(server.url, lambda to: to.score(text, model="demo@1"))
    assert sums == replace(whole, tokens=())
    session = client.sessions.create(text=text[:4]).id
    there = kind.call(server.url, lambda to: to.score(text[4:], session_id=session, details=True))
    assert there.tokens == whole.tokens[4:]
    assert client.sessions.get(session).position == 4
    with pytest.raises(Invalid):
        kind.call(server.url, lambda to: to.score("é"))


def test_an_inspection(kind, server, client):
    text = "f(x) "
    found = kind.call(server.url, lambda to: to.inspect(text, cells=[445, 2], top_n_tokens=2))
    [layer] = found.layers
    assert (found.token_count, layer.cell, layer.cells) == (5, "lstm", (445, 2))
    assert [*layer.signals] == ["i", "f", "g", "o", "c", "h"]
    assert [len(row) for row in layer.signals["c"]] == [2] * 5
    scored = kind.call(server.url, lambda to: to.score(text, details=True)).tokens
    assert [token.logprob for token in found.tokens] == [token.logprob for token in scored]
    assert [len(token.top_tokens) for token in found.tokens] == [0, 2, 2, 2, 2]
    session = client.sessions.create(text=text[:2]).id
    rest = kind.call(server.url, lambda to: to.inspect(text[2:], session_id=session, cells=[445]))
    assert rest.layers[0].before["c"] == [layer.signals["c"][1][0]]
    file = kind.call(server.url, lambda to: to.inspect_as_safetensors(text, signals=["c"]))
    assert b'"layers.0.c":{"dtype":"F32","shape":[5,448]' in file
    with pytest.raises(Invalid):
        kind.call(server.url, lambda to: to.inspect(text, cells=[448]))


def test_a_turn_is_cancelled(kind, server, client):
    session = client.sessions.create(text=INPUTS, seed=SEED).id
    running = client.stream("", session_id=session, max_new_tokens=1_000_000, temperature=0.8)
    next(running)
    assert kind.call(server.url, lambda to: to.sessions.cancel(session, turn=7)).turn == 1
    left = kind.call(server.url, lambda to: to.sessions.cancel(session))
    with pytest.raises(GenerationFailed) as caught:
        list(running)
    assert len(INPUTS + caught.value.text) == left.position < 1_000_000
    assert kind.call(server.url, lambda to: to.sessions.cancel(session)).position == left.position


def test_models(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    listed = ask(lambda to: to.models.list())
    [demo] = [model for model in listed.models if model.name == "demo"]
    assert (demo.ref, demo.status, demo.vocabulary_size) == ("demo@1", "ready", 96)
    assert listed.aliases["default"] == "demo@1"
    assert ask(lambda to: to.models.unload("awkward")).status == "stored"
    with pytest.raises(Conflict):
        ask(lambda to: to.generate("é", model="awkward"))
    assert ask(lambda to: to.models.load("awkward", "float32")).status == "ready"
    assert ask(lambda to: to.models.set_alias("other", "awkward"))["other"] == "awkward@1"
    with pytest.raises(Conflict):
        ask(lambda to: to.models.delete("awkward@1"))
    with pytest.raises(Invalid):
        ask(lambda to: to.models.import_("nothing-there", "name", vocabulary="none", version=2))


def test_readiness_and_info(kind, server):
    assert kind.call(server.url, lambda to: to.is_ready()) is True
    info = kind.call(server.url, lambda to: to.info())
    assert info.model == "demo@1"
    assert "awkward@1" in info.models
    assert info.max_stop_sequences == 4


def test_sessions_are_listed_page_by_page(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    made = [ask(lambda to: to.sessions.create(text="abc")) for _ in range(3)]
    first = ask(lambda to: to.sessions.list(limit=2))
    assert first.sessions == (made[2], made[1])
    second = ask(lambda to: to.sessions.list(first.next, limit=1))
    assert second.sessions == (made[0],)
    for session in made:
        ask(lambda to, of=session: to.sessions.delete(of.id))
    left = ask(lambda to: to.sessions.list(limit=100))
    assert {one.id for one in left.sessions}.isdisjoint(one.id for one in made)
    for wrong in ({"after": "x"}, {"limit": 0}, {"limit": 101}):
        with pytest.raises(Invalid):
            ask(lambda to, of=wrong: to.sessions.list(**of))
