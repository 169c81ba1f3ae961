"""What each owner has used, by day: counted in this process, and added up in the store."""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from service.errors import StoreFull, StoreUnavailable
from service.limits.config import LimitConfig
from service.sessions.config import SessionConfig
from service.sessions.key_names import KeyNames
from service.sessions.store_client import names_of, open_client

COUNTS = ("requests", "prompt_tokens", "generated_tokens", "train_jobs")

_ADD = """#!lua flags=allow-oom
-- Add counts of one day. KEYS: the day, the writer's latest batch. ARGV: seconds that the day is
-- kept, the batch, then field, n. A batch that is repeated after its reply was lost adds nothing
-- more: a writer sends one after the other, so it is the latest.
if redis.call('GET', KEYS[2]) == ARGV[2] then return {0} end
redis.call('SET', KEYS[2], ARGV[2], 'EX', 3600)
for i = 3, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return {1}
"""
_FIELDS_AT_ONCE = 1_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnerUsage:
    """The counts of one owner on one day, of UTC."""

    day: date
    owner: str
    counts: Counter[str]  # by name of COUNTS


class UsageLedger:
    """Counts the usage of owners. Not thread-safe: one event loop only.

    A process that is killed loses what it has counted since its last write.
    """

    def __init__(self, redis_url: str, config: LimitConfig) -> None:
        self._client, self._config = open_client(redis_url, SessionConfig(), {"add": _ADD}), config
        self._names, self._writer = names_of(redis_url), secrets.token_hex(8)
        self._counted: defaultdict[date, Counter[str]] = defaultdict(Counter)
        self._pending: list[tuple[date, str, list[str | int]]] = []  # batches on their way
        self._writing = asyncio.Lock()  # one after the other

    def add(self, owner: str, **counts: int) -> None:
        """Count what an owner has used."""
        today = self._counted[datetime.now(UTC).date()]
        for name, n in counts.items():
            if n:
                today[f"{name}:{owner}"] += n

    async def run(self) -> None:
        """Write the counts every few seconds until it is cancelled."""
        while True:
            await asyncio.sleep(self._config.usage_flush_s)
            with contextlib.suppress(StoreUnavailable, StoreFull):
                await self.flush()

    async def flush(self) -> None:
        """Write the counts. Raises StoreUnavailable, after which they are kept."""
        counted, self._counted = self._counted, defaultdict(Counter)
        for day, counts in counted.items():
            items = list(counts.items())
            for first in range(0, len(items), _FIELDS_AT_ONCE):
                flat = [part for pair in items[first : first + _FIELDS_AT_ONCE] for part in pair]
                self._pending.append((day, secrets.token_hex(8), flat))
        kept_s = 86_400 * self._config.usage_days
        async with self._writing:
            while self._pending:
                day, batch, flat = self._pending[0]
                key = _key(day, self._names)
                keys = [key, f"{key}:writer:{self._writer}"]
                await self._client.call("add", keys, [kept_s, batch, *flat])
                self._pending.pop(0)

    async def read(self, first: date, last: date, owner: str | None = None) -> list[OwnerUsage]:
        """Return the usage of each day and owner. Raises StoreUnavailable."""
        await self.flush()
        found: list[OwnerUsage] = []
        for n in range((last - first).days + 1):
            day = first + timedelta(n)
            flat: list[bytes] = await self._client.execute("HGETALL", _key(day, self._names))
            by_owner: defaultdict[str, Counter[str]] = defaultdict(Counter)
            for field, count in zip(flat[::2], flat[1::2], strict=True):
                name, _, whose = field.decode().partition(":")
                by_owner[whose][name] = int(count)
            found += [
                OwnerUsage(day, whose, counts)
                for whose, counts in sorted(by_owner.items())
                if owner is None or whose == owner
            ]
        return found

    async def close(self) -> None:
        """Write what is counted, as far as the store answers, and disconnect."""
        try:
            await self.flush()
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("counts of usage are lost: %s", error)
        await self._client.close()


def _key(day: date, names: KeyNames) -> str:
    return f"{names.prefix(f'usage-{day.isoformat()}')}usage:{day.isoformat()}"
