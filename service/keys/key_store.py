"""The records of keys in Redis: one hash, changed by comparing and setting."""

from collections.abc import Callable
from pathlib import Path

from service.errors import KeyNotFound, Validation
from service.keys.config import KeyConfig
from service.keys.key import Key
from service.sessions.config import SessionConfig
from service.sessions.store_client import open_client

HASH = "carousel:keys"

_SCRIPT = Path(__file__).parent / "scripts" / "replace.lua"


class KeyStore:
    """Reads and writes the records of keys. Raises StoreUnavailable, and StoreFull.

    Not thread-safe: one event loop only.
    """

    def __init__(self, redis_url: str, config: SessionConfig = SessionConfig()) -> None:  # noqa: B008 (frozen)
        # A full store takes the script too: a key must be revoked there as well.
        scripts = {"replace": f"#!lua flags=allow-oom\n{_SCRIPT.read_text()}"}
        self._client = open_client(redis_url, config, scripts)

    async def find(self, key_id: str) -> Key | None:
        """Return a key, or None where there is none."""
        found = await self._client.execute("HGET", HASH, key_id)
        return None if found is None else Key.from_json(found)

    async def count(self) -> int:
        """Return how many keys there are, with those that are revoked or have expired."""
        return int(await self._client.execute("HLEN", HASH))

    async def all(self) -> list[Key]:
        """Return every key, the oldest first."""
        found = await self._client.execute("HVALS", HASH)
        return sorted((Key.from_json(one) for one in found), key=lambda key: key.created_s)

    async def add(self, key: Key) -> None:
        """Store a new key. Raises Validation where there are too many."""
        limit = KeyConfig().max_keys
        if await self.count() >= limit:
            raise Validation(f"there are {limit} keys, revoked ones included, and may be no more")
        await self._replace(key.id, b"", key)

    async def change(self, key_id: str, change: Callable[[Key], Key]) -> Key:
        """Store what `change` makes of a key and return it. Raises KeyNotFound, or as `change`."""
        while True:
            found = await self._client.execute("HGET", HASH, key_id)
            if found is None:
                raise KeyNotFound(
                    f"there is no key with the id {key_id[:80]!r}; `carousel keys list` shows ids"
                )
            key = change(Key.from_json(found))
            if await self._replace(key_id, found, key):
                return key

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def _replace(self, key_id: str, old: bytes, new: Key) -> bool:
        (is_done,) = await self._client.call("replace", [HASH], [key_id, old, new.to_json()])
        return bool(is_done)


async def count_keys(redis_url: str) -> int:
    """Return how many keys a store has. Raises StoreUnavailable."""
    store = KeyStore(redis_url)
    try:
        return await store.count()
    finally:
        await store.close()
