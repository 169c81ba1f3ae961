"""What the server knows of keys without the store."""

import asyncio

import pytest

from service.errors import StoreUnavailable
from service.keys.cache import AnswerCache
from service.keys.config import KeyConfig

CONFIG = KeyConfig(refresh_s=2.0, cache_s=4.0, retry_s=1.0, max_hits=3, max_misses=2)


class Store:
    """A store that counts questions, and can be away; with the clock of the cache."""

    def __init__(self, **values: str) -> None:
        self.values, self.asked, self.is_away, self.now_s = values, [], False, 100.0

    async def ask(self, name: str) -> str | None:
        self.asked.append(name)
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("away")
        return self.values.get(name)

    def cache(self, grace_s: float = 60.0) -> AnswerCache[str]:
        return AnswerCache(self.ask, CONFIG, grace_s=grace_s, clock_s=lambda: self.now_s)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_answer_is_used_and_asked_for_again_in_time():
    store = Store(a="1")
    cache = store.cache()
    assert [await cache.get("a") for _ in range(9)] == ["1"] * 9
    assert store.asked == ["a"]
    store.values["a"] = "2"
    store.now_s += 3.0
    assert await cache.get("a") == "1", "it is asked for while the old answer is used"
    await settled()
    assert await cache.get("a") == "2"
    store.values.clear()
    store.now_s += 4.0
    assert await cache.get("a") is None, "an answer of four seconds is not used"


async def test_requests_at_once_ask_once():
    store = Store(a="1")
    cache = store.cache()
    assert await asyncio.gather(*(cache.get("a") for _ in range(50))) == ["1"] * 50
    assert store.asked == ["a"]


async def test_a_request_that_is_cancelled_does_not_end_the_question_of_others():
    store = Store(a="1")
    cache = store.cache()
    first, second = (asyncio.create_task(cache.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "1"


async def test_misses_are_kept_within_bounds_and_do_not_displace_hits():
    store = Store(a="1")
    cache = store.cache()
    await cache.get("a")
    for name in ("x", "y", "z", "z"):
        assert await cache.get(name) is None
    assert store.asked == ["a", "x", "y", "z"]
    await cache.get("a")
    assert store.asked[-1] == "z", "the hit is still known"
    await cache.get("x")
    assert store.asked[-1] == "x", "the oldest miss is not"


async def test_while_the_store_is_away_known_values_go_on_for_the_grace():
    store = Store(a="1")
    cache = store.cache(grace_s=60.0)
    await cache.get("a")
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await cache.get("unknown")
    asked = len(store.asked)
    for _ in range(59):
        store.now_s += 1.0
        assert await cache.get("a") == "1"
    assert len(store.asked) - asked <= 60, "and a store that is away is asked once a second"
    store.now_s += 2.0
    with pytest.raises(StoreUnavailable):
        await cache.get("a")
    store.is_away = False
    assert await cache.get("a") == "1"


async def test_a_value_that_was_not_there_does_not_go_on():
    store = Store()
    cache = store.cache()
    assert await cache.get("a") is None
    store.is_away = True
    store.now_s += 10.0
    with pytest.raises(StoreUnavailable):
        await cache.get("a")
