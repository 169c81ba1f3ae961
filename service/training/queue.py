"""The queue of train jobs: submit, follow, cancel and publish them; take, run and reconcile them.

A job's record is the only truth. The open jobs of a kind of machine are its queue: a worker takes
the oldest job that waits by setting its lease. Every write of an attempt passes the fence, which is
the number of the job's latest attempt.
"""

import contextlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import CorpusInUse, JobNotFound, Validation
from service.training.config import QueueConfig
from service.training.job import JobKey, TrainJob
from service.training.job_spec import DEFAULT_QUEUE, TrainJobSpec
from service.training.job_store import (
    Connection,
    Fenced,
    JobStore,
)
from service.training.states import JobState, Transition, targets

_KEEP, _END, _ABSENT = "keep", "end", "absent"  # leases, as change.lua names them
_ATTEMPTED = [state for state in JobState if state.has_attempt]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of a job. Ids grow."""

    id: str
    name: str
    data: str  # JSON


class JobQueue:
    """Operations on train jobs. Methods block on Redis for seconds at most; safe from any thread.

    All raise StoreUnavailable and StoreFull; those that name a job raise JobNotFound. The methods
    for workers and attempts raise Fenced where the job is no longer the attempt's.
    """

    def __init__(self, url: str, config: QueueConfig) -> None:
        self._store, self._config = JobStore(url, config), config
        self._names = self._store.names

    @property
    def connection(self) -> Connection:
        """The connection of its store."""
        return self._store.connection

    # -- for users

    def submit(self, owner: str, spec: TrainJobSpec, max_open: int | None = None) -> TrainJob:
        """Queue a job. Raises RateLimited where max_open_jobs, or `max_open`, are open."""
        key, now = JobKey(owner, secrets.token_hex(8)), time.time()
        record: dict[str, Any] = {
            "order": json.dumps(spec.to_json()),
            "status": JobState.QUEUED,
            "attempt": 1,
            "crashes": 0,
            "created": f"{now:.3f}",
        }
        self._store.insert(key, now, record, max_open)
        return self.get(key)

    def get(self, key: JobKey) -> TrainJob:
        """Read a job."""
        job = self._store.find(key)
        if job is None:
            raise _not_found(key)
        return job

    def jobs(self, owner: str) -> list[TrainJob]:
        """List an owner's latest thousand jobs, the newest first."""
        ids: list[bytes] = self._store.call("ZREVRANGE", self._names.index(owner), 0, 999)
        found = (self._store.find(JobKey(owner, job_id.decode())) for job_id in ids)
        return [job for job in found if job is not None]

    def cancel(self, key: JobKey) -> TrainJob:
        """Cancel a job: at once where it waits, at the end of a step where it is trained.

        A publication that has begun is not cancelled: it takes seconds.
        """
        with contextlib.suppress(Fenced):  # it is over, or about to be
            self._apply(key, None, Transition.CANCEL, _KEEP)
        return self.get(key)

    def publish(self, key: JobKey) -> TrainJob:
        """Queue the publication of a cancelled job's best checkpoint, if it is not yet published.

        Raises Validation where the job is in another state, and RateLimited as `submit`.
        """
        fields = {"crashes": 0, "error": None, "ended": None}
        with contextlib.suppress(Fenced):  # the answer depends on its state
            self._apply(key, None, Transition.PUBLISH, _KEEP, fields)
        job = self.get(key)
        is_under_way = job.state in {JobState.PUBLISH_REQUESTED, JobState.PUBLISHING}
        if not is_under_way and job.model is None:
            raise Validation(
                f"the job's status is {job.status}; only a cancelled job can be published: "
                "cancel it first and wait for its end"
            )
        return job

    def delete(self, key: JobKey) -> None:
        """Delete the record of a job that is over, with its events. Raises JobNotOver."""
        if not self._store.delete(key):
            raise _not_found(key)

    def check_unused(self, owner: str, corpus_id: str) -> None:
        """Check that no job of the owner that is not over reads a corpus. Raises CorpusInUse."""
        for job in self.open():
            if job.key.owner == owner and job.spec.corpus == corpus_id:
                raise CorpusInUse(
                    f"the train job {job.key.id} reads the corpus {corpus_id} and is not over; "
                    "cancel it, or wait for its end"
                )

    def events(self, key: JobKey, after_id: str) -> list[StoredEvent]:
        """List the events after an event, max_events at most; '0' is the beginning."""
        if not _is_event_id(after_id):
            raise Validation(f"{after_id[:80]!r} is no event id; one looks like 1795468800000-0")
        most = self._config.max_events
        found = self._store.events(key, after_id, most)
        found.sort(key=lambda event: _order(event[0]))
        return [
            StoredEvent(event_id, fields["name"], fields["data"])
            for event_id, fields in found[:most]
        ]

    # -- for workers

    def take(self, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> TrainJob | None:
        """Take the oldest job that waits in the first of `queues`, else in the next one.

        Its attempt has to begin within start_ms.
        """
        waiting = [job for job in self.open() if job.state.is_waiting and job.spec.queue in queues]
        for job in sorted(waiting, key=lambda job: (queues.index(job.spec.queue), job.created_s)):
            if self.lease(job, self._config.start_ms):
                return job
        return None

    def start_failed(self, key: JobKey, attempt: int) -> None:
        """Queue a job again whose attempt has ended without a claim."""
        self._apply(key, attempt, Transition.START_FAILED, _END)

    # -- for attempts

    def claim(self, key: JobKey, attempt: int) -> TrainJob:
        """Begin an attempt."""
        fields = {"started": round(time.time(), 3)}
        self._apply(key, attempt, Transition.CLAIM, str(self._config.lease_ms), fields)
        return self.get(key)

    def renew(self, key: JobKey, attempt: int) -> bool:
        """Renew the attempt's lease. Returns whether the job is cancelled."""
        rows = {state: _row(state, {}) for state in _ATTEMPTED}
        state = self._store.change(key, attempt, str(self._config.lease_ms), rows)
        return state is JobState.CANCELLING

    def report(
        self, key: JobKey, attempt: int, name: str, data: dict[str, Any], **fields: Any
    ) -> None:
        """Append an event, unless its name is empty, and set JSON `fields` of the record."""
        event = {"event": name, "data": json.dumps(data)} if name else {}
        rows = {state: _row(state, fields) | event for state in _ATTEMPTED}
        self._store.change(key, attempt, _KEEP, rows)

    def release(self, key: JobKey, attempt: int) -> JobState:
        """End an attempt before its end: another one continues, or a cancelled job ends."""
        return self._apply(key, attempt, Transition.RELEASE, _END)

    def stored(self, key: JobKey, attempt: int, model: str) -> TrainJob:
        """Record that the job's model is stored, which ends the attempt."""
        self._apply(key, attempt, Transition.MODEL_STORED, _END, {"model": model})
        return self.get(key)

    def finish(
        self, job: TrainJob, transition: Transition, error: dict[str, str] | None = None
    ) -> JobState:
        """End the latest attempt of a job by SUCCEED or FAIL."""
        fields = {} if error is None else {"error": error}
        return self._apply(job.key, job.attempt, transition, _END, fields, job.model)

    # -- for the reconciler

    def open(self) -> list[TrainJob]:
        """List every owner's jobs that are not over."""
        found = (
            self._store.find(self._names.job(name))
            for name in self._store.call("SMEMBERS", self._names.open)
        )
        return [job for job in found if job is not None]

    def jobs_to_clean_up(self) -> list[TrainJob]:
        """List the jobs that are over and whose folders may hold files."""
        jobs = []
        for key in map(
            self._names.job, self._store.call("SDIFF", self._names.traced, self._names.open)
        ):
            job = self._store.find(key)
            if job is None:
                self.mark_clean(key)
            else:
                jobs.append(job)
        return jobs

    def mark_clean(self, key: JobKey) -> None:
        """Record that the folder of a job that is over holds nothing to remove."""
        self._store.call("SREM", self._names.traced, self._names.of("job", key))

    def lease(self, job: TrainJob, ms: int) -> bool:
        """Take the job's lease for so long, if it is free: only its holder acts on the job."""
        key = self._names.of("job-lease", job.key)
        return bool(self._store.call("SET", key, job.attempt, "NX", "PX", ms))

    def end_lease(self, key: JobKey) -> None:
        """Give a job's lease back."""
        self._store.call("DEL", self._names.of("job-lease", key))

    def requeue_lost(self) -> list[TrainJob]:
        """Queue jobs whose attempt is lost, or fail them at max_crashes. Returns the open jobs."""
        jobs = self.open()
        for job in jobs:
            if job.state.has_attempt:
                self._requeue_if_lost(job)
        return jobs

    def _requeue_if_lost(self, job: TrainJob) -> None:
        if self._store.call("EXISTS", self._names.of("job-lease", job.key)):
            return
        crashes = job.crashes + 1
        fields: dict[str, Any] = {"crashes": crashes}
        transition = Transition.LEASE_LOST
        if crashes >= self._config.max_crashes and job.state is not JobState.CANCELLING:
            transition = Transition.FAIL
            fields["error"] = {
                "error": f"the job's process has died {crashes} times; it is not tried again",
                "error_type": "poisoned",
            }
        with contextlib.suppress(Fenced):  # by another server, or the lease is renewed
            self._apply(job.key, job.attempt, transition, _ABSENT, fields)

    def _apply(
        self,
        key: JobKey,
        attempt: int | None,
        transition: Transition,
        lease: str,
        fields: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> JobState:
        """Make a transition of the table and return the new state."""
        fields = fields or {}
        reopening = {"open_limit": self._config.max_open_jobs}
        rows = {
            state: _row(to, fields)
            | _event(to, fields, model)
            | (reopening if state.is_over and not to.is_over else {})
            for state, to in targets(transition).items()
        }
        return self._store.change(key, attempt, lease, rows)


def _not_found(key: JobKey) -> JobNotFound:
    return JobNotFound(f"there is no train job {key.id[:80]!r}")


def _row(to: JobState, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What change.lua does in a state that leads to another, or stays."""
    values = {name: json.dumps(value) for name, value in fields.items()}
    if to.is_over:
        values["ended"] = f"{time.time():.3f}"
    return {"to": to, "fields": values, "next_attempt": to.is_waiting, "is_over": to.is_over}


def _event(to: JobState, fields: Mapping[str, Any], model: str | None) -> dict[str, str]:
    """The event of a transition to a state, if it has one."""
    if to is JobState.PUBLISHED:
        return {"event": "published", "data": json.dumps({"model": fields["model"]})}
    if not to.is_over:
        return {}
    data = {"status": to.status, "model": model}
    if "error" in fields:
        data["error"] = fields["error"]
    return {"event": "done", "data": json.dumps(data)}


def _is_event_id(text: str) -> bool:
    """Whether Redis takes the text as an id that another may follow: none follows the highest."""
    is_id = re.fullmatch(r"[0-9]{1,20}(-[0-9]{1,20})?", text) is not None
    return is_id and max(_order(text)) < 2**64 and min(_order(text)) < 2**64 - 1


def _order(event_id: str) -> tuple[int, int]:
    ms, _, n = event_id.partition("-")
    return int(ms), int(n or 0)
