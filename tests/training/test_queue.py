"""Records, fences and leases of train jobs, on a real store."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from service.errors import (
    CorpusInUse,
    JobNotFound,
    JobNotOver,
    RateLimited,
    StoreUnavailable,
    Validation,
)
from service.training.config import QueueConfig
from service.training.job import JobKey
from service.training.job_spec import TrainJobSpec
from service.training.job_store import Fenced
from service.training.queue import JobQueue
from service.training.recipe import Recipe
from service.training.states import JobState, JobStatus, Transition

CONFIG = QueueConfig(lease_ms=200, start_ms=400)
SPEC = TrainJobSpec("name", "c" * 32, Recipe())


@pytest.fixture
def queue(valkey) -> Iterator[JobQueue]:
    valkey.client.flushall()
    made = JobQueue(valkey.url, CONFIG)
    yield made
    made.connection.close()


def waiting(queue: JobQueue) -> list[tuple[JobKey, int]]:
    """The jobs and attempts that workers may take, the oldest first."""
    taken = []
    while (job := queue.take()) is not None:
        taken.append((job.key, job.attempt))
    for key, _ in taken:
        queue.end_lease(key)
    return taken


def test_a_job_is_queued_and_listed(queue):
    job = queue.submit("me", SPEC)
    assert (job.status, job.attempt, job.spec) == (JobStatus.QUEUED, 1, SPEC)
    assert waiting(queue) == [(job.key, 1)]
    assert queue.jobs("me") == [job]
    assert queue.jobs("you") == []


def test_a_worker_takes_jobs_of_its_queues_and_of_the_first_one_first(queue):
    specs = [SPEC, replace(SPEC, queue="train-gpu"), SPEC, replace(SPEC, queue="train-gpu")]
    first, second, third, fourth = (queue.submit("me", spec).key for spec in specs)

    def taken(*queues: str) -> list[JobKey]:
        keys = []
        while (job := queue.take(queues)) is not None:
            keys.append(job.key)
        for key in keys:
            queue.end_lease(key)
        return keys

    assert taken("train-cpu") == [first, third]
    assert taken("train-gpu") == [second, fourth]
    assert taken("train-gpu", "train-cpu") == [second, fourth, first, third]
    assert waiting(queue) == [(first, 1), (third, 1)]


def test_a_job_of_before_there_were_queues_is_in_that_of_processors(queue, valkey):
    key = queue.submit("me", SPEC).key
    order = SPEC.to_json()
    del order["queue"]
    valkey.client.hset(queue._names.of("job", key), "order", json.dumps(order))
    assert waiting(queue) == [(key, 1)]
    assert queue.get(key).spec == SPEC


def test_another_owners_job_is_as_one_that_never_was(queue):
    job = queue.submit("me", SPEC)
    sentences = []
    for job_id in (job.key.id, "0" * 16):
        with pytest.raises(JobNotFound) as missing:
            queue.get(JobKey("you", job_id))
        sentences.append(str(missing.value).replace(job_id, ""))
    assert sentences[0] == sentences[1]


def test_only_the_latest_attempt_may_change_anything(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    with pytest.raises(Fenced):
        queue.claim(key, 1)
    queue.release(key, 1)
    queue.claim(key, 2)
    lost = replace(queue.get(key), attempt=1)
    for write in (
        lambda: queue.renew(key, 1),
        lambda: queue.report(key, 1, "progress", {}),
        lambda: queue.stored(key, 1, "name@1"),
        lambda: queue.finish(lost, Transition.FAIL),
        lambda: queue.release(key, 1),
        lambda: queue.start_failed(key, 1),
    ):
        with pytest.raises(Fenced):
            write()
    assert queue.get(key).status is JobStatus.RUNNING
    assert queue.events(key, "0") == []


def test_a_lost_attempt_begins_again_and_a_living_one_does_not(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    queue.requeue_lost()
    assert queue.get(key).status is JobStatus.RUNNING
    time.sleep(0.15)
    queue.renew(key, 1)
    time.sleep(0.15)
    queue.requeue_lost()
    assert queue.get(key).attempt == 1
    time.sleep(0.1)
    queue.requeue_lost()
    job = queue.get(key)
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 2, 1)
    assert waiting(queue) == [(key, 2)]
    with pytest.raises(Fenced):
        queue.renew(key, 1)


def test_a_job_that_kills_its_process_thrice_is_given_up(queue):
    key = queue.submit("", SPEC).key
    for attempt in (1, 2, 3):
        queue.claim(key, attempt)
        time.sleep(0.25)
        queue.requeue_lost()
    job = queue.get(key)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error["error_type"] == "poisoned"
    assert queue.events(key, "0")[-1].name == "done"
    assert queue.open() == []


def test_a_job_is_taken_once_the_oldest_first(queue, valkey):
    keys = []
    for _ in range(3):
        keys.append(queue.submit("", SPEC).key)
        time.sleep(0.002)
    other = JobQueue(valkey.url, CONFIG)
    assert [queue.take().key, other.take().key, queue.take().key] == keys
    assert other.take() is None
    other.connection.close()


def test_a_job_whose_worker_dies_before_the_claim_is_taken_again(queue):
    key = queue.submit("", SPEC).key
    assert queue.take().key == key
    assert queue.take() is None
    time.sleep(0.45)
    again = queue.take()
    assert (again.key, again.attempt, again.crashes) == (key, 1, 0)
    queue.claim(key, 1)
    with pytest.raises(Fenced):  # should the first process begin after all
        queue.claim(key, 1)


def test_a_job_whose_process_ends_before_the_claim_waits_again_at_once(queue):
    key = queue.submit("", SPEC).key
    queue.take()
    queue.start_failed(key, 1)
    again = queue.take()
    assert (again.key, again.attempt, again.crashes) == (key, 2, 0)
    queue.claim(key, 2)
    with pytest.raises(Fenced):  # its process has claimed it, and the lease decides
        queue.start_failed(key, 2)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_told(queue):
    waiting, running = queue.submit("", SPEC).key, queue.submit("", SPEC).key
    assert queue.cancel(waiting).status is JobStatus.CANCELLED
    with pytest.raises(Fenced):
        queue.claim(waiting, 1)
    queue.claim(running, 1)
    assert not queue.renew(running, 1)
    assert queue.cancel(running).status is JobStatus.RUNNING
    assert queue.renew(running, 1)
    assert queue.release(running, 1) is JobState.CANCELLED
    assert queue.cancel(running).status is JobStatus.CANCELLED


def test_a_cancelled_job_whose_process_dies_is_cancelled(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    queue.cancel(key)
    time.sleep(0.25)
    queue.requeue_lost()
    assert queue.get(key).status is JobStatus.CANCELLED


@pytest.mark.parametrize("n", range(1, 7))
def test_no_release_comes_between_a_cancel_and_what_it_says(valkey, queue, monkeypatch, n):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    other, execute, calls = JobQueue(valkey.url, CONFIG), queue.connection.execute_command, []

    def and_release(*arguments, **options):
        reply = execute(*arguments, **options)
        calls.append(arguments)
        if len(calls) == n:
            other.release(key, 1)
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(queue.connection, "execute_command", and_release)
        queue.cancel(key)
    if len(calls) < n:
        other.release(key, 1)
    other.connection.close()
    assert queue.get(key).status is JobStatus.CANCELLED


def test_a_cancelled_job_that_its_worker_leaves_ends(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    assert queue.cancel(key).state is JobState.CANCELLING
    queue.release(key, 1)
    job = queue.get(key)
    assert job.status is JobStatus.CANCELLED
    assert job.ended_s == pytest.approx(time.time(), abs=60)
    assert queue.events(key, "0")[-1].data == '{"status": "cancelled", "model": null}'
    assert queue.open() == []
    assert waiting(queue) == []


def test_a_sweep_ends_a_waiting_job_that_is_cancelled(queue):
    key = queue.submit("", SPEC).key
    queue.connection.hset(f"carousel:job:{key}", "cancel", 1)
    queue.requeue_lost()
    assert queue.get(key).status is JobStatus.CANCELLED


def test_a_cancelled_job_is_no_crash_even_if_the_sweep_has_not_heard_of_it(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    time.sleep(0.25)
    (before,) = queue.open()
    queue.cancel(key)
    queue._requeue_if_lost(before)
    assert queue.get(key).status is JobStatus.CANCELLED


def cancelled(queue: JobQueue) -> JobKey:
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    queue.report(key, 1, "", {}, version=3)
    queue.cancel(key)
    queue.release(key, 1)
    return key


def test_a_cancelled_job_is_published_by_an_attempt_of_its_own(queue):
    key = cancelled(queue)
    job = queue.publish(key)
    assert (job.state, job.status, job.attempt) == (JobState.PUBLISH_REQUESTED, "queued", 2)
    assert (job.ended_s, job.version) == (None, 3)
    assert queue.publish(key) == job
    assert [one.key for one in queue.open()] == [key]
    assert queue.connection.ttl(f"carousel:job:{key}") == -1
    assert queue.take().key == key
    assert queue.claim(key, 2).state is JobState.PUBLISHING
    with pytest.raises(Fenced):
        queue.renew(key, 1)
    assert not queue.renew(key, 2)
    assert queue.publish(key).state is JobState.PUBLISHING
    assert queue.cancel(key).state is JobState.PUBLISHING  # it is about to end anyway
    job = queue.stored(key, 2, "name@3")
    assert (job.state, job.status, job.model) == (JobState.PUBLISHED, "running", "name@3")
    assert queue.finish(job, Transition.SUCCEED) is JobState.SUCCEEDED
    assert queue.publish(key).status is JobStatus.SUCCEEDED
    assert queue.open() == []
    assert queue.connection.ttl(f"carousel:job:{key}") > 0
    names = [(event.name, json.loads(event.data)) for event in queue.events(key, "0")]
    assert names == [
        ("done", {"status": "cancelled", "model": None}),
        ("published", {"model": "name@3"}),
        ("done", {"status": "succeeded", "model": "name@3"}),
    ]


def test_a_publication_whose_process_dies_begins_again_and_in_the_end_leaves_a_cancelled_job(queue):
    key = cancelled(queue)
    queue.publish(key)
    for attempt in (2, 3, 4):
        queue.claim(key, attempt)
        time.sleep(0.25)
        queue.requeue_lost()
    job = queue.get(key)
    assert (job.state, job.error["error_type"]) == (JobState.CANCELLED, "poisoned")
    again = queue.publish(key)
    assert (again.attempt, again.crashes, again.error) == (5, 0, None)


def test_a_publication_that_waits_is_cancelled_at_once(queue):
    key = cancelled(queue)
    queue.publish(key)
    assert queue.cancel(key).state is JobState.CANCELLED
    assert waiting(queue) == []
    assert queue.publish(key).state is JobState.PUBLISH_REQUESTED


def test_only_a_cancelled_job_is_published(queue):
    key = queue.submit("", SPEC).key
    for status, step in (
        ("queued", lambda: queue.claim(key, 1)),
        ("running", lambda: queue.cancel(key)),
        ("running", lambda: queue.finish(queue.get(key), Transition.FAIL, {"error": "no"})),
        ("failed", lambda: None),
    ):
        with pytest.raises(Validation, match=f"status is {status}; only a cancelled job"):
            queue.publish(key)
        step()
    with pytest.raises(JobNotFound):
        queue.publish(JobKey("", "0" * 16))


OLD_RECORD = {
    "order": json.dumps(SPEC.to_json()),
    "attempt": 1,
    "crashes": 0,
    "created": "1795468800.125",
    "started": "1795468801.250",
    "told": "1795468802000-0",
    "progress": '{"step": 3}',
    "version": "2",
}


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ({"status": "queued"}, JobState.QUEUED),
        ({"status": "running"}, JobState.RUNNING),
        ({"status": "running", "cancel": 1}, JobState.CANCELLING),
        ({"status": "running", "published": "true", "model": '"name@2"'}, JobState.PUBLISHED),
    ],
)
def test_a_record_of_an_earlier_version_is_read_and_changed(queue, flags, state):
    """It has the flags `cancel` and `published` where there is a state now."""
    key = JobKey("me", "0123456789abcdef")
    queue.connection.hset(f"carousel:job:{key}", mapping=OLD_RECORD | flags)
    queue.connection.sadd("carousel:jobs-open", f"carousel:job:{key}")
    job = queue.get(key)
    assert (job.state, job.spec, job.version, job.progress) == (state, SPEC, 2, {"step": 3})
    match state:
        case JobState.QUEUED:
            assert waiting(queue) == [(key, 1)]
            assert queue.claim(key, 1).state is JobState.RUNNING
        case JobState.RUNNING:
            assert not queue.renew(key, 1)
            assert queue.cancel(key).state is JobState.CANCELLING
        case JobState.CANCELLING:
            assert queue.renew(key, 1)
            assert queue.release(key, 1) is JobState.CANCELLED
            assert queue.publish(key).state is JobState.PUBLISH_REQUESTED
            assert queue.claim(key, 2).state is JobState.PUBLISHING
        case JobState.PUBLISHED:
            with pytest.raises(Fenced):
                queue.renew(key, 1)
            assert queue.finish(job, Transition.SUCCEED) is JobState.SUCCEEDED


def test_no_more_than_a_hundred_jobs_of_an_owner_are_open_whatever_has_ended(queue):
    for other in ("", "u/u", "uu", "v"):
        queue.submit(other, SPEC)
    keys = [queue.submit("u", SPEC).key for _ in range(CONFIG.max_open_jobs)]
    queue.cancel(keys[-1])
    for _ in range(CONFIG.max_open_jobs):  # the newest are all over
        queue.cancel(queue.submit("u", SPEC).key)
    queue.submit("u", SPEC)
    with pytest.raises(RateLimited, match="100 jobs are not over"):
        queue.submit("u", SPEC)
    assert len(queue.open()) == CONFIG.max_open_jobs + 4
    with pytest.raises(RateLimited, match="100 jobs are not over"):
        queue.publish(keys[-1])
    assert queue.get(keys[-1]).state is JobState.CANCELLED
    queue.cancel(keys[0])
    assert queue.publish(keys[-1]).state is JobState.PUBLISH_REQUESTED


def test_events_come_in_order_after_any_of_them(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    for n in range(700):
        queue.report(key, 1, "progress", {"n": n}, progress={"n": n})
    told, after = [], "0"
    while found := queue.events(key, after):
        told += found
        after = found[-1].id
    assert [event.data for event in told] == [f'{{"n": {n}}}' for n in range(700)]
    assert queue.events(key, told[-3].id) == told[-2:]
    assert queue.get(key).progress == {"n": 699}


def test_a_day_of_progress_pushes_nothing_else_out(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    for n in range(10_500):
        if n % 1_000 == 0:
            queue.report(key, 1, "validation", {"n": n})
        queue.report(key, 1, "progress", {"n": n})
    told, after = [], "0"
    while found := queue.events(key, after):
        told += found
        after = found[-1].id
    validations = [json.loads(event.data)["n"] for event in told if event.name == "validation"]
    assert validations == list(range(0, 10_500, 1_000))
    assert len(told) < 4_000
    assert told[-1].data == '{"n": 10499}'
    assert queue.events(key, told[-600].id) == told[-599:-99]


def test_ids_of_all_events_are_of_one_order_even_if_the_clock_goes_back(queue):
    key = queue.submit("", SPEC).key
    queue.claim(key, 1)
    names = ["progress", "validation", "progress", "sample", "sample", "progress"]
    for n in range(300):
        queue.report(key, 1, names[n % 6], {"n": n})
        if n == 100:
            ahead = f"{time.time() * 1000 + 3_600_000:.0f}-7"
            queue.connection.hset(f"carousel:job:{key}", "told", ahead)
    told = queue.events(key, "0")
    assert [json.loads(event.data)["n"] for event in told] == list(range(300))
    for at in range(0, 300, 7):
        assert queue.events(key, told[at].id) == told[at + 1 :]


LAST = 2**64 - 1


@pytest.mark.parametrize(
    "after",
    ["yesterday", "", "-", "1-", "-1", "1-1-1", f"{LAST}-{LAST}", f"{LAST + 1}", "٣", "1\n"],
)
def test_what_is_no_event_id_is_refused(queue, after):
    with pytest.raises(Validation, match="no event id"):
        queue.events(queue.submit("", SPEC).key, after)


@pytest.mark.parametrize("after", ["0", "1", "1-1", f"1-{LAST}", f"{LAST}", f"{LAST}-{LAST - 1}"])
def test_any_other_id_has_events_after_it_or_none(queue, after):
    key = queue.submit("", SPEC).key
    queue.cancel(key)
    assert len(queue.events(key, after)) == (len(after) < 10 or after.startswith("1-"))


def test_a_store_that_refuses_is_named_without_what_it_was_told(queue, caplog):
    queue.connection.set("carousel:jobs:me", "no set")
    with pytest.raises(StoreUnavailable) as refused:
        queue.submit("me", SPEC)
    assert str(refused.value) == "the store of train jobs refuses its work; try again"
    assert "WRONGTYPE" in caplog.text


def test_a_store_that_is_away_is_named(valkey, queue):
    queue.submit("", SPEC)
    valkey.kill()
    try:
        with pytest.raises(StoreUnavailable):
            queue.submit("", SPEC)
    finally:
        valkey.start()
    assert queue.jobs("")


def test_a_deleted_job_leaves_nothing_in_the_store(queue, valkey):
    job = queue.submit("someone", SPEC)
    other = queue.submit("someone", SPEC)
    with pytest.raises(JobNotOver, match="cancel it"):
        queue.delete(job.key)
    with pytest.raises(CorpusInUse, match="reads the corpus"):
        queue.check_unused("someone", SPEC.corpus)
    queue.check_unused("some", SPEC.corpus)
    for key in (job.key, other.key):
        queue.cancel(key)
    queue.check_unused("someone", SPEC.corpus)
    queue.delete(job.key)
    assert [one.key for one in queue.jobs("someone")] == [other.key]
    with pytest.raises(JobNotFound):
        queue.delete(job.key)
    queue.delete(other.key)
    assert valkey.client.keys("carousel:job*") == []
