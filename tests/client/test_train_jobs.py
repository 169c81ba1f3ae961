"""Corpora and train jobs through the client; without a worker every job stays queued."""

import asyncio
import json
import threading
from datetime import timedelta

import pytest

from carousel_client import (
    AsyncClient,
    Client,
    Conflict,
    Invalid,
    NotFound,
    TrainJob,
    UnexpectedResponse,
    Unreachable,
)
from tests.client.scripted_server import Answer, error_response, stream

TEXT = "the owl and the cat sat in the oak\n" * 400
SMALL = {"architecture": {"units": 48, "layers": 1}, "training": {"epochs": 1, "batch_size": 16}}


def read_events(
    kind, url: str, job: str, after: str | None = None, timeout_s: float = 20.0
) -> list:
    if kind.name == "blocking":
        with Client(url, timeout_s=timeout_s) as client:
            return list(client.train_jobs.events(job, after))

    async def read() -> list:
        async with AsyncClient(url, timeout_s=timeout_s) as client:
            return [event async for event in client.train_jobs.events(job, after)]

    return asyncio.run(read())


def test_a_corpus_and_a_job_are_deleted_when_nothing_uses_them(kind, server):
    def ask(of):
        return kind.call(server.url, of)

    def listed():
        corpora = [one.id for one in ask(lambda to: to.corpora.list())]
        return corpus.id in corpora, job.id in [
            one.id for one in ask(lambda to: to.train_jobs.list())
        ]

    corpus = ask(lambda to: to.corpora.upload(f"{TEXT}{kind.name}", "doomed"))
    job = ask(lambda to: to.train_jobs.submit("owl", corpus.id, **SMALL))
    with pytest.raises(Conflict, match=f"the train job {job.id} reads the corpus") as refused:
        ask(lambda to: to.corpora.delete(corpus.id))
    assert refused.value.error_type == "corpus_in_use"
    with pytest.raises(Conflict, match="is not over; cancel it") as refused:
        ask(lambda to: to.train_jobs.delete(job.id))
    assert refused.value.error_type == "job_not_over"
    assert listed() == (True, True)
    ask(lambda to: to.train_jobs.cancel(job.id))
    ask(lambda to: to.corpora.delete(corpus.id))
    assert listed() == (False, True)
    ask(lambda to: to.train_jobs.delete(job.id))
    assert listed() == (False, False)
    for gone in (
        lambda to: to.corpora.delete(corpus.id),
        lambda to: to.train_jobs.delete(job.id),
        lambda to: to.train_jobs.get(job.id),
        lambda to: to.train_jobs.submit("owl", corpus.id, **SMALL),
        lambda to: to.corpora.delete("../corpora"),
    ):
        with pytest.raises(NotFound):
            ask(gone)
    again = ask(lambda to: to.corpora.upload(f"{TEXT}{kind.name}", "doomed"))
    assert again.id == corpus.id


def test_a_job_from_upload_to_cancellation(kind, server, client):
    def ask(of):
        return kind.call(server.url, of)

    corpus = ask(lambda to: to.corpora.upload(TEXT, "owls"))
    assert (corpus.name, corpus.characters, corpus.size_bytes) == ("owls", len(TEXT), len(TEXT))
    assert ask(lambda to: to.corpora.upload(TEXT.encode(), "owls")).id == corpus.id
    assert corpus.id in [one.id for one in ask(lambda to: to.corpora.list())]
    job = ask(lambda to: to.train_jobs.submit("owl", corpus.id, seed=7, **SMALL))
    assert (job.status, job.seed, job.corpus, job.is_finished) == ("queued", 7, corpus.id, False)
    assert job.architecture["units"] == 48
    assert (
        ask(lambda to: to.train_jobs.list())[0] == job == ask(lambda to: to.train_jobs.get(job.id))
    )
    later = threading.Timer(0.3, client.train_jobs.cancel, [job.id])
    later.start()
    events = read_events(kind, server.url, job.id)
    later.join()
    assert events[-1].name == "done"
    ended = ask(lambda to: to.train_jobs.cancel(job.id))
    assert (ended.status, ended.is_finished) == ("cancelled", True)
    assert ended.ended_at - ended.created_at < timedelta(minutes=1)
    assert read_events(kind, server.url, job.id, after=events[-1].id) == []
    with pytest.raises(Invalid):
        ask(lambda to: to.train_jobs.submit("owl", corpus.id, training={"epochs": 0}))
    with pytest.raises(NotFound):
        read_events(kind, server.url, "nothing")


def test_events_resume_after_the_last_one_received(kind, script):
    first = stream('event: progress\nid: 1-0\ndata: {"step": 1}')
    rest = stream("event: progress\nid: 2-0\ndata: {}", "event: done\nid: 3-0\ndata: {}")
    script.answers = [Answer(0), error_response(503, "draining"), first, Answer(0), rest]
    events = read_events(kind, script.url, "j")
    assert [(event.id, event.name) for event in events] == [
        ("1-0", "progress"),
        ("2-0", "progress"),
        ("3-0", "done"),
    ]
    assert events[0].body == {"step": 1}
    assert [headers.get("last-event-id") for _, headers, _ in script.requests] == [
        *(None, None, None),
        *("1-0", "1-0"),
    ]


def test_events_without_progress_are_unreachable(kind, script):
    script.answers = [stream("id: 1-0\nevent: progress\ndata: {}")] + [Answer(0)] * 50
    with pytest.raises(Unreachable):
        read_events(kind, script.url, "j", timeout_s=0.3)
    script.answers = [stream("data: what")]
    with pytest.raises(UnexpectedResponse):
        read_events(kind, script.url, "j")
    script.answers = [Answer(200, b"hello", {"Content-Type": "text/html"})]
    with pytest.raises(UnexpectedResponse):
        read_events(kind, script.url, "j")


def test_a_job_is_not_submitted_twice(kind, script):
    script.answers = [Answer(0), Answer(0)]
    with pytest.raises(Unreachable):
        kind.call(script.url, lambda to: to.train_jobs.submit("owl", "c"))
    assert script.lines == ["POST /train-jobs"]


def test_only_a_numbered_cancellation_is_repeated(kind, script):
    script.answers = [Answer(0)]
    with pytest.raises(Unreachable):
        kind.call(script.url, lambda to: to.sessions.cancel("s"))
    script.answers = [Answer(0), error_response(404, "session_not_found")]
    with pytest.raises(NotFound):
        kind.call(script.url, lambda to: to.sessions.cancel("s", turn=3))
    assert script.lines[1:] == ["POST /sessions/s/cancel?turn=3"] * 2


def test_the_best_checkpoint_of_a_cancelled_job_is_published(kind, script):
    record = dict.fromkeys(TrainJob.__dataclass_fields__) | {
        "status": "cancelled",
        "created_at": "2026-01-01T00:00:00Z",
        "model": "owl@1",
    }
    script.answers = [Answer(0), Answer(202, json.dumps(record).encode())]
    job = kind.call(script.url, lambda to: to.train_jobs.publish("j"))
    assert (job.status, job.model, job.is_finished) == ("cancelled", "owl@1", True)
    assert script.lines == ["POST /train-jobs/j/publish"] * 2
