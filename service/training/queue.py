"""Train jobs in Redis: their records, events and leases, and RQ, which carries them to workers.

The record is the truth and RQ only the carrier: an RQ job is one attempt, called `<id>-<attempt>`,
and what it does to the record passes the fence, which is the number of the latest attempt.
"""

import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
import rq
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus as RQJobStatus
from rq.registry import StartedJobRegistry

from service.errors import JobNotFound, StoreFull, StoreUnavailable, Validation
from service.training.job import (
    MAX_CRASHES,
    JobKey,
    JobStatus,
    TrainJob,
    TrainJobSpec,
    Transition,
    after,
)

PREFIX = "carousel:"
QUEUE = "carousel-train"
LEASE_MS = 8_000
"""An attempt that has not been heard of for so long is lost, and another may begin."""

ANSWER_LIMIT_S = 2.0
MAX_OPEN_JOBS = 100
MAX_EVENTS = 500
_SCRIPTS = Path(__file__).parent / "scripts"
_ATTEMPT = "service.worker.run_attempt"
_LOST = {RQJobStatus.FAILED, RQJobStatus.FINISHED, RQJobStatus.STOPPED, RQJobStatus.CANCELED}
# What the scripts say of a change.
_DONE, _CANCELLED = b"OK", b"CANCELLED"

_log = logging.getLogger(__name__)


class Fenced(Exception):
    """Another attempt has the job: this one may change nothing any more."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """Something that was told of a job. Ids grow."""

    id: str
    name: str
    data: str  # JSON


class JobQueue:
    """Operations on train jobs. Methods block for ANSWER_LIMIT_S at most; safe from any thread.

    All raise StoreUnavailable and StoreFull; those that name a job raise JobNotFound.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.connection = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=ANSWER_LIMIT_S,
            socket_connect_timeout=ANSWER_LIMIT_S,
            retry=Retry(NoBackoff(), 1),
        )
        common = (_SCRIPTS / "common.lua").read_text()
        self._submit, self._change, self._cancel, self._beat = (
            self.connection.register_script(common + (_SCRIPTS / f"{name}.lua").read_text())
            for name in ("submit", "change", "cancel", "beat")
        )

    def worker_connection(self) -> redis.Redis:
        """A connection for RQ's worker, which waits for jobs on it as long as it likes."""
        return redis.Redis.from_url(self._url, protocol=2)

    # -- a user's side

    def submit(self, owner: str, order: TrainJobSpec) -> TrainJob:
        """Take a job. Raises Validation where the owner has MAX_OPEN_JOBS that are not over."""
        key, now = JobKey(owner, secrets.token_hex(8)), time.time()
        record: dict[str, Any] = {
            "order": json.dumps(order.to_json()),
            "status": JobStatus.QUEUED,
            "attempt": 1,
            "crashes": 0,
            "created": f"{now:.3f}",
        }
        flat = [part for pair in record.items() for part in pair]
        with _named():
            reply = self._submit(
                keys=[_record(key), _index(owner), _open(), _traced()],
                args=[_record(JobKey(owner, "")), MAX_OPEN_JOBS, key.id, now, *flat],
            )
            if reply[0] == b"FULL":
                raise Validation(f"{MAX_OPEN_JOBS} jobs are not over, the limit; cancel one")
            with contextlib.suppress(redis.RedisError):  # who tends the jobs sees to it later
                self._enqueue(key, 1)
        return self.get(key)

    def get(self, key: JobKey) -> TrainJob:
        """A job as it stands."""
        with _named():
            fields: dict[bytes, bytes] = self.connection.hgetall(_record(key))  # type: ignore[assignment]
        if not fields:
            raise JobNotFound(f"there is no train job {key.id[:80]!r}")
        return _job(key, {name.decode(): value.decode() for name, value in fields.items()})

    def jobs(self, owner: str, most: int = 1_000) -> list[TrainJob]:
        """An owner's jobs, the newest first."""
        with _named():
            ids: list[bytes] = self.connection.zrevrange(_index(owner), 0, most - 1)  # type: ignore[assignment]
        jobs = []
        for job_id in ids:
            with contextlib.suppress(JobNotFound):
                jobs.append(self.get(JobKey(owner, job_id.decode())))
        return jobs

    def cancel(self, key: JobKey) -> TrainJob:
        """End a job: at once where it waits, at the end of its step where it runs."""
        with _named():
            self._cancel(keys=self._keys(key))
        return self.get(key)

    def events(self, key: JobKey, after_id: str) -> list[StoredEvent]:
        """What was told after an event; '0' is the beginning."""
        if not _is_event_id(after_id):
            raise Validation(f"{after_id[:80]!r} is no event id; one looks like 1795468800000-0")
        with _named(), self.connection.pipeline(transaction=True) as pipe:
            for stream in (_events(key), _progress(key)):
                pipe.xrange(stream, f"({after_id}", "+", MAX_EVENTS)
            lasting, passing = pipe.execute()
        found = sorted(lasting + passing, key=lambda event: _place(event[0].decode()))
        return [
            StoredEvent(event_id.decode(), fields[b"name"].decode(), fields[b"data"].decode())
            for event_id, fields in found[:MAX_EVENTS]
        ]

    # -- an attempt's side

    def claim(self, key: JobKey, attempt: int) -> TrainJob:
        """Begin an attempt. Raises Superseded where it is not the latest, or not wanted."""
        fields = {"started": f"{time.time():.3f}"}
        verdict = self._ask(key, JobStatus.QUEUED, Transition.CLAIM, fields, attempt, str(LEASE_MS))
        if verdict != _DONE:
            raise Fenced
        return self.get(key)

    def beat(self, key: JobKey, attempt: int) -> bool:
        """Say that the attempt lives; whether it is to end. Raises Superseded."""
        with _named():
            verdict = self._beat(keys=[_record(key), _lease(key)], args=[attempt, LEASE_MS])
        if verdict == b"FENCED":
            raise Fenced
        return bool(verdict == b"CANCEL")

    def tell(
        self, key: JobKey, attempt: int, name: str, data: dict[str, Any], **fields: Any
    ) -> None:
        """Tell of an event, and keep JSON `fields` of the record. Raises Superseded."""
        flat = [part for one, value in fields.items() for part in (one, json.dumps(value))]
        with _named():
            reply = self._change(
                keys=self._keys(key),
                args=[attempt, JobStatus.RUNNING, "", "", 0, name, json.dumps(data), *flat],
            )
        if reply[0] != _DONE:
            raise Fenced

    def release(self, key: JobKey, attempt: int) -> None:
        """Leave a job to another worker, or end it where it is cancelled. Raises Superseded."""
        fields = {"attempt": attempt + 1}
        verdict = self._ask(key, JobStatus.RUNNING, Transition.RELEASE, fields, attempt, "0")
        if verdict not in {_DONE, _CANCELLED}:
            raise Fenced
        if verdict == _DONE:
            with _named():
                self._enqueue(key, attempt + 1)

    def settle(
        self, key: JobKey, attempt: int, change: Transition, error: dict[str, str] | None = None
    ) -> None:
        """Bring a job to its end. Raises Superseded."""
        fields: dict[str, Any] = {}
        status, model = after(JobStatus.RUNNING, change), self.get(key).model
        told: dict[str, Any] = {"status": status, "model": model}
        if error is not None:
            fields["error"] = json.dumps(error)
            told["error"] = error
        verdict = self._ask(key, JobStatus.RUNNING, change, fields, attempt, "0", ("done", told))
        if verdict != _DONE:
            raise Fenced

    # -- who tends the jobs

    def open(self) -> list[TrainJob]:
        """Every job that is not over, whoever owns it."""
        with _named():
            names: set[bytes] = self.connection.smembers(_open())  # type: ignore[assignment]
        jobs = []
        for name in names:
            with contextlib.suppress(JobNotFound):
                jobs.append(self.get(_key(name)))
        return jobs

    def left(self) -> list[TrainJob]:
        """Every job that is over and not yet forgotten: there may be something left of it."""
        with _named():
            names: list[bytes] = self.connection.sdiff([_traced(), _open()])  # type: ignore[assignment]
        jobs = []
        for name in names:
            try:
                jobs.append(self.get(_key(name)))
            except JobNotFound:
                self.forget(_key(name))
        return jobs

    def forget(self, key: JobKey) -> None:
        """Say that nothing is left of a job that is over. Its record stays."""
        with _named():
            self.connection.srem(_traced(), _record(key))

    def sweep(self) -> list[TrainJob]:
        """Give jobs whose attempt is lost to the next one, or up after MAX_CRASHES.

        Returns the jobs that were open.
        """
        jobs = self.open()
        for job in jobs:
            if job.status is JobStatus.RUNNING and not job.is_published:
                self._sweep_running(job)
            elif job.status is JobStatus.QUEUED and (job.is_cancelled or self._is_lost(job)):
                self._begin_next(job, {})
        return jobs

    def _sweep_running(self, job: TrainJob) -> None:
        with _named():
            if self.connection.exists(_lease(job.key)):
                return
        crashes = job.crashes + 1
        fields: dict[str, Any] = {"crashes": crashes, "attempt": job.attempt + 1}
        if job.is_cancelled or crashes < MAX_CRASHES:
            self._begin_next(job, fields)
            return
        error = {
            "error": f"the job's process has died {crashes} times; it is not tried again",
            "error_type": "poisoned",
        }
        fields["error"] = json.dumps(error)
        told = {"status": JobStatus.FAILED, "model": None, "error": error}
        self._ask(job.key, job.status, Transition.FAIL, fields, job.attempt, "gone", ("done", told))

    def _begin_next(self, job: TrainJob, fields: dict[str, Any]) -> None:
        """Let the next attempt begin; a cancelled job ends."""
        fields = {"attempt": job.attempt + 1} | fields
        verdict = self._ask(job.key, job.status, Transition.LOSE, fields, job.attempt, "gone")
        if verdict == _DONE:
            with _named():
                self._enqueue(job.key, job.attempt + 1)

    def _is_lost(self, job: TrainJob) -> bool:
        """Whether RQ does not carry the attempt that is next."""
        with _named():
            queue = self._queue()
            StartedJobRegistry(queue=queue, serializer=_JSON).cleanup()
            try:
                carried = rq.job.Job.fetch(
                    _carried(job.key, job.attempt), self.connection, serializer=_JSON
                )
            except NoSuchJobError:
                return True
            return carried.get_status() in _LOST

    # --

    def _ask(
        self,
        key: JobKey,
        status: JobStatus,
        change: Transition,
        fields: dict[str, Any],
        attempt: int,
        lease: str,
        event: tuple[str, dict[str, Any]] = ("", {}),
    ) -> bytes:
        """Make a change if the status is still this one and the fence lets it.

        Returns the script's word for what became of it.
        """
        target = after(status, change)
        assert target is not None
        if target.is_over:
            fields = fields | {"ended": f"{time.time():.3f}"}
        name, data = event
        flat = [part for pair in fields.items() for part in pair]
        head: list[Any] = [
            attempt,
            status,
            lease,
            target,
            int(target.is_over),
            name,
            json.dumps(data),
        ]
        with _named():
            reply = self._change(keys=self._keys(key), args=[*head, *flat])
        return bytes(reply[0])

    def _keys(self, key: JobKey) -> Sequence[str]:
        return [_record(key), _lease(key), _events(key), _progress(key), _open()]

    def _queue(self) -> rq.Queue:
        return rq.Queue(QUEUE, self.connection, serializer=_JSON)

    def _enqueue(self, key: JobKey, attempt: int) -> None:
        self._queue().enqueue_call(
            _ATTEMPT,
            args=[key.owner, key.id, attempt],
            timeout=-1,
            result_ttl=0,
            failure_ttl=3_600,
            job_id=_carried(key, attempt),
        )


_JSON = "json"


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Turn what Redis says into named conditions."""
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise StoreFull("the store has no room for more train jobs") from error
    except redis.ResponseError as error:
        if "OOM" in str(error):
            raise StoreFull("the store has no room for more train jobs") from error
        _log.warning("the store of train jobs refuses its work: %s", error)
        raise StoreUnavailable("the store of train jobs refuses its work; try again") from error
    except redis.RedisError as error:
        raise StoreUnavailable("the store of train jobs does not answer; try again") from error


def _record(key: JobKey) -> str:
    return f"{PREFIX}job:{key}"


def _key(record: bytes) -> JobKey:
    owner, _, job_id = record.decode().removeprefix(f"{PREFIX}job:").rpartition("/")
    return JobKey(owner, job_id)


def _lease(key: JobKey) -> str:
    return f"{PREFIX}job-lease:{key}"


def _events(key: JobKey) -> str:
    return f"{PREFIX}job-events:{key}"


def _progress(key: JobKey) -> str:
    return f"{PREFIX}job-progress:{key}"


def _index(owner: str) -> str:
    return f"{PREFIX}jobs:{owner}"


def _open() -> str:
    return f"{PREFIX}jobs-open"


def _traced() -> str:
    return f"{PREFIX}jobs-traced"


def _carried(key: JobKey, attempt: int) -> str:
    return f"{key.id}-{attempt}"


def _is_event_id(text: str) -> bool:
    """Whether the store knows what comes after it: after the last of all nothing can."""
    is_one = re.fullmatch(r"[0-9]{1,20}(-[0-9]{1,20})?", text) is not None
    return is_one and max(_place(text)) < 2**64 and min(_place(text)) < 2**64 - 1


def _place(event_id: str) -> tuple[int, int]:
    ms, _, n = event_id.partition("-")
    return int(ms), int(n or 0)


def _job(key: JobKey, fields: dict[str, str]) -> TrainJob:
    def value(name: str) -> Any:
        return json.loads(fields[name]) if name in fields else None

    return TrainJob(
        key=key,
        order=TrainJobSpec.from_json(value("order")),
        status=JobStatus(fields["status"]),
        attempt=int(fields["attempt"]),
        crashes=int(fields["crashes"]),
        is_cancelled=fields.get("cancel") == "1",
        is_published=value("published") is True,
        created_s=float(fields["created"]),
        started_s=value("started"),
        ended_s=value("ended"),
        progress=value("progress"),
        validation=value("validation"),
        best=value("best"),
        version=value("version"),
        model=value("model"),
        error=value("error"),
    )
