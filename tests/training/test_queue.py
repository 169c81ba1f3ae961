"""Records, fences and leases of train jobs, on a real store."""

import json
import time
from collections.abc import Iterator

import pytest
import rq

from service.errors import JobNotFound, StoreUnavailable, Validation
from service.training import queue as queue_module
from service.training.job import JobKey, JobStatus, TrainJobSpec, Transition
from service.training.queue import MAX_OPEN_JOBS, QUEUE, Fenced, JobQueue
from service.training.recipe import Recipe
from tests.sessions.valkey import OwnValkey

ORDER = TrainJobSpec("name", "c" * 32, Recipe())


@pytest.fixture(scope="module")
def valkey(tmp_path_factory) -> Iterator[OwnValkey]:
    own = OwnValkey(tmp_path_factory.mktemp("valkey"))
    own.start()
    yield own
    own.close()


@pytest.fixture
def queue(valkey, monkeypatch) -> Iterator[JobQueue]:
    monkeypatch.setattr(queue_module, "LEASE_MS", 200)
    valkey.client.flushall()
    made = JobQueue(valkey.url)
    yield made
    made.connection.close()


def carried(queue: JobQueue) -> list[str]:
    return rq.Queue(QUEUE, queue.connection, serializer="json").job_ids


def test_a_job_is_taken_carried_and_listed(queue):
    job = queue.submit("me", ORDER)
    assert (job.status, job.attempt, job.order) == (JobStatus.QUEUED, 1, ORDER)
    assert carried(queue) == [f"{job.key.id}-1"]
    assert queue.jobs("me") == [job]
    assert queue.jobs("you") == []


def test_another_owners_job_is_as_one_that_never_was(queue):
    job = queue.submit("me", ORDER)
    sentences = []
    for job_id in (job.key.id, "0" * 16):
        with pytest.raises(JobNotFound) as missing:
            queue.get(JobKey("you", job_id))
        sentences.append(str(missing.value).replace(job_id, ""))
    assert sentences[0] == sentences[1]


def test_only_the_latest_attempt_may_change_anything(queue):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    with pytest.raises(Fenced):
        queue.claim(key, 1)
    queue.release(key, 1)
    queue.claim(key, 2)
    for deed in (
        lambda: queue.beat(key, 1),
        lambda: queue.tell(key, 1, "progress", {}),
        lambda: queue.settle(key, 1, Transition.SUCCEED),
        lambda: queue.release(key, 1),
    ):
        with pytest.raises(Fenced):
            deed()
    assert queue.get(key).status is JobStatus.RUNNING
    assert queue.events(key, "0") == []


def test_a_lost_attempt_begins_again_and_a_living_one_does_not(queue):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    queue.sweep()
    assert queue.get(key).status is JobStatus.RUNNING
    time.sleep(0.15)
    queue.beat(key, 1)
    time.sleep(0.15)
    queue.sweep()
    assert queue.get(key).attempt == 1
    time.sleep(0.1)
    queue.sweep()
    job = queue.get(key)
    assert (job.status, job.attempt, job.crashes) == (JobStatus.QUEUED, 2, 1)
    assert f"{key.id}-2" in carried(queue)
    with pytest.raises(Fenced):
        queue.beat(key, 1)


def test_a_job_that_kills_its_process_thrice_is_given_up(queue):
    key = queue.submit("", ORDER).key
    for attempt in (1, 2, 3):
        queue.claim(key, attempt)
        time.sleep(0.25)
        queue.sweep()
    job = queue.get(key)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error["error_type"] == "poisoned"
    assert queue.events(key, "0")[-1].name == "done"
    assert queue.open() == []


def test_what_the_queue_has_lost_is_carried_again(queue):
    key = queue.submit("", ORDER).key
    rq.Queue(QUEUE, queue.connection, serializer="json").empty()
    queue.sweep()
    assert carried(queue) == [f"{key.id}-2"]
    queue.sweep()
    assert carried(queue) == [f"{key.id}-2"]
    queue.claim(key, 2)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_told(queue):
    waiting, running = queue.submit("", ORDER).key, queue.submit("", ORDER).key
    assert queue.cancel(waiting).status is JobStatus.CANCELLED
    with pytest.raises(Fenced):
        queue.claim(waiting, 1)
    queue.claim(running, 1)
    assert not queue.beat(running, 1)
    assert queue.cancel(running).status is JobStatus.RUNNING
    assert queue.beat(running, 1)
    queue.settle(running, 1, Transition.CANCEL)
    assert queue.cancel(running).status is JobStatus.CANCELLED


def test_a_cancelled_job_whose_process_dies_is_cancelled(queue):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    queue.cancel(key)
    time.sleep(0.25)
    queue.sweep()
    assert queue.get(key).status is JobStatus.CANCELLED


@pytest.mark.parametrize("n", range(1, 7))
def test_no_release_comes_between_a_cancel_and_what_it_says(valkey, queue, monkeypatch, n):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    other, execute, calls = JobQueue(valkey.url), queue.connection.execute_command, []

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
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    assert queue.cancel(key).is_cancelled
    queue.release(key, 1)
    job = queue.get(key)
    assert job.status is JobStatus.CANCELLED
    assert job.ended_s == pytest.approx(time.time(), abs=60)
    assert queue.events(key, "0")[-1].data == '{"status": "cancelled", "model": null}'
    assert queue.open() == []
    assert carried(queue) == [f"{key.id}-1"]


def test_a_sweep_ends_a_waiting_job_that_is_cancelled(queue):
    key = queue.submit("", ORDER).key
    queue.connection.hset(f"carousel:job:{key}", "cancel", 1)
    queue.sweep()
    assert queue.get(key).status is JobStatus.CANCELLED


def test_a_cancelled_job_is_no_crash_even_if_the_sweep_has_not_heard_of_it(queue, monkeypatch):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    time.sleep(0.25)
    before = queue.open()
    queue.cancel(key)
    monkeypatch.setattr(queue, "open", lambda: before)
    queue.sweep()
    assert queue.get(key).status is JobStatus.CANCELLED


def test_no_more_than_a_hundred_jobs_of_an_owner_are_open_whatever_has_ended(queue):
    for other in ("", "u/u", "uu", "v"):
        queue.submit(other, ORDER)
    keys = [queue.submit("u", ORDER).key for _ in range(MAX_OPEN_JOBS)]
    queue.cancel(keys[-1])
    for _ in range(MAX_OPEN_JOBS):  # the newest are all over
        queue.cancel(queue.submit("u", ORDER).key)
    queue.submit("u", ORDER)
    with pytest.raises(Validation, match="100 jobs are not over"):
        queue.submit("u", ORDER)
    assert len(queue.open()) == MAX_OPEN_JOBS + 4


def test_events_come_in_order_after_any_of_them(queue):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    for n in range(700):
        queue.tell(key, 1, "progress", {"n": n}, progress={"n": n})
    told, after = [], "0"
    while found := queue.events(key, after):
        told += found
        after = found[-1].id
    assert [event.data for event in told] == [f'{{"n": {n}}}' for n in range(700)]
    assert queue.events(key, told[-3].id) == told[-2:]
    assert queue.get(key).progress == {"n": 699}


def test_a_day_of_progress_pushes_nothing_else_out(queue):
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    for n in range(10_500):
        if n % 1_000 == 0:
            queue.tell(key, 1, "validation", {"n": n})
        queue.tell(key, 1, "progress", {"n": n})
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
    key = queue.submit("", ORDER).key
    queue.claim(key, 1)
    names = ["progress", "validation", "progress", "sample", "sample", "progress"]
    for n in range(300):
        queue.tell(key, 1, names[n % 6], {"n": n})
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
        queue.events(queue.submit("", ORDER).key, after)


@pytest.mark.parametrize("after", ["0", "1", "1-1", f"1-{LAST}", f"{LAST}", f"{LAST}-{LAST - 1}"])
def test_any_other_id_has_events_after_it_or_none(queue, after):
    key = queue.submit("", ORDER).key
    queue.cancel(key)
    assert len(queue.events(key, after)) == (len(after) < 10 or after.startswith("1-"))


def test_a_store_that_refuses_is_named_without_what_it_was_told(queue, caplog):
    queue.connection.set("carousel:jobs:me", "no set")
    with pytest.raises(StoreUnavailable) as refused:
        queue.submit("me", ORDER)
    assert str(refused.value) == "the store of train jobs refuses its work; try again"
    assert "WRONGTYPE" in caplog.text


def test_a_store_that_is_away_is_named(valkey, queue):
    queue.submit("", ORDER)
    valkey.kill()
    try:
        with pytest.raises(StoreUnavailable):
            queue.submit("", ORDER)
    finally:
        valkey.start()
    assert queue.jobs("")
