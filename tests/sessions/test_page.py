"""An owner's sessions, page by page: each once, whatever comes and goes meanwhile."""

import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from service.errors import Validation
from service.sessions.codec import Export
from service.sessions.config import SessionConfig
from service.sessions.page import Cursor
from service.sessions.redis_client import ScriptClient
from service.sessions.session import SessionKey
from service.sessions.signing import Signer
from service.sessions.store import Store
from service.sessions.store_replies import random_id
from tests.sessions.valkey import OwnValkey

DIGEST = "ab" * 32
CONTENT = Export("m@1", DIGEST, 1, 1, b"abc", b"")


@contextlib.asynccontextmanager
async def opened(store: OwnValkey) -> AsyncIterator[Store]:
    clients = [ScriptClient(store.url, SessionConfig()) for _ in range(2)]
    made = Store(*clients, Signer(b"x" * 32), "process", SessionConfig())
    yield made
    await made.close()


async def all_of(store: Store, owner: str, limit: int) -> list[str]:
    found, after = [], None
    while True:
        page = await store.page(owner, limit, after)
        assert len(page.sessions) <= limit
        found += [session.key.id for session in page.sessions]
        after = page.next
        if after is None:
            return found


async def test_pages_have_every_session_of_the_owner_once_the_newest_first(store):
    async with opened(store) as sessions:
        names = [f"s{i}" for i in range(25)]
        for name in names:
            await sessions.create(SessionKey("me", name), CONTENT, 100)
        await sessions.create(SessionKey("me/too", "other"), CONTENT, 100)
        await sessions.create(SessionKey("", "nobody"), CONTENT, 100)
        times = dict(store.client.zrange("carousel:sessions:me", 0, -1, withscores=True))
        newest = sorted(names, key=lambda name: (times[name.encode()], name), reverse=True)
        for limit in (1, 7, 24, 25, 100):
            assert await all_of(sessions, "me", limit) == newest
        assert await all_of(sessions, "me/too", 10) == ["other"]
        assert await all_of(sessions, "", 10) == ["nobody"]
        assert await all_of(sessions, "nobody", 10) == []


async def test_a_cursor_holds_its_place_among_sessions_of_one_time_and_deleted_ones(store):
    async with opened(store) as sessions:
        parent = SessionKey("me", "parent")
        await sessions.create(parent, CONTENT, 100)
        names = ["a", "a-b", "a.b", "a0", "aa", "ab", "b", "b_"]
        await sessions.fork(parent, [SessionKey("me", name) for name in names], None, "same")
        for name in names:  # as forks of one moment are
            store.client.zadd("carousel:sessions:me", {name: 5e12})
        everything = [*sorted(names, reverse=True), "parent"]
        for cut in range(1, len(everything)):
            page = await sessions.page("me", cut, None)
            assert [one.key.id for one in page.sessions] == everything[:cut]
            rest = await sessions.page("me", 100, page.next)
            assert [one.key.id for one in rest.sessions] == everything[cut:]
        page = await sessions.page("me", 3, None)
        await sessions.delete(SessionKey("me", everything[2]))
        rest = await sessions.page("me", 100, page.next)
        assert [one.key.id for one in rest.sessions] == everything[3:]
        assert store.client.zcard("carousel:sessions:me") == len(everything) - 1


async def test_expired_sessions_are_not_listed_and_leave_the_index(store):
    async with opened(store) as sessions:
        for i in range(300):
            await sessions.create(SessionKey("me", f"s{i}"), CONTENT, 100)
        for i in range(0, 300, 2):
            store.client.delete(f"carousel:session:me/s{i}")
        left = await all_of(sessions, "me", 20)
        assert sorted(left) == sorted(f"s{i}" for i in range(1, 300, 2))
        assert store.client.zcard("carousel:sessions:me") == 150


async def test_an_index_that_nobody_reads_stays_small(store):
    alive, rng = 20, random.Random(1)
    async with opened(store) as sessions:
        names: list[str] = []
        for i in range(600):
            await sessions.create(SessionKey("me", f"s{i}"), CONTENT, 100)
            names.append(f"s{i}")
            if len(names) > alive:
                gone = names.pop(rng.randrange(len(names)))
                store.client.delete(f"carousel:session:me/{gone}")
        assert store.client.zcard("carousel:sessions:me") < 4 * alive


async def test_the_index_expires_with_the_last_session_and_ends_with_the_last_deletion(store):
    async with opened(store) as sessions:
        for name, ttl_s in (("short", 60), ("long", 9_000), ("other", 600)):
            await sessions.create(SessionKey("me", name), CONTENT, ttl_s)
        assert 8_990 <= store.client.ttl("carousel:sessions:me") <= 9_000
        for name in ("short", "long", "other"):
            await sessions.delete(SessionKey("me", name))
        assert store.client.keys("carousel:session*") == []


async def test_the_index_lives_as_long_as_a_session_that_is_read(store):
    async with opened(store) as sessions:
        key = SessionKey("me", "used")
        await sessions.create(key, CONTENT, 9_000)
        store.client.expire("carousel:session:me/used", 4_000)
        store.client.expire("carousel:sessions:me", 4_000)
        await sessions.read(key, 0, 1)
        assert store.client.ttl("carousel:session:me/used") > 8_990
        assert store.client.ttl("carousel:sessions:me") > 8_990


async def test_a_session_of_an_earlier_version_is_listed_from_its_next_turn_on(store):
    async with opened(store) as sessions:
        key = SessionKey("me", "old")
        session = await sessions.create(key, CONTENT, 100)
        store.client.delete("carousel:sessions:me")
        assert await all_of(sessions, "me", 10) == []
        await sessions.begin(
            key,
            fencing_token=random_id(),
            kind="append",
            incarnation=session.incarnation,
            prompt=b"d",
            record="",
        )
        assert await all_of(sessions, "me", 10) == ["old"]
        assert store.client.zscore("carousel:sessions:me", "old") == session.created_s * 1000
        assert 0 < store.client.ttl("carousel:sessions:me") <= 100


@pytest.mark.parametrize("text", ["", "5", "x-a", "5-", "5-.a", "5-a b", f"{10**16}-a"])
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(Validation, match="give the `next` of another page"):
        Cursor.parse(text)
    assert str(Cursor.parse("5-a-b")) == "5-a-b"
