"""Reserve, then settle: the capacity of a request is taken before it begins, and given back."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import RateLimited, StoreFull, StoreUnavailable, Validation
from service.limits.config import LimitConfig
from service.limits.limits import Limits, TokenBucket
from service.sessions.config import SessionConfig
from service.sessions.redis_connection import Value  # noqa: TC001 (as every import here)
from service.sessions.store_client import names_of, open_client

_SCRIPTS = Path(__file__).parent / "scripts"
_REQUESTS = "requests_per_minute"
_KINDS = ("limits", "limit-leases", "limit-reserved")  # of keys

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BucketLevel:
    """What is left of a limit over time."""

    bucket: TokenBucket
    remaining: float

    @property
    def reset_s(self) -> float:
        """Seconds until all of it is there again."""
        missing = self.bucket.capacity - self.remaining
        return max(0.0, missing * self.bucket.period_ms / self.bucket.capacity / 1e3)


@dataclass(frozen=True, slots=True, eq=False)
class LimitLease:
    """The capacity that a request has reserved. It is settled once, at the request's end."""

    id: str
    subject: str
    tokens: int
    levels: tuple[BucketLevel, ...]


class Limiter:
    """The limits of every key, over all servers of a store. Not thread-safe: one event loop only.

    While the store does not answer nothing is limited, and `unlimited` counts those requests.
    """

    def __init__(self, redis_url: str, defaults: Limits, config: LimitConfig) -> None:
        """`defaults` are the limits of a key that says nothing else, and of who has none."""
        scripts = {
            path.stem: f"#!lua flags=allow-oom\n{path.read_text()}"  # a full store limits, too
            for path in sorted(_SCRIPTS.glob("*.lua"))
        }
        timeout_s = config.call_timeout_s
        store = SessionConfig(call_timeout_s=timeout_s, answer_timeout_s=timeout_s)
        self._client, self._names = open_client(redis_url, store, scripts), names_of(redis_url)
        self.defaults, self._config = defaults, config
        self._leases: dict[str, LimitLease] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._failed_at_s = float("-inf")  # monotonic
        self.unlimited = 0

    async def reserve(self, subject: str, limits: Limits, tokens: int) -> LimitLease | None:
        """Reserve a request, and `tokens` that it may feed and generate.

        Returns None while the store does not answer. Raises RateLimited, and Validation if the
        request can never be admitted.
        """
        buckets = limits.buckets
        for bucket in buckets:
            if bucket.name != _REQUESTS and tokens > bucket.capacity:
                raise Validation(
                    f"the request may use {tokens} tokens, prompt and limit of new ones together; "
                    f"this key's {bucket.name} is {bucket.capacity}: ask for fewer"
                )
        if time.monotonic() - self._failed_at_s < self._config.retry_s:
            self.unlimited += 1
            return None
        lease_id = secrets.token_hex(8)
        costs: list[Value] = []
        for bucket in buckets:
            is_request = bucket.name == _REQUESTS
            cost = 1 if is_request else tokens
            costs += [bucket.name, bucket.capacity, bucket.period_ms, cost, int(not is_request)]
        lease_ms = int(1e3 * self._config.lease_s)
        head: list[Value] = [lease_id, lease_ms, limits.concurrent_requests or 0]
        try:
            reply = await self._client.call("reserve", self._keys(subject), [*head, *costs])
        except (StoreUnavailable, StoreFull) as error:
            self._failed_at_s = time.monotonic()
            self.unlimited += 1
            _log.warning("limits are not checked: %s", error)
            return None
        is_admitted, refused, wait_ms, *left = reply
        levels = tuple(
            BucketLevel(bucket, float(level)) for bucket, level in zip(buckets, left, strict=True)
        )
        if not is_admitted:
            raise self._refusal(refused.decode(), int(wait_ms), limits, levels)
        lease = LimitLease(lease_id, subject, tokens, levels)
        self._leases[lease_id] = lease
        return lease

    def settle(self, lease: LimitLease, used_tokens: int) -> None:
        """End a lease in the background, and give back the tokens that were not used."""
        if self._leases.pop(lease.id, None) is None:
            return
        task = asyncio.create_task(self._settle(lease, used_tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def run(self) -> None:
        """Renew the leases of running requests until it is cancelled."""
        while True:
            await asyncio.sleep(self._config.lease_s / 3)
            by_subject: dict[str, list[str]] = defaultdict(list)
            for lease in self._leases.values():
                by_subject[lease.subject].append(lease.id)
            for subject, ids in by_subject.items():
                with contextlib.suppress(StoreUnavailable, StoreFull):
                    keys = self._keys(subject)[1:2]
                    await self._client.call("renew", keys, [int(1e3 * self._config.lease_s), *ids])

    async def close(self) -> None:
        """Wait for what is being settled, and disconnect."""
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self._client.close()

    async def _settle(self, lease: LimitLease, used_tokens: int) -> None:
        amounts: list[str | int] = []
        for level in lease.levels:
            if level.bucket.name != _REQUESTS:
                amounts += [level.bucket.name, lease.tokens - used_tokens]
        # without the store the lease ends by itself, which gives all of it back
        with contextlib.suppress(StoreUnavailable, StoreFull):
            await self._client.call("settle", self._keys(lease.subject), [lease.id, *amounts])

    def _keys(self, subject: str) -> tuple[str, str, str]:
        """Return the keys of a subject, which are together on a cluster."""
        prefix = self._names.prefix(f"limits-{subject}")
        buckets, leases, reserved = (f"{prefix}{kind}:{{{subject}}}" for kind in _KINDS)
        return buckets, leases, reserved

    def _refusal(
        self, name: str, wait_ms: int, limits: Limits, levels: tuple[BucketLevel, ...]
    ) -> RateLimited:
        limit = limits.members()[name]
        wait_s = wait_ms / 1e3 if wait_ms else self._config.busy_retry_s
        helps = f"retry in {wait_s:.3g} s" if wait_ms else "wait until one of them has ended"
        return RateLimited(
            f"the limit {name} of this key is {limit}: {helps}", wait_s, headers_of(levels)
        )


def headers_of(levels: tuple[BucketLevel, ...]) -> Mapping[str, str]:
    """Return what the levels are in the headers of a reply, OpenAI's and the IETF draft's."""
    found: dict[str, str] = {}
    policies, states = [], []
    for level in levels:
        bucket, left = level.bucket, max(0, int(level.remaining))
        name = bucket.name.replace("_per_", "-per-")
        policies.append(f'"{name}";q={bucket.capacity};w={bucket.period_ms // 1000}')
        states.append(f'"{name}";r={left};t={-int(-level.reset_s // 1)}')
        if bucket.name in {_REQUESTS, "tokens_per_minute"}:
            kind = "requests" if bucket.name == _REQUESTS else "tokens"
            found[f"x-ratelimit-limit-{kind}"] = str(bucket.capacity)
            found[f"x-ratelimit-remaining-{kind}"] = str(left)
            found[f"x-ratelimit-reset-{kind}"] = f"{level.reset_s:.3f}s"
    if policies:
        found["RateLimit-Policy"], found["RateLimit"] = ", ".join(policies), ", ".join(states)
    return found
