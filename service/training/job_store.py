"""The records of train jobs in Redis: their keys, how a record is read, how it is changed."""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from service.errors import JobNotOver, RateLimited, StoreFull, StoreUnavailable
from service.store_address import ClusterAddress, is_cluster_url, key_prefix
from service.training.config import QueueConfig
from service.training.job import JobKey, TrainJob
from service.training.job_spec import TrainJobSpec
from service.training.states import JobState

Connection = redis.Redis
_SCRIPTS = Path(__file__).parent / "scripts"
_log = logging.getLogger(__name__)

FULL_RETRY_S = 10.0  # advised where the end of a job is not known


class Fenced(Exception):
    """The change is refused: another attempt has the job, or its state has no such transition."""


@dataclass(frozen=True, slots=True)
class JobNames:
    """The names of the keys of train jobs, which are all in one slot of a cluster."""

    prefix: str

    @property
    def open(self) -> str:
        """The set of the jobs that are not over, which is the queue."""
        return f"{self.prefix}jobs-open"

    @property
    def traced(self) -> str:
        """The set of the jobs whose folders may hold files."""
        return f"{self.prefix}jobs-traced"

    def of(self, kind: str, key: JobKey) -> str:
        """A key of a job: `job`, its record, `job-lease`, `job-events` or `job-progress`."""
        return f"{self.prefix}{kind}:{key}"

    def index(self, owner: str) -> str:
        """The sorted set of an owner's jobs, by the time of submission."""
        return f"{self.prefix}jobs:{owner}"

    def job(self, record: bytes) -> JobKey:
        """The job whose record has this key."""
        owner, _, job_id = record.decode().removeprefix(f"{self.prefix}job:").rpartition("/")
        return JobKey(owner, job_id)

    def all_of(self, key: JobKey) -> list[str]:
        """The keys that change.lua uses."""
        kinds = ("job", "job-lease", "job-events", "job-progress")
        return [*(self.of(kind, key) for kind in kinds), self.open, self.traced]


class JobStore:
    """Records of train jobs, and the one script that changes them. Safe from any thread.

    Methods block for two times `answer_limit_s` at most. All raise StoreUnavailable and StoreFull.
    """

    def __init__(self, url: str, config: QueueConfig) -> None:
        prefix = key_prefix("training", is_cluster=is_cluster_url(url))
        self.config, self.names = config, JobNames(prefix)
        self._url, self._connecting = url, threading.Lock()
        self._connection: Connection | None = None
        common = (_SCRIPTS / "common.lua").read_text()
        self._texts = {
            name: common + (_SCRIPTS / f"{name}.lua").read_text()
            for name in ("submit", "change", "delete", "events")
        }
        self._scripts: dict[str, Any] = {}  # as redis-py registers them

    @property
    def connection(self) -> Connection:
        """The connection, made at its first use: a cluster is asked then where its slots are."""
        with self._connecting:
            if self._connection is None:
                made = _connect(self._url, self.config)
                self._scripts = {
                    name: made.register_script(text) for name, text in self._texts.items()
                }
                self._connection = made
            return self._connection

    def _run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        with named_errors():
            connection = self.connection
            reply: list[Any] = self._scripts[script](keys, args, connection)
        return reply

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
        keys = [self.names.of("job", key), self.names.index(key.owner), self.names.open]
        reply = self._run("submit", keys, [limit, key.id, now, *flat])
        _check_open_limit(reply, limit)

    def find(self, key: JobKey) -> TrainJob | None:
        """Read a job; None where there is none or its record has expired."""
        fields: dict[bytes, bytes] = self.call("HGETALL", self.names.of("job", key))
        if not fields:
            return None
        return read_record(key, {name.decode(): value.decode() for name, value in fields.items()})

    def change(
        self, key: JobKey, attempt: int | None, lease: str, rows: Mapping[JobState, dict[str, Any]]
    ) -> JobState:
        """Run change.lua, which explains the arguments, and return the new state.

        Raises Fenced, and RateLimited where a row opens a job again as `insert`.
        """
        keys = self.names.all_of(key)
        arguments = ["" if attempt is None else attempt, lease, json.dumps(rows)]
        reply = self._run("change", keys, arguments)
        _check_open_limit(reply, self.config.max_open_jobs)
        if reply[0] != b"OK":
            raise Fenced
        return JobState(reply[1].decode())

    def events(self, key: JobKey, after_id: str, most: int) -> list[tuple[str, dict[str, str]]]:
        """The events after an event, and their fields; of each of the two streams `most`."""
        keys = [self.names.of(kind, key) for kind in ("job-events", "job-progress")]
        others, progress = self._run("events", keys, [after_id, most])
        return [(event_id.decode(), _fields(flat)) for event_id, flat in [*others, *progress]]

    def delete(self, key: JobKey) -> bool:
        """Delete a job's record, events and lease; return whether there was one.

        Raises JobNotOver.
        """
        keys = [*self.names.all_of(key), self.names.index(key.owner)]
        reply = self._run("delete", keys, [key.id])
        if reply[0] == b"OPEN":
            raise JobNotOver(f"the train job {key.id} is not over; cancel it, and wait for its end")
        return bool(reply[0] == b"OK")


def _check_open_limit(reply: list[bytes], limit: int) -> None:
    if reply[0] == b"FULL":
        message = f"{limit} jobs are not over, the limit: cancel one, or wait until one has ended"
        raise RateLimited(message, FULL_RETRY_S)


def _fields(flat: list[bytes]) -> dict[str, str]:
    texts = [part.decode() for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


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


def _connect(url: str, config: QueueConfig) -> redis.Redis:
    limits: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": config.answer_limit_s,
        "socket_connect_timeout": config.answer_limit_s,
    }
    if not is_cluster_url(url):
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1), **limits)
    address = ClusterAddress.parse(url)
    user, password = address.login
    nodes = [ClusterNode(*place) for place in address.places]  # type: ignore[no-untyped-call]
    cluster = redis.RedisCluster(
        startup_nodes=nodes, username=user, password=password, ssl=address.is_tls, **limits
    )
    return cast("redis.Redis", cluster)  # it has the same commands


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
    except (redis.RedisError, RedisClusterException) as error:
        raise StoreUnavailable("the store of train jobs does not answer; try again") from error
