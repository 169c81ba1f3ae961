"""The records of train jobs in Redis: their keys, how a record is read, how it is changed."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import JobNotOver, RateLimited, StoreFull, StoreUnavailable
from service.training.config import QueueConfig
from service.training.job import JobKey, TrainJob
from service.training.job_spec import TrainJobSpec
from service.training.states import JobState

PREFIX = "carousel:"
OPEN, TRACED = f"{PREFIX}jobs-open", f"{PREFIX}jobs-traced"
_SCRIPTS = Path(__file__).parent / "scripts"
_log = logging.getLogger(__name__)

FULL_RETRY_S = 10.0  # advised where the end of a job is not known


class Fenced(Exception):
    """The change is refused: another attempt has the job, or its state has no such transition."""


class JobStore:
    """Records of train jobs, and the one script that changes them. Safe from any thread.

    Methods block for two times `answer_limit_s` at most. All raise StoreUnavailable and StoreFull.
    """

    def __init__(self, url: str, config: QueueConfig) -> None:
        self.config = config
        self.connection = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=config.answer_limit_s,
            socket_connect_timeout=config.answer_limit_s,
            retry=Retry(NoBackoff(), 1),
        )
        common = (_SCRIPTS / "common.lua").read_text()
        self._submit, self._change, self._delete = (
            self.connection.register_script(common + (_SCRIPTS / f"{name}.lua").read_text())
            for name in ("submit", "change", "delete")
        )

    def call(self, *command: str | int) -> Any:
        """Run one command of Redis."""
        with named_errors():
            return self.connection.execute_command(*command)  # type: ignore[no-untyped-call]

    def insert(
        self, key: JobKey, now: float, record: Mapping[str, Any], max_open: int | None = None
    ) -> None:
        """Store a new record. Raises RateLimited where so many jobs of the owner are open.

        That is max_open_jobs, or `max_open` if it is less.
        """
        limit = self.config.max_open_jobs
        limit = limit if max_open is None else min(limit, max_open)
        flat = [part for pair in record.items() for part in pair]
        with named_errors():
            reply = self._submit(
                keys=[redis_key("job", key), index_key(key.owner), OPEN],
                args=[limit, key.id, now, *flat],
            )
        _check_open_limit(reply, limit)

    def find(self, key: JobKey) -> TrainJob | None:
        """Read a job; None where there is none or its record has expired."""
        fields: dict[bytes, bytes] = self.call("HGETALL", redis_key("job", key))
        if not fields:
            return None
        return read_record(key, {name.decode(): value.decode() for name, value in fields.items()})

    def change(
        self, key: JobKey, attempt: int | None, lease: str, rows: Mapping[JobState, dict[str, Any]]
    ) -> JobState:
        """Run change.lua, which explains the arguments, and return the new state.

        Raises Fenced, and RateLimited where a row opens a job again as `insert`.
        """
        kinds = ("job", "job-lease", "job-events", "job-progress")
        keys = [*(redis_key(kind, key) for kind in kinds), OPEN, TRACED]
        arguments = ["" if attempt is None else attempt, lease, json.dumps(rows)]
        with named_errors():
            reply = self._change(keys=keys, args=arguments)
        _check_open_limit(reply, self.config.max_open_jobs)
        if reply[0] != b"OK":
            raise Fenced
        return JobState(reply[1].decode())

    def delete(self, key: JobKey) -> bool:
        """Delete a job's record, events and lease; return whether there was one.

        Raises JobNotOver.
        """
        kinds = ("job", "job-lease", "job-events", "job-progress")
        keys = [*(redis_key(kind, key) for kind in kinds), OPEN, TRACED, index_key(key.owner)]
        with named_errors():
            reply = self._delete(keys=keys, args=[key.id])
        if reply[0] == b"OPEN":
            raise JobNotOver(f"the train job {key.id} is not over; cancel it, and wait for its end")
        return bool(reply[0] == b"OK")


def _check_open_limit(reply: list[bytes], limit: int) -> None:
    if reply[0] == b"FULL":
        message = f"{limit} jobs are not over, the limit: cancel one, or wait until one has ended"
        raise RateLimited(message, FULL_RETRY_S)


def redis_key(kind: str, key: JobKey) -> str:
    """A key of a job: `job`, which is its record, `job-lease`, `job-events` or `job-progress`."""
    return f"{PREFIX}{kind}:{key}"


def job_key(record: bytes) -> JobKey:
    """The job whose record has this key."""
    owner, _, job_id = record.decode().removeprefix(f"{PREFIX}job:").rpartition("/")
    return JobKey(owner, job_id)


def index_key(owner: str) -> str:
    """The sorted set of an owner's jobs, by the time of submission."""
    return f"{PREFIX}jobs:{owner}"


def read_record(key: JobKey, fields: Mapping[str, str]) -> TrainJob:
    """A job from the fields of its record."""

    def value(name: str) -> Any:
        return json.loads(fields[name]) if name in fields else None

    plain = ("progress", "validation", "best", "version", "model", "error")
    return TrainJob(
        key=key,
        spec=TrainJobSpec.from_json(value("order")),
        state=record_state(fields),
        attempt=int(fields["attempt"]),
        crashes=int(fields["crashes"]),
        created_s=float(fields["created"]),
        started_s=value("started"),
        ended_s=value("ended"),
        **{name: value(name) for name in plain},
    )


def record_state(fields: Mapping[str, str]) -> JobState:
    """The state in a record, also of an earlier version: as `read_state` in common.lua."""
    status = fields["status"]
    if status == "running" and fields.get("published") == "true":
        return JobState.PUBLISHED
    if status in {"running", "queued"} and fields.get("cancel") == "1":
        return JobState.CANCELLING
    return JobState(status)


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Raise errors of Redis as StoreFull and StoreUnavailable."""
    try:
        yield
    except redis.ResponseError as error:
        if isinstance(error, redis.OutOfMemoryError) or "OOM" in str(error):
            raise StoreFull("the store is full and takes no more train jobs") from error
        _log.warning("the store of train jobs refuses a command: %s", error)
        raise StoreUnavailable("the store of train jobs refuses its work; try again") from error
    except redis.RedisError as error:
        raise StoreUnavailable("the store of train jobs does not answer; try again") from error
