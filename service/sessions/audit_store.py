"""The audit trail in the store: a stream of records, of which the latest are kept."""

import re
from collections.abc import Mapping

from service.errors import Validation
from service.sessions.config import SessionConfig
from service.sessions.store_client import open_client

STREAM, MOST_RECORDS = "carousel:audit", 10_000

_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")


class AuditStore:
    """Appends and lists records. For one event loop. Raises StoreUnavailable and StoreFull."""

    def __init__(self, redis_url: str) -> None:
        self._client = open_client(redis_url, SessionConfig(), {})

    async def append(self, record: Mapping[str, str]) -> None:
        """Append a record; the oldest beyond about MOST_RECORDS are dropped."""
        fields = [part for pair in record.items() for part in pair]
        await self._client.execute("XADD", STREAM, "MAXLEN", "~", MOST_RECORDS, "*", *fields)

    async def older(self, before: str, n: int) -> list[tuple[str, dict[str, str]]]:
        """List at most `n` records that are older than one, or the newest. Raises Validation."""
        if before and not _ID.fullmatch(before):
            raise Validation(f"`before` is {before[:48]!r}, no id of an audit record", "before")
        if before.strip("0") == "-":  # the store has no range that ends before the least id
            return []
        newest = f"({before}" if before else "+"
        found = await self._client.execute("XREVRANGE", STREAM, newest, "-", "COUNT", n)
        return [(key.decode(), _fields(values)) for key, values in found]

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


def _fields(values: list[bytes]) -> dict[str, str]:
    texts = [value.decode() for value in values]
    return dict(zip(texts[::2], texts[1::2], strict=True))
