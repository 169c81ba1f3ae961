"""Texts and train jobs through the client; nobody trains here, so a job waits until it is over."""

import asyncio
import threading
from datetime import timedelta

import pytest

from service.client import AsyncClient, Client, Invalid, NotFound, UnknownReply, Unreachable
from tests.client.script import Answer, refusal, stream

TEXT = "the owl and the cat sat in the oak\n" * 400
SMALL = {"architecture": {"units": 48, "layers": 1}, "training": {"epochs": 1, "batch_size": 16}}


def events(kind, url: str, job: str, after: str | None = None, timeout_s: float = 20.0) -> list:
    if kind.name == "waiting":
        with Client(url, timeout_s=timeout_s) as client:
            return list(client.training.events(job, after))

    async def told() -> list:
        async with AsyncClient(url, timeout_s=timeout_s) as client:
            return [event async for event in client.training.events(job, after)]

    return asyncio.run(told())


def test_a_job_from_its_text_to_its_end(kind, server, client):
    def ask(of):
        return kind.call(server.url, of)

    corpus = ask(lambda to: to.training.upload(TEXT, "owls"))
    assert (corpus.name, corpus.characters, corpus.size_bytes) == ("owls", len(TEXT), len(TEXT))
    assert ask(lambda to: to.training.upload(TEXT.encode(), "owls")).id == corpus.id
    assert corpus.id in [one.id for one in ask(lambda to: to.training.corpora())]
    job = ask(lambda to: to.training.submit("owl", corpus.id, seed=7, **SMALL))
    assert (job.status, job.seed, job.corpus, job.is_over) == ("queued", 7, corpus.id, False)
    assert job.architecture["units"] == 48
    assert ask(lambda to: to.training.list())[0] == job == ask(lambda to: to.training.get(job.id))
    later = threading.Timer(0.3, client.training.cancel, [job.id])
    later.start()
    told = events(kind, server.url, job.id)
    later.join()
    assert told[-1].name == "done"
    ended = ask(lambda to: to.training.cancel(job.id))
    assert (ended.status, ended.is_over) == ("cancelled", True)
    assert ended.ended_at - ended.created_at < timedelta(minutes=1)
    assert events(kind, server.url, job.id, after=told[-1].id) == []
    with pytest.raises(Invalid):
        ask(lambda to: to.training.submit("owl", corpus.id, training={"epochs": 0}))
    with pytest.raises(NotFound):
        events(kind, server.url, "nothing")


def test_events_that_break_off_go_on_after_the_last_one(kind, script):
    first = stream('event: progress\nid: 1-0\ndata: {"step": 1}')
    rest = stream("event: progress\nid: 2-0\ndata: {}", "event: done\nid: 3-0\ndata: {}")
    script.answers = [Answer(0), refusal(503, "draining"), first, Answer(0), rest]
    told = events(kind, script.url, "j")
    assert [(event.id, event.name) for event in told] == [
        ("1-0", "progress"),
        ("2-0", "progress"),
        ("3-0", "done"),
    ]
    assert told[0].body == {"step": 1}
    assert [headers.get("last-event-id") for _, headers, _ in script.asked] == [
        *(None, None, None),
        *("1-0", "1-0"),
    ]


def test_events_that_do_not_come_are_given_up(kind, script):
    script.answers = [stream("id: 1-0\nevent: progress\ndata: {}")] + [Answer(0)] * 50
    with pytest.raises(Unreachable):
        events(kind, script.url, "j", timeout_s=0.3)
    script.answers = [stream("data: what")]
    with pytest.raises(UnknownReply):
        events(kind, script.url, "j")
    script.answers = [Answer(200, b"hello", {"Content-Type": "text/html"})]
    with pytest.raises(UnknownReply):
        events(kind, script.url, "j")


def test_a_job_is_not_submitted_twice(kind, script):
    script.answers = [Answer(0), Answer(0)]
    with pytest.raises(Unreachable):
        kind.call(script.url, lambda to: to.training.submit("owl", "c"))
    assert script.lines == ["POST /train-jobs"]


def test_only_a_turn_that_is_named_is_cancelled_again(kind, script):
    script.answers = [Answer(0)]
    with pytest.raises(Unreachable):
        kind.call(script.url, lambda to: to.sessions.cancel("s"))
    script.answers = [Answer(0), refusal(404, "session_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, lambda to: to.sessions.cancel("s", turn=3))
    assert script.lines[1:] == ["POST /sessions/s/cancel?turn=3"] * 2
